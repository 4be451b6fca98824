"""Who is preferred: votes of blind comparisons, and the Elo ratings that follow from them.

A. Elo, The Rating of Chessplayers (1978): of ratings a and b, the first is expected to win with 1 / (1 + 10^((b - a) / 400)), and each
vote moves both by K times what was unexpected. Language models were first ranked so by Chatbot Arena (arXiv 2306.05685); K = 32, as for
chess players with few games, lets the ten votes that one person casts already tell something.
"""

from datetime import UTC, datetime
from pathlib import Path

from fine_tuning import state

K = 32.0
START = 1000.0


def vote(one: str, other: str, score: float, path: Path | None = None) -> None:
    """Enter a vote between two tags: `score` is 1 if `one` was preferred, 0 if `other` was, 0.5 for a tie. `path`: of the database."""
    with state.connect(path) as connection:
        connection.execute(
            "INSERT INTO votes (one, other, score, created) VALUES (?, ?, ?, ?)",
            (one, other, score, datetime.now(UTC).isoformat(timespec="seconds")),
        )


def ratings(path: Path | None = None) -> dict[str, tuple[float, int]]:
    """The rating of every tag that was voted on, and from how many votes."""
    found: dict[str, tuple[float, int]] = {}
    with state.connect(path) as connection:
        for row in connection.execute("SELECT one, other, score FROM votes ORDER BY id"):
            (a, games_a), (b, games_b) = (found.get(row[side], (START, 0)) for side in ("one", "other"))
            gain = K * (row["score"] - expected(a, b))
            found[row["one"]], found[row["other"]] = (a + gain, games_a + 1), (b - gain, games_b + 1)
    return found


def expected(a: float, b: float) -> float:
    """The score that a player rated `a` is expected to reach against one rated `b`."""
    return float(1 / (1 + 10 ** ((b - a) / 400)))
