"""Where each turn lies in the log, how it stands now, and what was said in it: tables in data/state.db that follow the log's bytes.

The log is the truth. The index reads what was appended since it last looked, is built anew when the log is not what it remembers
(another file, shorter, changed in the middle), and can be deleted at any time: nothing is lost with it. With it, what a person waits for
does not depend on how much was ever said. Any number of processes may use and update it at once.
"""

import unicodedata
import uuid
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from sqlite3 import Connection, Row
from typing import Any, BinaryIO, TypeVar

from fine_tuning import state
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.log_file import LogFile, Stamp
from fine_tuning.data_collection.log_lines import EVENTS, apply, decode, texts_of
from fine_tuning.errors import TurnNotFound

Range = tuple[int, int]  # start and length, in bytes

_PIECE = 8 << 20  # bytes of the log that are read at once
_TAIL = 4096  # bytes before the end whose checksum tells whether the file is still the one that was read
_GRAM = 3  # letters that the full-text table looks up
_WINDOW = 4000  # rows that a search looks at first
_MOST = 500  # values in one statement

_LEFT = "(turn)"  # kind of a deleted turn's line, among the events
_OF_TURNS = ", ".join(f"'{kind}'" for kind in sorted(EVENTS - {"delete"}))  # for SQL

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Mark:
    """A point in the history of the index: what changed after it can be asked for."""

    epoch: str  # another one after the index was built anew
    changes: int


@dataclass(frozen=True)
class Session:
    """A conversation as a list of them shows it. Excluded turns count, too."""

    id: str
    turns: int
    question: str  # the first
    begun: str  # when its first and its last turn were said; "" where that is unknown
    last: str
    last_turn: str  # its id


class _Stale(Exception):
    """The log is not what the index remembers."""


