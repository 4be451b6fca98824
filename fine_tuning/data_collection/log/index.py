"""Answer queries about a log from its index: tables in data/state.db that follow it (log/follower.py).

The index contains nothing that is not in the log, so it can be deleted at any time without loss.
With it, the time that a person waits does not grow with the log. Any number of processes may use
and update the index at once.
"""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from sqlite3 import Connection, Row
from typing import Any, TypeVar

from fine_tuning.conversation import Turn
from fine_tuning.data_collection.log.batches import fold
from fine_tuning.data_collection.log.file import LogFile, Stamp
from fine_tuning.data_collection.log.follower import LEFT, MOST, LogFollower, Range, among, number, rows_of, turns_at
from fine_tuning.data_collection.log.lines import EVENTS
from fine_tuning.errors import TurnNotFound

_GRAM = 3  # letters of a gram, the unit of the full-text table

_OF_TURNS = ", ".join(f"'{kind}'" for kind in sorted(EVENTS - {"delete"}))  # kinds of events but deletions, for SQL

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Mark:
    """A point in the history of the index, with which `changed_since` finds what changed after it."""

    epoch: str  # changes when the index is rebuilt
    changes: int


@dataclass(frozen=True)
class Session:
    """A conversation as it is shown in lists. `turns` counts excluded turns, too."""

    id: str
    turns: int
    question: str  # the first
    begun: str  # times of its first and its last turn; "" if unknown
    last: str
    last_turn: str  # its id


def update_index(path: bytes) -> bytes:
    """Update the index of the log at `path`, for `AllCores`. Return nothing."""
    LogIndex(LogFile(Path(os.fsdecode(path)))).mark()
    return b""


