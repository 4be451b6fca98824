"""Keep the index of a log up to date: tables in data/state.db with each turn's position, state and text.

Only what was appended since the last time is read. The tables are rebuilt if the log is not the file
that they describe (replaced, shortened, or changed in the middle). Any number of processes may do
this at once. The queries on the tables are in log/index.py.
"""

import json
import time
import uuid
import zlib
from collections.abc import Callable, Collection, Sequence
from sqlite3 import Connection, Row
from typing import Any, BinaryIO, TypeVar

from fine_tuning import state
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.log import chat_labels
from fine_tuning.data_collection.log.batches import EVENT, STATE, TURN, Batch, Parsed, batches, state_of
from fine_tuning.data_collection.log.file import LogFile, Stamp
from fine_tuning.data_collection.log.lines import EVENTS, apply, decode
from fine_tuning.data_collection.without_collections import without_collections
from fine_tuning.errors import Busy

Range = tuple[int, int]  # start and length, in bytes

_TAIL = 4096  # bytes before the end whose checksum shows whether the file is still the one that was read
_PATIENCE = 30.0  # seconds for which a question is asked again if the log is replaced each time
MOST = 500  # values in one statement

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


def _take_in(database: Connection, log: Row, content: BinaryIO, stamp: Stamp) -> None:
    """Add the lines that were appended to the log since the last time to the tables."""
    entry = _Entry(database, log)
    with without_collections():
        for batch in batches(content, log["end"]):
            entry.add(batch)
    entry.settle(content)
    database.execute(
        "UPDATE logs SET size = ?, modified = ?, changes = ?, damaged = damaged + ?, torn = ?, turns = turns + ? "
        "WHERE id = ?",
        (stamp.size, stamp.mtime, entry.change, entry.damaged, entry.torn, entry.turns, log["id"]),
    )
    _remember(database, log, content, stamp, entry.end)


class _Entry:
    """Adds new lines of the log to the tables."""

    def __init__(self, database: Connection, log: Row) -> None:
        self.database, self.log, self.change = database, log["id"], log["changes"] + 1
        self.damaged = self.turns = 0
        self.torn, self.end = False, log["end"]
        self.touched: set[str] = set()  # turns with new events

    def add(self, batch: Batch) -> None:
        """Add the turns and events of a batch.

        A turn with the id of an earlier one is left out, and its line counts as damaged.
        """
        turns = self._numbered("log_turns", batch.turns)
        rows = [(key, self.log, self.change, *turn.values) for key, turn in turns.items()]
        entered = self._insert("log_turns", ("key", "log", "changed", *TURN), rows, "OR IGNORE")
        if entered < len(turns):
            among = self.database.execute("SELECT key FROM log_turns WHERE key >= ?", (min(turns),))
            turns = {key: turns[key] for (key,) in among}
        events = self._numbered("log_events", batch.events)
        rows = [(key, self.log, *event.values) for key, event in events.items()]
        self._insert("log_events", ("key", "log", *EVENT), rows)
        texts = {-key: event.text for key, event in events.items() if event.text}
        texts |= {key: turn.text for key, turn in turns.items()}
        self._insert("log_texts", ("rowid", "text"), sorted(texts.items()))  # FTS5 is fastest in this order
        self.turns += entered
        self.damaged += batch.damaged + len(batch.turns) - entered
        self.torn, self.end = batch.torn, batch.end
        self.touched.update(event.values[EVENT.index("turn")] for event in batch.events)

    def _numbered(self, table: str, parsed: Sequence[Parsed]) -> dict[int, Parsed]:
        """Give each new row the next free key; return the rows by key."""
        return dict(enumerate(parsed, number(self.database, f"SELECT ifnull(max(key), 0) + 1 FROM {table}")))

    def _insert(
        self, table: str, columns: Sequence[str], rows: Sequence[tuple[object, ...]], conflict: str = ""
    ) -> int:
        """Insert rows, and return how many were inserted. `conflict`: "OR IGNORE" leaves out those that are there."""
        places = ", ".join("?" * len(columns))
        insert = f"INSERT {conflict} INTO {table} ({', '.join(columns)}) VALUES ({places})"
        return self.database.executemany(insert, rows).rowcount if rows else 0

    def settle(self, content: BinaryIO) -> None:
        """Apply the new events (ratings, edits, exclusions, deletions) to the turns that they are about.

        `content` is the open log, from which these turns are read.
        """
        log = {"id": self.log}
        new = self.database.execute(  # turns that come after their events, on lines that were repaired
            "SELECT DISTINCT turn FROM log_events WHERE log = ? AND turn IN (SELECT id FROM log_turns WHERE log = ? "
            "AND changed = ?)",
            (self.log, self.log, self.change),
        )
        touched = self.touched | {row["turn"] for row in new}
        events = _events_of(self.database, log, touched)
        for row in among(self.database, "log_turns", log, "id", touched):
            later = events[row["id"]]
            if any(event["kind"] == "delete" for event in later):
                self._set_aside(row)
                continue
            now = (*state_of(_read_turn(content, row, later)), self.change, row["key"])
            self.database.execute(
                f"UPDATE log_turns SET {', '.join(f'{name} = ?' for name in STATE)}, changed = ? WHERE key = ?", now
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


def turns_at(database: Connection, keys: Collection[int]) -> dict[int, Row]:
    """Return the rows of `log_turns` with these keys, by key."""
    # without a condition on `log`, by which SQLite would read all rows of the log if there are many keys
    query = "SELECT * FROM log_turns WHERE key IN (SELECT value FROM json_each(?))"
    return {row["key"]: row for row in database.execute(query, (json.dumps(list(keys)),))}


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
