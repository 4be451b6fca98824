"""Keep the index of a log up to date: tables in data/state.db with each turn's position, state and text.

Only what was appended since the last time is read. The tables are rebuilt if the log is not the file
that they describe (replaced, shortened, or changed in the middle). Any number of processes may do
this at once. The queries on the tables are in log/index.py.
"""

import time
import unicodedata
import uuid
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from sqlite3 import Connection, Row
from typing import Any, BinaryIO, TypeVar

from fine_tuning import state
from fine_tuning.conversation import Turn, approved, only_context
from fine_tuning.data_collection.log import chat_labels
from fine_tuning.data_collection.log.file import LogFile, Stamp
from fine_tuning.data_collection.log.lines import EVENTS, apply, decode, texts_of
from fine_tuning.errors import Busy

Range = tuple[int, int]  # start and length, in bytes

_PIECE = 8 << 20  # bytes of the log that are read at once
_TAIL = 4096  # bytes before the end whose checksum shows whether the file is still the one that was read
_PATIENCE = 30.0  # seconds for which a question is asked again if the log is replaced each time
MOST = 500  # values in one statement

CONTEXT = 2  # in the column `partial`: the answer is only context; 1: it was stopped or cut; 0: neither, or approved
LEFT = "(turn)"  # kind, in the table of events, of a deleted turn's line that is still in the log

_Found = TypeVar("_Found")


class _Stale(Exception):
    """Raised if the log is not the file that the tables describe: they are wrong, or it was replaced just now."""


class LogFollower:
    """Keeps the index of one log up to date.

    Its methods raise DataError if the log cannot be read, and ByoaiError if state.db cannot.
    """

    def __init__(self, file: LogFile) -> None:
        self._file = file

    def ask(self, question: Callable[[Connection, Row], _Found]) -> _Found:
        """Bring the tables up to date with the log, and return the result of `question` on them.

        `question` is a function of the connection to the database and the log's row in the table `logs`.
        """
        with state.connect() as database:
            # rows lost in a power cut are read from the log again
            database.execute("PRAGMA synchronous = NORMAL")
            anew, deadline = False, time.monotonic() + _PATIENCE
            while True:
                log = None
                try:
                    log = self._follow(database, anew)
                    return question(database, log)
                except _Stale:  # the log was replaced since the tables were read, or else they are wrong
                    anew = log is None or self._is_current(log)
                if time.monotonic() > deadline:
                    raise Busy(f"{self._file.path} keeps changing: try again")

    def _row(self, database: Connection) -> Any:
        return database.execute("SELECT * FROM logs WHERE path = ?", (str(self._file.path),)).fetchone()

    def _follow(self, database: Connection, anew: bool = False) -> Row:
        log: Row | None = self._row(database)
        if log is not None and not anew and self._is_current(log):
            return log
        with state.transaction(database):
            log = before = self._row(database)  # again: another process may have been faster
            if log is None or anew or not self._is_current(log):
                with self._file.opened() as (content, stamp):  # later changes are found by the next `ask`
                    if log is None or anew or not _goes_on(content, stamp, log):
                        log = self._start_anew(database, log)
                    _take_in(database, log, content, stamp)
        if before is not None and log["epoch"] != before["epoch"]:  # the tables described another file
            state.leave_no_trace(database)
        followed: Row = self._row(database)
        return followed

    def _is_current(self, log: Row) -> bool:
        return (log["inode"], log["size"], log["modified"]) == tuple(self._file.stamp())

    def _start_anew(self, database: Connection, log: Row | None) -> Row:
        """Remove everything that the tables contain about the log, with its texts; return its new row in `logs`."""
        if log is not None:
            if number(database, "SELECT count(*) FROM logs") == 1:  # much faster than row by row
                database.execute("DROP TABLE log_texts")
                database.execute(state.LOG_TEXTS)
            else:
                for table in ("log_turns", "log_events"):
                    _drop(database, table, rows_of(database, table, log, "1"))
            database.execute("DELETE FROM logs WHERE id = ?", (log["id"],))  # and its lines, by the foreign keys
        database.execute("INSERT INTO logs (path, epoch) VALUES (?, ?)", (str(self._file.path), uuid.uuid4().hex))
        new: Row = self._row(database)
        return new

    def read(self, database: Connection, log: Row, rows: Sequence[Row]) -> list[Turn]:
        """Return the turns of these rows of `log_turns`, read from the log, with later events applied."""
        if not rows:
            return []
        events = _events_of(database, log, [row["id"] for row in rows])
        with self._file.opened() as (content, _):
            return [_read_turn(content, row, events.get(row["id"], [])) for row in rows]

    def records(self, rows: Sequence[Row], column: str) -> list[Turn | dict[str, Any]]:
        """Return the records on the lines of these rows of `log_turns` or `log_events`, as they were written.

        `column` holds the turn's id: "id" or "turn".
        """
        with self._file.opened() as (content, _):
            return [_record_at(content, row, row[column]) for row in rows]

    def removed(self, ranges: Sequence[Range], before: Stamp) -> None:
        """Update the tables after the lines at `ranges` were cut out of the log, and leave no trace of their text.

        The caller holds the log's lock. `before` is the log's stamp before the cut: if another process has
        already rebuilt the tables from the new file, they are left unchanged. Lines that were appended in
        the same rewrite are read by the next `ask`.
        """
        with state.connect() as database:
            with state.transaction(database):
                log = self._row(database)
                if log is not None and log["inode"] == before.inode:
                    self._cut(database, log, ranges)
                chat_labels.drop_orphans(database)
            state.leave_no_trace(database)  # of what another process removed, too

    def _cut(self, database: Connection, log: Row, ranges: Sequence[Range]) -> None:
        for table in ("log_turns", "log_events"):
            _cut(database, table, log, ranges)
        end = max(log["end"] - sum(length + 1 for _, length in ranges), 0)
        database.execute("UPDATE logs SET changes = changes + 1, size = -1 WHERE id = ?", (log["id"],))
        with self._file.opened() as (content, stamp):
            _remember(database, log, content, stamp, min(end, stamp.size))