class LogIndex:
    """The index of one log. Each method first reads what was appended to the log.

    All methods raise DataError if the log cannot be read, and ByoaiError if state.db cannot.
    """

    def __init__(self, file: LogFile) -> None:
        self._follower = LogFollower(file)

    def ask(self, question: Callable[[Connection, Row], _Found]) -> _Found:
        """Return the result of `question`, a function of the connection and the log's row in the table `logs`.

        The tables are brought up to date with the log first.
        """
        return self._follower.ask(question)

    def read(self, database: Connection, log: Row, rows: Sequence[Row]) -> list[Turn]:
        """Return the turns of these rows of `log_turns` in their current state, for the function given to `ask`."""
        return self._follower.read(database, log, rows)

    # What the index knows

    def mark(self) -> Mark:
        """Return the current point in the history of the index, for `changed_since`."""
        return self.ask(lambda database, log: Mark(log["epoch"], log["changes"]))

    def count(self) -> int:
        """Return the number of turns that are not excluded."""
        return self.counts()[0]

    def counts(self) -> tuple[int, int]:
        """Return (number of turns that are not excluded, number of all turns)."""
        excluded = "SELECT count(*) FROM log_turns WHERE log = ? AND excluded"
        return self.ask(
            lambda database, log: (int(log["turns"]) - number(database, excluded, log["id"]), int(log["turns"]))
        )

    def count_whole(self) -> int:
        """Return the number of turns that are neither excluded nor partial.

        A partial turn has an answer that was stopped, cut or is only context, and was not approved.
        """

        def whole(database: Connection, log: Row) -> int:
            # two queries, since SQLite uses no index for "excluded OR partial"
            count = "SELECT count(*) FROM log_turns WHERE log = ? AND"
            excluded = number(database, f"{count} excluded", log["id"])
            partial = number(database, f"{count} partial AND NOT excluded", log["id"])
            return int(log["turns"]) - excluded - partial

        return self.ask(whole)

    def is_sound(self) -> bool:
        """Return whether every line of the log is a record."""
        return self.ask(_is_sound)

    def there(self, ids: Collection[str]) -> set[str]:
        """Return the ids in `ids` that belong to turns of the log."""
        return self.ask(lambda database, log: {row["id"] for row in among(database, "log_turns", log, "id", ids)})

    def session_by_turn(self, ids: Collection[str]) -> dict[str, str]:
        """Return the session of each of `ids` that is a turn of the log, by the turn's id, in the log's order."""
        return self.ask(
            lambda database, log: {row["id"]: row["session"] for row in among(database, "log_turns", log, "id", ids)}
        )

    def known(self, ids: Collection[str]) -> set[str]:
        """Return the ids in `ids` that belong to turns of the log, or to turns that were deleted from it."""

        def known(database: Connection, log: Row) -> set[str]:
            deleted = {
                row["turn"] for row in among(database, "log_events", log, "turn", ids) if row["kind"] == "delete"
            }
            return deleted | {row["id"] for row in among(database, "log_turns", log, "id", ids)}

        return self.ask(known)

    def imports(self) -> list[tuple[str, int, str]]:
        """Return (id, number of turns, id of the first turn) of each import in the log, in the log's order."""
        query = (
            "SELECT imported, count(*), min(key) AS first FROM log_turns WHERE log = ? AND imported IS NOT NULL"
            " GROUP BY imported ORDER BY first"
        )

        def listed(database: Connection, log: Row) -> list[tuple[str, int, str]]:
            found = database.execute(query, (log["id"],)).fetchall()
            firsts = turns_at(database, [row["first"] for row in found])
            return [(row["imported"], row[1], firsts[row["first"]]["id"]) for row in found]

        return self.ask(listed)

    def sessions_of_import(self, id: str) -> list[str]:
        """Return the ids of the sessions that contain turns of an import."""
        # the unary + keeps SQLite from using the index on sessions
        query = "SELECT DISTINCT +session FROM log_turns WHERE log = ? AND imported = ?"
        return self.ask(lambda database, log: [row[0] for row in database.execute(query, (log["id"], id))])

    def lines_of_import(self, id: str) -> tuple[int, list[Range]]:
        """Return the number of an import's turns, and the positions of their lines and of the lines of their events.

        Deletions are not among the events.
        """
        turns = "SELECT id FROM log_turns WHERE log = ? AND imported = ?"
        query = (
            "SELECT start, length FROM log_turns WHERE log = ? AND imported = ?"
            f" UNION SELECT start, length FROM log_events WHERE log = ? AND kind IN ({_OF_TURNS}) AND turn IN "
            f"({turns}) ORDER BY start"
        )

        def lines(database: Connection, log: Row) -> tuple[int, list[Range]]:
            count = number(database, f"SELECT count(*) FROM ({turns})", log["id"], id)
            found = database.execute(query, (log["id"], id, log["id"], log["id"], id))
            return count, [(row[0], row[1]) for row in found]

        return self.ask(lines)

    def has(self, turn_id: str) -> bool | None:
        """Return whether the log has this turn.

        Return None if a line of the log is damaged: the turn may be on it, so the caller should first set
        damaged lines aside.
        """
        return self.ask(
            lambda database, log: (
                bool(rows_of(database, "log_turns", log, "id = ?", turn_id)) if _is_sound(database, log) else None
            )
        )

    def ids_of(self, session: str) -> set[str]:
        """Return the ids of a session's turns."""
        return self.ask(
            lambda database, log: {row["id"] for row in rows_of(database, "log_turns", log, "session = ?", session)}
        )

    def turns(self, ids: Collection[str]) -> list[Turn]:
        """Return the turns with these ids in their current state, in the log's order. Unknown ids are skipped."""
        return self.ask(lambda database, log: self.read(database, log, among(database, "log_turns", log, "id", ids)))

    def turns_of(self, session: str, limit: int = -1, after: str | None = None) -> list[Turn]:
        """Return the first `limit` (-1: all) turns of a session in their current state.

        `after`: the id of a turn; only turns after it are returned. Raises TurnNotFound if the log does not
        have it.
        """

        def found(database: Connection, log: Row) -> list[Turn]:
            place = _place(database, log, after) if after is not None else 0
            query = "SELECT * FROM log_turns WHERE log = ? AND session = ? AND key > ? ORDER BY key LIMIT ?"
            return self.read(database, log, database.execute(query, (log["id"], session, place, limit)).fetchall())

        return self.ask(found)

    def sessions(self, limit: int, before: str | None = None, *, loose: bool = False) -> list[Session]:
        """Return up to `limit` sessions, ordered by their newest turn, the newest first.

        `before`: the id of a turn; only sessions whose newest turn is older are returned, for the next page
        of a list. `loose`: only sessions that are neither pinned nor in a folder. Raises TurnNotFound if
        the log does not have the turn `before`.
        """

        def listed(database: Connection, log: Row) -> list[Session]:
            place = _place(database, log, before) if before is not None else (1 << 63) - 1
            return self._sessions(
                database, log, database.execute(LOOSE if loose else SESSIONS, (log["id"], place, limit)).fetchall()
            )

        return self.ask(listed)

    def sessions_of(self, ids: Collection[str], limit: int = -1) -> list[Session]:
        """Return the newest `limit` (-1: all) of these sessions, newest first. Unknown ids are skipped."""
        wanted = list(ids)

        def listed(database: Connection, log: Row) -> list[Session]:
            found: list[Row] = []
            for first in range(0, len(wanted), MOST):
                part = wanted[first : first + MOST]
                found += database.execute(
                    "SELECT session, max(key) AS last, count(*) AS turns, min(key) AS first FROM log_turns"
                    f" WHERE log = ? AND session IN ({','.join('?' * len(part))}) GROUP BY session",
                    (log["id"], *part),
                )
            found.sort(key=lambda row: -row["last"])
            return self._sessions(database, log, found[:limit] if limit >= 0 else found)

        return self.ask(listed)

    def search(self, text: str, limit: int = 50) -> list[Turn]:
        """Return at most `limit` turns that contain every word of `text`, ignoring case, newest first."""

        def found(database: Connection, log: Row) -> list[Turn]:
            ids = matching(database, log, text, limit)
            turns = {turn.id: turn for turn in self.read(database, log, among(database, "log_turns", log, "id", ids))}
            return [turns[id] for id in ids if id in turns]

        return self.ask(found)

    def perhaps(self, text: str) -> set[str]:
        """Return the ids of all turns that may contain `text`, as it is or escaped for HTML or CSV.

        Some of them may not contain it, so the caller has to compare exactly (`redaction.pattern`).
        """
        forms = {fold(form) for form in (text, escape(text), text.replace('"', '""'))}
        return self.ask(lambda database, log: {id for form in forms for id in _matching(database, log, [form], None)})

    def records(self, ids: Collection[str]) -> dict[str, list[Turn | dict[str, Any]]]:
        """Return the log's records of these turns, by the turn's id: the turn as it was said, then its events."""

        def read(database: Connection, log: Row) -> dict[str, list[Turn | dict[str, Any]]]:
            found: dict[str, list[Turn | dict[str, Any]]] = {
                row["id"]: [] for row in among(database, "log_turns", log, "id", ids)
            }
            for table, column in (("log_turns", "id"), ("log_events", "turn")):
                lines = among(database, table, log, column, list(found))
                for row, record in zip(lines, self._follower.records(lines, column), strict=True):
                    found[row[column]].append(record)
            return found

        return self.ask(read)

    def keys(self) -> dict[str, int]:
        """Return the key of each turn's row in `log_turns`, by the turn's id."""
        query = "SELECT id, key FROM log_turns WHERE +log = ?"
        return self.ask(lambda database, log: {row["id"]: row["key"] for row in database.execute(query, (log["id"],))})

    def deleted_ids(self) -> set[str]:
        """Return the ids of all turns that were ever deleted."""
        return self.ask(
            lambda database, log: {row["turn"] for row in rows_of(database, "log_events", log, "kind = 'delete'")}
        )

    def changed_since(self, mark: Mark | None) -> list[tuple[str, str]]:
        """Return (id, state hash) of the turns that were logged, rated, edited or included since `mark`.

        Turns that are excluded or partial (`count_whole`) are left out. Without a mark, or if the index was
        rebuilt since then, all others are returned.
        """

        def changed(database: Connection, log: Row) -> list[tuple[str, str]]:
            since = mark.changes if mark and mark.epoch == log["epoch"] else -1
            return [
                (row["id"], row["state_hash"])
                for row in rows_of(database, "log_turns", log, "changed > ? AND NOT excluded AND NOT partial", since)
            ]

        return self.ask(changed)

    def stats(self) -> dict[str, Any]:
        """Return counts over all turns, excluded ones included; lengths are means in characters."""
        return self.ask(_stats)

    def lines_of(self, ids: Collection[str]) -> list[Range]:
        """Return the positions of the lines of these turns and their events, and of events whose turn is missing."""

        def lines(database: Connection, log: Row) -> list[Range]:
            found = among(database, "log_turns", log, "id", ids)
            found += [row for row in among(database, "log_events", log, "turn", ids) if row["kind"] != "delete"]
            turns = f"SELECT id FROM log_turns WHERE log = {log['id']}"
            found += rows_of(database, "log_events", log, f"kind IN ({_OF_TURNS}, '{LEFT}') AND turn NOT IN ({turns})")
            return sorted({(row["start"], row["length"]) for row in found})

        return self.ask(lines)

    def _sessions(self, database: Connection, log: Row, found: Sequence[Row]) -> list[Session]:
        """Return the sessions of these rows, whose columns are session, first and last (keys of turns), and turns."""
        rows = turns_at(database, {row[end] for row in found for end in ("first", "last")})
        asked = self.read(database, log, [rows[row["first"]] for row in found])
        return [
            Session(
                id=row["session"],
                turns=row["turns"],
                question=turn.user_message,
                begun=rows[row["first"]]["time"],
                last=rows[row["last"]]["time"],
                last_turn=rows[row["last"]]["id"],
            )
            for row, turn in zip(found, asked, strict=True)
        ]

    def removed(self, ranges: Sequence[Range], before: Stamp) -> None:
        """Update the index after the lines at `ranges` were cut out of the log; see `LogFollower.removed`."""
        self._follower.removed(ranges, before)