class LogIndex:
    """The index of one log. Each method first takes in what was appended; raises DataError as the log does, ByoaiError as state.db."""

    def __init__(self, file: LogFile) -> None:
        self._file = file

    # What it knows

    def mark(self) -> Mark:
        """Return the point after which changes can be asked for."""
        return self._ask(lambda database, log: Mark(log["epoch"], log["changes"]))

    def count(self) -> int:
        """Return how many turns are not excluded."""
        excluded = "SELECT count(*) FROM log_turns WHERE log = ? AND excluded"
        return self._ask(lambda database, log: int(log["turns"]) - _number(database, excluded, log["id"]))

    def is_sound(self) -> bool:
        """Return whether all lines are records."""
        return self._ask(_is_sound)

    def there(self, ids: Collection[str]) -> set[str]:
        """Return those of the ids of which the log has a turn."""
        return self._ask(lambda database, log: {row["id"] for row in _among(database, "log_turns", log, "id", ids)})

    def known(self, ids: Collection[str]) -> set[str]:
        """Return those of the ids of which the log has a turn, or had one that was deleted."""

        def known(database: Connection, log: Row) -> set[str]:
            deleted = {row["turn"] for row in _among(database, "log_events", log, "turn", ids) if row["kind"] == "delete"}
            return deleted | {row["id"] for row in _among(database, "log_turns", log, "id", ids)}

        return self._ask(known)

    def imports(self) -> list[tuple[str, int, str]]:
        """Return (id, turns, id of the first turn) of each import that is in the log, in the log's order."""
        query = (
            "SELECT imported, count(*), min(key) AS first FROM log_turns WHERE log = ? AND imported IS NOT NULL"
            " GROUP BY imported ORDER BY first"
        )

        def listed(database: Connection, log: Row) -> list[tuple[str, int, str]]:
            found = database.execute(query, (log["id"],)).fetchall()
            ids = {row["key"]: row["id"] for row in _among(database, "log_turns", log, "key", [row["first"] for row in found])}
            return [(row["imported"], row[1], ids[row["first"]]) for row in found]

        return self._ask(listed)

    def lines_of_import(self, id: str) -> tuple[int, list[Range]]:
        """Return how many turns an import has, and where their lines lie, with those of their events, but not of deletions."""
        turns = "SELECT id FROM log_turns WHERE log = ? AND imported = ?"
        query = (
            "SELECT start, length FROM log_turns WHERE log = ? AND imported = ?"
            f" UNION SELECT start, length FROM log_events WHERE log = ? AND kind IN ({_OF_TURNS}) AND turn IN ({turns}) ORDER BY start"
        )

        def lines(database: Connection, log: Row) -> tuple[int, list[Range]]:
            count = _number(database, f"SELECT count(*) FROM ({turns})", log["id"], id)
            found = database.execute(query, (log["id"], id, log["id"], log["id"], id))
            return count, [(row[0], row[1]) for row in found]

        return self._ask(lines)

    def has(self, turn_id: str) -> bool | None:
        """Return whether the log has this turn; None if a line is no record, and should first be set aside."""
        return self._ask(
            lambda database, log: bool(_rows(database, "log_turns", log, "id = ?", turn_id)) if _is_sound(database, log) else None
        )

    def ids_of(self, session: str) -> set[str]:
        """Return the ids of a session's turns."""
        return self._ask(lambda database, log: {row["id"] for row in _rows(database, "log_turns", log, "session = ?", session)})

    def turns(self, ids: Collection[str]) -> list[Turn]:
        """Return these turns as they stand now, in the log's order; those that are not there are left out."""
        return self._ask(lambda database, log: self._read(database, log, _among(database, "log_turns", log, "id", ids)))

    def turns_of(self, session: str, limit: int = -1, after: str | None = None) -> list[Turn]:
        """Return a session's turns as they stand now: the first `limit` (-1: all), or those after the turn of the id `after`.

        TurnNotFound if that one is gone.
        """

        def found(database: Connection, log: Row) -> list[Turn]:
            place = _place(database, log, after) if after is not None else 0
            query = "SELECT * FROM log_turns WHERE log = ? AND session = ? AND key > ? ORDER BY key LIMIT ?"
            return self._read(database, log, database.execute(query, (log["id"], session, place, limit)).fetchall())

        return self._ask(found)

    def sessions(self, limit: int, before: str | None = None) -> list[Session]:
        """Return the sessions in which something was said last: the newest, or those before the turn of the id `before`, newest first.

        TurnNotFound if that one is gone.
        """

        def listed(database: Connection, log: Row) -> list[Session]:
            place = _place(database, log, before) if before is not None else (1 << 63) - 1
            found = database.execute(SESSIONS, (log["id"], place, limit)).fetchall()
            rows = {row["key"]: row for row in _among(database, "log_turns", log, "key", {row[end] for row in found for end in _ENDS})}
            asked = dict(
                zip([row["first"] for row in found], self._read(database, log, [rows[row["first"]] for row in found]), strict=True)
            )
            return [
                Session(
                    id=row["session"],
                    turns=row["turns"],
                    question=asked[row["first"]].user_message,
                    begun=rows[row["first"]]["time"],
                    last=rows[row["last"]]["time"],
                    last_turn=rows[row["last"]]["id"],
                )
                for row in found
            ]

        return self._ask(listed)

    def search(self, text: str, limit: int = 50) -> list[Turn]:
        """Return the newest turns in which every word of `text` was said, whatever the case, newest first."""
        words = fold(text).split()

        def found(database: Connection, log: Row) -> list[Turn]:
            ids = _matching(database, log, words, limit) if words else []
            turns = {turn.id: turn for turn in self._read(database, log, _among(database, "log_turns", log, "id", ids))}
            return [turns[id] for id in ids if id in turns]

        return self._ask(found)

    def perhaps(self, text: str) -> set[str]:
        """Return the ids of all turns in which `text` may have been said, as `blackout.pattern` writes it, and a few more."""
        forms = {fold(form) for form in (text, escape(text), text.replace('"', '""'))}
        return self._ask(lambda database, log: {id for form in forms for id in _matching(database, log, [form], None)})

    def records(self, ids: Collection[str]) -> dict[str, list[Turn | dict[str, Any]]]:
        """Return, by turn, what the log holds of these turns: as they were said, and the events in their order."""

        def read(database: Connection, log: Row) -> dict[str, list[Turn | dict[str, Any]]]:
            found: dict[str, list[Turn | dict[str, Any]]] = {row["id"]: [] for row in _among(database, "log_turns", log, "id", ids)}
            with self._file.opened() as (content, _):
                for table, column in (("log_turns", "id"), ("log_events", "turn")):
                    for row in _among(database, table, log, column, list(found)):
                        found[row[column]].append(_record_at(content, row))
            return found

        return self._ask(read)

    def deleted_ids(self) -> set[str]:
        """Return the ids of all turns that were ever deleted."""
        return self._ask(lambda database, log: {row["turn"] for row in _rows(database, "log_events", log, "kind = 'delete'")})

    def changed_since(self, mark: Mark | None) -> list[tuple[str, str]]:
        """Return (id, state hash) of the turns that were said, rated, edited or taken in again since `mark`; excluded ones are left out.

        Without a mark, or with one from before the index was built anew: of all turns.
        """

        def changed(database: Connection, log: Row) -> list[tuple[str, str]]:
            since = mark.changes if mark and mark.epoch == log["epoch"] else -1
            return [(row["id"], row["state_hash"]) for row in _rows(database, "log_turns", log, "changed > ? AND NOT excluded", since)]

        return self._ask(changed)

    def stats(self) -> dict[str, Any]:
        """Return counts over all turns, excluded ones included; lengths are mean characters."""
        return self._ask(_stats)

    def lines_of(self, ids: Collection[str]) -> list[Range]:
        """Return where the lines of these turns lie, their events' too, and those of events whose turn is not there."""

        def lines(database: Connection, log: Row) -> list[Range]:
            found = _among(database, "log_turns", log, "id", ids)
            found += [row for row in _among(database, "log_events", log, "turn", ids) if row["kind"] != "delete"]
            turns = f"SELECT id FROM log_turns WHERE log = {log['id']}"
            found += _rows(database, "log_events", log, f"kind IN ({_OF_TURNS}, '{_LEFT}') AND turn NOT IN ({turns})")
            return sorted({(row["start"], row["length"]) for row in found})

        return self._ask(lines)

    def removed(self, ranges: Sequence[Range], before: Stamp) -> None:
        """Take over, under the log's lock, that these lines were cut out of the log, and leave no trace of what they said.

        `before`: the log's state until then. An index that has read the new file already, for another process, is left as it is.
        What was appended in the same stroke is taken in by the next question.
        """
        with state.connect() as database:
            with state.transaction(database):
                log = self._row(database)
                if log is not None and log["inode"] == before.inode:
                    self._cut(database, log, ranges)
            state.leave_no_trace(database)  # also of what the other process removed

    def _cut(self, database: Connection, log: Row, ranges: Sequence[Range]) -> None:
        for table in ("log_turns", "log_events"):
            _cut(database, table, log, ranges)
        end = max(log["end"] - sum(length + 1 for _, length in ranges), 0)
        database.execute("UPDATE logs SET changes = changes + 1, size = -1 WHERE id = ?", (log["id"],))
        with self._file.opened() as (content, stamp):
            _remember(database, log, content, stamp, min(end, stamp.size))

    # Following the log

    def _ask(self, question: Callable[[Connection, Row], _Found]) -> _Found:
        """Bring the index up to date with the log, and return what `question` finds in it."""
        with state.connect() as database:
            database.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes from the index is read from the log again
            try:
                return question(database, self._follow(database))
            except _Stale:  # somebody wrote into the middle of the log
                return question(database, self._follow(database, anew=True))

    def _row(self, database: Connection) -> Any:
        return database.execute("SELECT * FROM logs WHERE path = ?", (str(self._file.path),)).fetchone()

    def _follow(self, database: Connection, anew: bool = False) -> Row:
        log = self._row(database)
        if log is not None and not anew and self._is_current(log):
            return log
        with state.transaction(database):
            log = before = self._row(database)  # again: another process may have been faster
            if log is None or anew or not self._is_current(log):
                with self._file.opened() as (content, stamp):  # what comes after that moment is looked at again
                    if log is None or anew or not _goes_on(content, stamp, log):
                        log = self._start_anew(database, log)
                    _take_in(database, log, content, stamp)
        if before is not None and log["epoch"] != before["epoch"]:  # what was known of another file
            state.leave_no_trace(database)
        return self._row(database)

    def _is_current(self, log: Row) -> bool:
        return (log["inode"], log["size"], log["modified"]) == tuple(self._file.stamp())

    def _start_anew(self, database: Connection, log: Row | None) -> Row:
        """Remove all that is known of the log, and what was said in it to the last byte; return its new row."""
        if log is not None:
            if _number(database, "SELECT count(*) FROM logs") == 1:  # much faster than row by row
                database.execute("DROP TABLE log_texts")
                database.execute(state.LOG_TEXTS)
            else:
                for table in ("log_turns", "log_events"):
                    _drop(database, table, _rows(database, table, log, "1"))
            database.execute("DELETE FROM logs WHERE id = ?", (log["id"],))  # and, with it, its lines
        database.execute("INSERT INTO logs (path, epoch) VALUES (?, ?)", (str(self._file.path), uuid.uuid4().hex))
        return self._row(database)

    def _read(self, database: Connection, log: Row, rows: Sequence[Row]) -> list[Turn]:
        """Read turns from the log, with the later events applied."""
        if not rows:
            return []
        events = _events_of(database, log, [row["id"] for row in rows])
        with self._file.opened() as (content, _):
            return [_read_turn(content, row, events.get(row["id"], [])) for row in rows]