def fold(text: str) -> str:
    """Return `text` in the form that is searched: NFC, case folded, with single spaces.

    NUL is replaced, since FTS5 would take it for the end of the text.
    """
    return " ".join(unicodedata.normalize("NFC", text).casefold().replace("\0", "\ufffd").split())


# Reading


def _goes_on(content: BinaryIO, now: Stamp, log: Row) -> bool:
    """Return whether the log is still the file that was read before, perhaps with more lines appended."""
    if now.inode != log["inode"] or now.size < log["end"] or (now.size == log["size"] and now.mtime != log["modified"]):
        return False
    return _tail(content, log["end"]) == int(log["tail"])


def _tail(content: BinaryIO, end: int) -> int:
    content.seek(max(end - _TAIL, 0))
    return zlib.crc32(content.read(min(end, _TAIL)))


def _remember(database: Connection, log: Row, content: BinaryIO, stamp: Stamp, end: int) -> None:
    """Store the offset `end` up to which the log was read, and the values that identify the file.

    These are the file's inode, and a checksum of the bytes before the offset.
    """
    database.execute(
        "UPDATE logs SET end = ?, inode = ?, tail = ? WHERE id = ?", (end, stamp.inode, _tail(content, end), log["id"])
    )


def _lines(content: BinaryIO, start: int) -> Iterator[tuple[int, bytes, bool]]:
    """Yield (start, line, whether it has a line end) for the lines from the offset `start` on."""
    content.seek(start)
    rest = b""
    while piece := content.read(_PIECE):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield start, line, True
            start += len(line) + 1
    if rest:
        yield start, rest, False


def _take_in(database: Connection, log: Row, content: BinaryIO, stamp: Stamp) -> None:
    """Add the lines that were appended to the log since the last time to the tables."""
    entry = _Entry(database, log)
    end = log["end"]
    for start, line, ended in _lines(content, end):
        if line.strip() and not entry.take(start, line, ended):
            break  # it is being written, or its writer was killed
        end = start + len(line) + ended
    entry.settle(content)
    database.execute(
        "UPDATE logs SET size = ?, modified = ?, changes = ?, damaged = damaged + ?, torn = ?, turns = turns + ? "
        "WHERE id = ?",
        (stamp.size, stamp.mtime, entry.batch, entry.damaged, entry.torn, entry.turns, log["id"]),
    )
    _remember(database, log, content, stamp, end)