# Asking the tables

# Scans the turns from the newest on, without the index on `log` (+log), and selects those that are
# the last of their session.
SESSIONS = (
    "SELECT session, key AS last, (SELECT count(*) FROM log_turns WHERE log = turn.log AND session = "
    "turn.session) AS turns,"
    " (SELECT min(key) FROM log_turns WHERE log = turn.log AND session = turn.session) AS first"
    " FROM log_turns AS turn WHERE +log = ? AND key < ? AND NOT EXISTS"
    " (SELECT 1 FROM log_turns AS later WHERE later.log = turn.log AND later.session = turn.session AND "
    "later.key > turn.key)"
    " ORDER BY key DESC LIMIT ?"
)
LOOSE = SESSIONS.replace(
    " ORDER", " AND session NOT IN (SELECT session FROM chat_labels WHERE pinned OR folder <> '') ORDER"
)


def _place(database: Connection, log: Row, turn: str) -> int:
    """Return the key of the row of a turn. Raises TurnNotFound if the log has no such turn."""
    row = database.execute("SELECT key FROM log_turns WHERE log = ? AND id = ?", (log["id"], turn)).fetchone()
    if row is None:
        raise TurnNotFound(
            f"the turn {turn[:100]!r}, after which this page of the list begins, was deleted: begin with the first page"
        )
    return int(row["key"])