def fold(text: str) -> str:
    """Return `text` as it is searched for: whatever its case and white space, accents composed. FTS5 would take a NUL for its end."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().replace("\0", "\ufffd").split())


# Reading


def _goes_on(content: BinaryIO, now: Stamp, log: Row) -> bool:
    """Return whether the file is still the one that was read, with more behind it or nothing."""
    if now.inode != log["inode"] or now.size < log["end"] or (now.size == log["size"] and now.mtime != log["modified"]):
        return False
    return _tail(content, log["end"]) == log["tail"]


def _tail(content: BinaryIO, end: int) -> int:
    content.seek(max(end - _TAIL, 0))
    return zlib.crc32(content.read(min(end, _TAIL)))


def _remember(database: Connection, log: Row, content: BinaryIO, stamp: Stamp, end: int) -> None:
    """Note by what the file is known again."""
    database.execute("UPDATE logs SET end = ?, inode = ?, tail = ? WHERE id = ?", (end, stamp.inode, _tail(content, end), log["id"]))


def _lines(content: BinaryIO, start: int) -> Iterator[tuple[int, bytes, bool]]:
    """Yield (start, line, whether it is ended) from `start` on."""
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
    """Enter what lies behind the end of what is known."""
    entry = _Entry(database, log)
    end = log["end"]
    for start, line, ended in _lines(content, end):
        if line.strip() and not entry.take(start, line, ended):
            break  # being written, or its writer was killed
        end = start + len(line) + ended
    entry.settle(content)
    database.execute(
        "UPDATE logs SET size = ?, modified = ?, changes = ?, damaged = damaged + ?, torn = ?, turns = turns + ? WHERE id = ?",
        (stamp.size, stamp.mtime, entry.batch, entry.damaged, entry.torn, entry.turns, log["id"]),
    )
    _remember(database, log, content, stamp, end)


class _Entry:
    """New lines on their way into the tables."""

    def __init__(self, database: Connection, log: Row) -> None:
        self.database, self.log, self.batch = database, log["id"], log["changes"] + 1
        self.damaged = self.turns = 0
        self.torn = False
        self.touched: set[str] = set()  # turns of which something was said later
        self.next = {table: _number(database, f"SELECT ifnull(max(key), 0) + 1 FROM {table}") for table in ("log_turns", "log_events")}

    def take(self, start: int, line: bytes, ended: bool) -> bool:
        """Enter one line. Return False for a torn one."""
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
        """Enter a turn. Return False if an earlier turn has its id."""
        key, facts = self.next["log_turns"], turn.metadata
        model = str(facts["model"]) if "model" in facts else None
        place = (key, self.log, turn.id, turn.session_id, start, length)
        imported = str(facts["import"]) if "import" in facts else None
        row = (*place, turn.timestamp, model, len(turn.user_message), self.batch, *_state(turn), imported)
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
        self.database.execute("INSERT INTO log_events VALUES (?, ?, ?, ?, ?, ?)", (key, self.log, turn, kind, start, length))
        if said := _said(event):
            self.database.execute("INSERT INTO log_texts (rowid, text) VALUES (?, ?)", (-key, said))

    def settle(self, content: BinaryIO) -> None:
        """Bring the turns of which something was said later to where they stand now."""
        log = {"id": self.log}
        new = self.database.execute(  # turns that were entered after their events: mended lines
            "SELECT DISTINCT turn FROM log_events WHERE log = ? AND turn IN (SELECT id FROM log_turns WHERE log = ? AND changed = ?)",
            (self.log, self.log, self.batch),
        )
        touched = self.touched | {row["turn"] for row in new}
        events = _events_of(self.database, log, touched)
        for row in _among(self.database, "log_turns", log, "id", touched):
            later = events[row["id"]]
            if any(event["kind"] == "delete" for event in later):
                self._set_aside(row)
                continue
            now = (*_state(_read_turn(content, row, later)), self.batch, row["key"])
            self.database.execute(f"UPDATE log_turns SET {', '.join(f'{name} = ?' for name in _STATE)}, changed = ? WHERE key = ?", now)

    def _set_aside(self, row: Row) -> None:
        """Remember where the line of a deleted turn lies that came back from an old copy, so that the next deletion cuts it out."""
        _drop(self.database, "log_turns", [row])
        self.turns -= 1
        key = _number(self.database, "SELECT ifnull(max(key), 0) + 1 FROM log_events")
        values = (key, self.log, row["id"], _LEFT, row["start"], row["length"])
        self.database.execute("INSERT INTO log_events VALUES (?, ?, ?, ?, ?, ?)", values)


_STATE = ("answered", "rating", "excluded", "edited", "state_hash")  # columns of log_turns that later events change


def _state(turn: Turn) -> tuple[int, str | None, bool, bool, str]:
    facts = turn.metadata
    rating = facts.get("rating")
    return (
        len(turn.bot_response),
        str(rating) if rating else None,
        bool(facts.get("excluded")),
        "original_response" in facts,
        turn.state_hash,
    )


def _said(record: Turn | dict[str, Any]) -> str:
    return fold("\n".join(texts_of(record)))


def _read_turn(content: BinaryIO, row: Row, events: Sequence[Row]) -> Turn:
    turn = _record_at(content, row)
    if not isinstance(turn, Turn) or turn.id != row["id"]:
        raise _Stale
    for event in events:
        record = _record_at(content, event)
        if isinstance(record, Turn) or record["turn_id"] != turn.id:
            raise _Stale
        if record["event"] in EVENTS:
            turn = apply(turn, record)
    return turn


def _record_at(content: BinaryIO, row: Row) -> Turn | dict[str, Any]:
    content.seek(row["start"])
    try:
        return decode(content.read(row["length"]))
    except ValueError as error:
        raise _Stale from error


# Asking the tables

_ENDS = ("first", "last")  # turn of a session

# Goes through the turns from the newest on, whatever their log (+log), and takes those that are the last of their session.
SESSIONS = (
    "SELECT session, key AS last, (SELECT count(*) FROM log_turns WHERE log = turn.log AND session = turn.session) AS turns,"
    " (SELECT min(key) FROM log_turns WHERE log = turn.log AND session = turn.session) AS first"
    " FROM log_turns AS turn WHERE +log = ? AND key < ? AND NOT EXISTS"
    " (SELECT 1 FROM log_turns AS later WHERE later.log = turn.log AND later.session = turn.session AND later.key > turn.key)"
    " ORDER BY key DESC LIMIT ?"
)


def _number(database: Connection, query: str, *values: object) -> int:
    return int(database.execute(query, values).fetchone()[0])


def _rows(database: Connection, table: str, log: Row, condition: str, *values: object) -> list[Row]:
    return database.execute(f"SELECT * FROM {table} WHERE log = ? AND {condition} ORDER BY key", (log["id"], *values)).fetchall()


def _place(database: Connection, log: Row, turn: str) -> int:
    """Return a turn's key. TurnNotFound if there is none."""
    row = database.execute("SELECT key FROM log_turns WHERE log = ? AND id = ?", (log["id"], turn)).fetchone()
    if row is None:
        raise TurnNotFound(f"the turn {turn[:100]!r}, after which the list was to go on, is gone: begin with its first page")
    return int(row["key"])