class _Entry:
    """Adds new lines of the log to the tables."""

    def __init__(self, database: Connection, log: Row) -> None:
        self.database, self.log, self.batch = database, log["id"], log["changes"] + 1
        self.damaged = self.turns = 0
        self.torn = False
        self.touched: set[str] = set()  # turns with new events
        self.next = {
            table: number(database, f"SELECT ifnull(max(key), 0) + 1 FROM {table}")
            for table in ("log_turns", "log_events")
        }

    def take(self, start: int, line: bytes, ended: bool) -> bool:
        """Add the turn or event on one line of the log to the tables.

        Return False for an incomplete last line, which is not added. A complete line that is not a
        record is only counted as damaged. `start`: the line's offset in the log; `ended`: whether
        the line has a line end.
        """
        try:
            record = decode(line)
        except ValueError:
            self.torn = not ended
            self.damaged += ended
            return ended
        if isinstance(record, Turn):
            self.damaged += not self._turn(record, start, len(line))
        else:
            self._event(record, start, len(line))
        return True

    def _turn(self, turn: Turn, start: int, length: int) -> bool:
        """Add a turn. Return False, and add nothing, if an earlier turn has the same id."""
        key, facts = self.next["log_turns"], turn.metadata
        model = str(facts["model"]) if "model" in facts else None
        place = (key, self.log, turn.id, turn.session_id, start, length)
        imported = str(facts["import"]) if "import" in facts else None
        *now, partial = _state(turn)
        row = (*place, turn.timestamp, model, len(turn.user_message), self.batch, *now, imported, partial)
        entered = self.database.execute(f"INSERT OR IGNORE INTO log_turns VALUES ({', '.join('?' * len(row))})", row)
        if entered.rowcount:
            self.next["log_turns"] += 1
            self.turns += 1
            self.database.execute("INSERT INTO log_texts (rowid, text) VALUES (?, ?)", (key, _said(turn)))
        return bool(entered.rowcount)

    def _event(self, event: dict[str, Any], start: int, length: int) -> None:
        key, kind, turn = self.next["log_events"], event["event"], event["turn_id"]
        self.next["log_events"] += 1
        self.touched.add(turn)
        self.database.execute(
            "INSERT INTO log_events VALUES (?, ?, ?, ?, ?, ?)", (key, self.log, turn, kind, start, length)
        )
        if said := _said(event):
            self.database.execute("INSERT INTO log_texts (rowid, text) VALUES (?, ?)", (-key, said))

    def settle(self, content: BinaryIO) -> None:
        """Apply the new events (ratings, edits, exclusions, deletions) to the turns that they are about.

        `content` is the open log, from which these turns are read.
        """
        log = {"id": self.log}
        new = self.database.execute(  # turns that come after their events, on lines that were repaired
            "SELECT DISTINCT turn FROM log_events WHERE log = ? AND turn IN (SELECT id FROM log_turns WHERE log = ? "
            "AND changed = ?)",
            (self.log, self.log, self.batch),
        )
        touched = self.touched | {row["turn"] for row in new}
        events = _events_of(self.database, log, touched)
        for row in among(self.database, "log_turns", log, "id", touched):
            later = events[row["id"]]
            if any(event["kind"] == "delete" for event in later):
                self._set_aside(row)
                continue
            now = (*_state(_read_turn(content, row, later)), self.batch, row["key"])
            self.database.execute(
                f"UPDATE log_turns SET {', '.join(f'{name} = ?' for name in _STATE)}, changed = ? WHERE key = ?", now
            )

    def _set_aside(self, row: Row) -> None:
        """Remove a deleted turn that has returned with an old copy of the log, but store its line's position.

        The next deletion then cuts the line out of the log.
        """
        _drop(self.database, "log_turns", [row])
        self.turns -= 1
        key = number(self.database, "SELECT ifnull(max(key), 0) + 1 FROM log_events")
        values = (key, self.log, row["id"], LEFT, row["start"], row["length"])
        self.database.execute("INSERT INTO log_events VALUES (?, ?, ?, ?, ?, ?)", values)


# columns of log_turns that later events change
_STATE = ("answered", "rating", "excluded", "edited", "state_hash", "partial")