def matching(database: Connection, log: Row, text: str, limit: int) -> list[str]:
    """Return the ids of at most `limit` turns that contain every word of `text`, newest first."""
    words = fold(text).split()
    return _matching(database, log, words, limit) if words else []


def _matching(database: Connection, log: Row, words: Sequence[str], limit: int | None) -> list[str]:
    """Return the ids of the turns that have a line in the log (turn or event) with all `words`, newest first.

    With a limit, the search in each table ends after that many turns, so it is fast for frequent words,
    however long the log is.
    """
    found: list[tuple[int, str]] = []
    for table, column in (("log_turns", "id"), ("log_events", "turn")):
        turns: set[str] = set()
        for start, id in _lines_with(database, log, words, table, column):
            turns.add(id)
            found.append((start, id))
            if len(turns) == limit:
                break
    return list(dict.fromkeys(id for _, id in sorted(found, reverse=True)))[:limit]


def _lines_with(
    database: Connection, log: Row, words: Sequence[str], table: str, column: str
) -> Iterator[tuple[int, str]]:
    """Yield (position in the log, turn id) of the rows of `table` whose text contains all words, newest first."""
    grams = dict.fromkeys(gram for word in words for gram in _grams(word))
    conditions, values = ["instr(text, ?)"] * len(words), list(words)
    if grams:
        conditions.insert(0, "log_texts MATCH ?")
        values.insert(0, " AND ".join('"' + gram.replace('"', '""') + '"' for gram in grams))
    side, order = ("> 0", "DESC") if table == "log_turns" else ("< 0", "ASC")  # keys of events are negative there
    # CROSS JOIN makes SQLite go from the texts to the lines, so that rows come in order and on demand.
    rows = database.execute(
        f"SELECT start, {column} FROM log_texts CROSS JOIN {table} ON key = abs(log_texts.rowid)"
        f" WHERE {' AND '.join(conditions)} AND log_texts.rowid {side} AND log = ? ORDER BY log_texts.rowid {order}",
        (*values, log["id"]),
    )
    for row in rows:
        yield row[0], row[1]


def _grams(word: str) -> list[str]:
    """Return the fewest grams (pieces of three letters) that cover the word; none if the word is shorter.

    More grams would only cost time, since each text that they find is compared with the word itself.
    """
    last = len(word) - _GRAM
    return [word[at : at + _GRAM] for at in (*range(0, last, _GRAM), last) if at >= 0]


def _is_sound(database: Connection, log: Row) -> bool:
    return not (log["damaged"] or log["torn"])


def _stats(database: Connection, log: Row) -> dict[str, Any]:
    row = database.execute(
        "SELECT count(*) AS total_turns, count(DISTINCT session) AS total_conversations, ifnull(sum(excluded), 0) AS "
        "excluded,"
        " ifnull(sum(edited), 0) AS edited, ifnull(sum(rating IS 'up'), 0) AS rated_up, ifnull(sum(rating IS "
        "'down'), 0) AS rated_down,"
        " total(asked) / max(count(*), 1) AS average_user_length, total(answered) / max(count(*), 1) AS "
        "average_bot_length,"
        " min(nullif(time, '')) AS first, max(time) AS last FROM log_turns WHERE log = ?",
        (log["id"],),
    ).fetchone()
    models = (
        "SELECT model, count(*) AS turns FROM log_turns WHERE log = ? AND model IS NOT NULL GROUP BY "
        "model ORDER BY min(start)"
    )
    return {**dict(row), "models": {each["model"]: each["turns"] for each in database.execute(models, (log["id"],))}}