def _among(database: Connection, table: str, log: Any, column: str, values: Collection[Any]) -> list[Row]:
    """Return the rows whose `column` is one of `values`, in the log's order."""
    wanted, found = list(values), []
    for first in range(0, len(wanted), _MOST):
        part = wanted[first : first + _MOST]
        found += _rows(database, table, log, f"{column} IN ({','.join('?' * len(part))})", *part)
    return sorted(found, key=lambda row: row["key"])


def _events_of(database: Connection, log: Any, turns: Collection[str]) -> dict[str, list[Row]]:
    """Return what was said later of these turns, by turn."""
    found: dict[str, list[Row]] = {}
    for row in _among(database, "log_events", log, "turn", turns):
        found.setdefault(row["turn"], []).append(row)
    return found


def _matching(database: Connection, log: Row, words: Sequence[str], limit: int | None) -> list[str]:
    """Return the ids of the turns in whose texts all words are said in one line, newest first, each once.

    With a limit the newest rows are looked at first, and older ones only where these were not enough: what is often said is found at once.
    """
    found: list[tuple[int, str]] = []
    for table, column, sign in (("log_turns", "id", 1), ("log_events", "turn", -1)):
        newest, window = _number(database, f"SELECT ifnull(max(key), 0) FROM {table}"), _WINDOW if limit else 1 << 62
        enough = len(found) + 2 * limit if limit else 0  # of some more than one line matches
        while newest > 0 and not 0 < enough <= len(found):
            found += _within(database, log, words, table, column, sorted((sign * max(newest - window + 1, 1), sign * newest)))
            newest, window = newest - window, 4 * window
    return list(dict.fromkeys(id for _, id in sorted(found, reverse=True)))[:limit]


