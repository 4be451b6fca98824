"""What was decided on each turn of a log when it was last cleaned: a table in data/state.db.

It holds nothing that was said: only where private details stand, why a turn is not learned, and
hashes, by which it is known whether the turn's texts and the rules are still the same. A row goes
when its turn goes from the log's index. Losing the table loses nothing: what is not there is
decided anew.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from fine_tuning import state

_MOST = 500  # values in one statement


class KeptDecisions:
    """Decisions on the turns of the log at `path`, each with a hash of what it was made from."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def get(self, ids: Collection[str]) -> dict[str, tuple[bytes, str]]:
        """Return (hash, decision) by turn, of those that are known."""
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
        """Keep decisions, given as (turn, hash, decision), in place of earlier ones; not of a turn
        that is no longer there.
        """
        with state.connect() as database:
            database.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes is decided anew
            with state.transaction(database):
                database.executemany(
                    "INSERT OR REPLACE INTO decisions (key, made_from, decision) SELECT key, ?2, ?3 FROM log_turns"
                    " WHERE log = (SELECT id FROM logs WHERE path = ?4) AND id = ?1",
                    ((*each, self._path) for each in decisions),
                )
