"""Compute Elo ratings of models from the votes of blind comparisons.

The method is that of A. Elo, The Rating of Chessplayers (1978). A player rated a is expected to win
against one rated b with probability 1 / (1 + 10^((b - a) / 400)). Each game, here a vote, changes
both ratings by K times the difference between the actual and the expected score. Chatbot Arena
(arXiv 2306.05685) ranks language models in the same way. K is 32, as for chess players with few
games, since one person casts few votes.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fine_tuning import state

K = 32.0
START = 1000.0


@dataclass(frozen=True)
class Rated:
    """A model's rating after a vote."""

    tag: str
    rating: float
    votes: int  # number of votes so far
    created: str  # time of the vote: ISO 8601, UTC


def vote(one: str, other: str, score: float, path: Path | None = None) -> None:
    """Store a vote on the answers of two models, named by their tags.

    `score` is 1 if the answer of `one` was preferred, 0 if that of `other` was, 0.5 for a tie.
    `path`: the database, by default data/state.db.
    """
    with state.connect(path) as connection:
        connection.execute(
            "INSERT INTO votes (one, other, score, created) VALUES (?, ?, ?, ?)",
            (one, other, score, datetime.now(UTC).isoformat(timespec="seconds")),
        )


def ratings(path: Path | None = None) -> dict[str, tuple[float, int]]:
    """Return by tag the current rating and the number of votes of every model with votes."""
    return {rated.tag: (rated.rating, rated.votes) for rated in history(path)}


def history(path: Path | None = None) -> list[Rated]:
    """Return two entries for each vote, in the order of the votes: both models' new ratings."""
    now: dict[str, tuple[float, int]] = {}
    told: list[Rated] = []
    with state.connect(path) as connection:
        for row in connection.execute("SELECT one, other, score, created FROM votes ORDER BY id"):
            (a, games_a), (b, games_b) = (now.get(row[side], (START, 0)) for side in ("one", "other"))
            gain = K * (row["score"] - expected(a, b))
            now[row["one"]], now[row["other"]] = (a + gain, games_a + 1), (b - gain, games_b + 1)
            told += [Rated(tag, *now[tag], row["created"]) for tag in (row["one"], row["other"])]
    return told


def expected(a: float, b: float) -> float:
    """Return the expected score (0 to 1) of a player rated `a` against one rated `b`."""
    return float(1 / (1 + 10 ** ((b - a) / 400)))