def _within(database: Connection, log: Row, words: Sequence[str], table: str, column: str, keys: Sequence[int]) -> list[tuple[int, str]]:
    """Return (place in the log, turn) of the lines whose text, in the rows from the first to the last key, holds all words."""
    grams = dict.fromkeys(word[at : at + _GRAM] for word in words for at in range(len(word) - _GRAM + 1))
    conditions, values = ["instr(text, ?)"] * len(words), list(words)
    if grams:
        conditions.insert(0, "log_texts MATCH ?")
        values.insert(0, " AND ".join('"' + gram.replace('"', '""') + '"' for gram in grams))
    rows = database.execute(
        f"SELECT start, {column} FROM log_texts JOIN {table} ON key = abs(log_texts.rowid)"
        f" WHERE {' AND '.join(conditions)} AND log_texts.rowid BETWEEN ? AND ? AND log = ?",
        (*values, *keys, log["id"]),
    )
    return [(row[0], row[1]) for row in rows]


def _is_sound(database: Connection, log: Row) -> bool:
    return not (log["damaged"] or log["torn"])


def _stats(database: Connection, log: Row) -> dict[str, Any]:
    row = database.execute(
        "SELECT count(*) AS total_turns, count(DISTINCT session) AS total_conversations, ifnull(sum(excluded), 0) AS excluded,"
        " ifnull(sum(edited), 0) AS edited, ifnull(sum(rating IS 'up'), 0) AS rated_up, ifnull(sum(rating IS 'down'), 0) AS rated_down,"
        " total(asked) / max(count(*), 1) AS average_user_length, total(answered) / max(count(*), 1) AS average_bot_length,"
        " min(nullif(time, '')) AS first, max(time) AS last FROM log_turns WHERE log = ?",
        (log["id"],),
    ).fetchone()
    models = "SELECT model, count(*) AS turns FROM log_turns WHERE log = ? AND model IS NOT NULL GROUP BY model ORDER BY min(start)"
    return {**dict(row), "models": {each["model"]: each["turns"] for each in database.execute(models, (log["id"],))}}


