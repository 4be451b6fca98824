"""Store the decision that the last cleaning made on each turn of a log, in a table of data/state.db.

The table contains nothing that was said, only positions of private details, reasons why a turn is
not learned, and hashes that show whether the turn's texts and the rules are unchanged. A row is
removed with its turn in the log's index. Without the table, all decisions are made again.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from fine_tuning import state

_MOST = 500  # values in one statement


class KeptDecisions:
    """The stored decisions on the turns of the log at `path`.

    Each decision is stored with a hash of the texts and rules on which it is based.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def get(self, ids: Collection[str]) -> dict[str, tuple[bytes, str]]:
        """Return (hash, decision) of each turn that has a stored decision, by the turn's id."""
        wanted = list(ids)
        found: dict[str, tuple[bytes, str]] = {}
        with state.connect() as database:
            database.row_factory = None
            for first in range(0, len(wanted), _MOST):
                part = wanted[first : first + _MOST]
                rows = database.execute(
                    "SELECT id, made_from, decision FROM log_turns JOIN decisions USING (key)"
                    f" WHERE log = (SELECT id FROM logs WHERE path = ?) AND id IN ({','.join('?' * len(part))})",
                    (self._path, *part),
                )
                found |= {id: (made_from, decision) for id, made_from, decision in rows}
        return found

    def put(self, decisions: Iterable[tuple[str, bytes, str]]) -> None:
        """Store decisions, given as (turn id, hash, decision), in place of earlier ones.

        Turns that are no longer in the log are skipped.
        """
        with state.connect() as database:
            database.execute("PRAGMA synchronous = NORMAL")  # decisions lost in a power cut are made again
            with state.transaction(database):
                database.executemany(
                    "INSERT OR REPLACE INTO decisions (key, made_from, decision) SELECT key, ?2, ?3 FROM log_turns"
                    " WHERE log = (SELECT id FROM logs WHERE path = ?4) AND id = ?1",
                    ((*each, self._path) for each in decisions),
                )