def _state(turn: Turn) -> tuple[int, str | None, bool, bool, str, int]:
    facts = turn.metadata
    rating = facts.get("rating")
    return (
        len(turn.bot_response),
        str(rating) if rating else None,
        bool(facts.get("excluded")),
        "original_response" in facts,
        turn.state_hash,
        CONTEXT if only_context(turn) else int(bool(facts.get("incomplete")) and not approved(turn)),
    )


def _said(record: Turn | dict[str, object]) -> str:
    return fold("\n".join(texts_of(record)))


def _read_turn(content: BinaryIO, row: Row, events: Sequence[Row]) -> Turn:
    turn = _record_at(content, row, row["id"])
    if not isinstance(turn, Turn):
        raise _Stale
    for event in events:
        record = _record_at(content, event, turn.id)
        if isinstance(record, Turn):
            raise _Stale
        if record["event"] in EVENTS:
            turn = apply(turn, record)
    return turn


def _record_at(content: BinaryIO, row: Row, turn: str) -> Turn | dict[str, Any]:
    """Return the record on the line of a row of `log_turns` or `log_events`.

    Raises _Stale if it is not about the turn with the id `turn`.
    """
    content.seek(row["start"])
    try:
        record = decode(content.read(row["length"]))
    except ValueError as error:
        raise _Stale from error
    if (record.id if isinstance(record, Turn) else record["turn_id"]) != turn:
        raise _Stale
    return record


# The tables


def number(database: Connection, query: str, *values: object) -> int:
    return int(database.execute(query, values).fetchone()[0])


def rows_of(database: Connection, table: str, log: Row, condition: str, *values: object) -> list[Row]:
    return database.execute(
        f"SELECT * FROM {table} WHERE log = ? AND {condition} ORDER BY key", (log["id"], *values)
    ).fetchall()


def among(database: Connection, table: str, log: Any, column: str, values: Collection[Any]) -> list[Row]:
    """Return the rows of a table whose `column` has one of the `values`, in the log's order."""
    wanted, found = list(values), []
    for first in range(0, len(wanted), MOST):
        part = wanted[first : first + MOST]
        found += rows_of(database, table, log, f"{column} IN ({','.join('?' * len(part))})", *part)
    return sorted(found, key=lambda row: row["key"])


def _events_of(database: Connection, log: object, turns: Collection[str]) -> dict[str, list[Row]]:
    """Return the rows of the events about these turns, by the turn's id."""
    found: dict[str, list[Row]] = {}
    for row in among(database, "log_events", log, "turn", turns):
        found.setdefault(row["turn"], []).append(row)
    return found


def _drop(database: Connection, table: str, rows: Sequence[Row]) -> None:
    """Remove rows of `log_turns` or `log_events`, and their texts in the full-text table."""
    sign = 1 if table == "log_turns" else -1
    database.executemany("DELETE FROM log_texts WHERE rowid = ?", [(sign * row["key"],) for row in rows])
    database.executemany(f"DELETE FROM {table} WHERE key = ?", [(row["key"],) for row in rows])


def _cut(database: Connection, table: str, log: Row, ranges: Sequence[Range]) -> None:
    """Remove the rows of lines that were cut out of the log, and correct the positions of the lines after them."""
    cuts, gone = [], 0
    for start, length in ranges:
        gone += length + 1  # with the line end
        cuts.append((start, gone))
    database.execute("CREATE TEMP TABLE IF NOT EXISTS cuts (start INTEGER PRIMARY KEY, gone INTEGER NOT NULL)")
    database.execute("DELETE FROM cuts")
    database.executemany("INSERT INTO cuts VALUES (?, ?)", cuts)
    # only the keys: there may be very many rows
    query = f"SELECT key FROM {table} WHERE log = ? AND start IN (SELECT start FROM cuts)"
    rows = database.execute(query, (log["id"],)).fetchall()
    _drop(database, table, rows)
    if table == "log_turns":
        database.execute("UPDATE logs SET turns = turns - ? WHERE id = ?", (len(rows), log["id"]))
    database.execute(
        f"UPDATE {table} SET start = start - (SELECT gone FROM cuts WHERE cuts.start < {table}.start ORDER BY "
        "cuts.start DESC LIMIT 1)"
        " WHERE log = ? AND start > (SELECT min(start) FROM cuts)",
        (log["id"],),
    )