def _drop(database: Connection, table: str, rows: Sequence[Row]) -> None:
    """Remove rows, and what was said in them."""
    sign = 1 if table == "log_turns" else -1
    database.executemany("DELETE FROM log_texts WHERE rowid = ?", [(sign * row["key"],) for row in rows])
    database.executemany(f"DELETE FROM {table} WHERE key = ?", [(row["key"],) for row in rows])


def _cut(database: Connection, table: str, log: Row, ranges: Sequence[Range]) -> None:
    """Remove the rows of lines that were cut out of the log, and move those behind them to the front."""
    cuts, gone = [], 0
    for start, length in ranges:
        gone += length + 1  # and the line's end
        cuts.append((start, gone))
    database.execute("CREATE TEMP TABLE IF NOT EXISTS cuts (start INTEGER PRIMARY KEY, gone INTEGER NOT NULL)")
    database.execute("DELETE FROM cuts")
    database.executemany("INSERT INTO cuts VALUES (?, ?)", cuts)
    query = f"SELECT key FROM {table} WHERE log = ? AND start IN (SELECT start FROM cuts)"  # no more of each: there may be very many
    rows = database.execute(query, (log["id"],)).fetchall()
    _drop(database, table, rows)
    if table == "log_turns":
        database.execute("UPDATE logs SET turns = turns - ? WHERE id = ?", (len(rows), log["id"]))
    database.execute(
        f"UPDATE {table} SET start = start - (SELECT gone FROM cuts WHERE cuts.start < {table}.start ORDER BY cuts.start DESC LIMIT 1)"
        " WHERE log = ? AND start > (SELECT min(start) FROM cuts)",
        (log["id"],),
    )
