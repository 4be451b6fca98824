"""Read batches of calls to a model, whose questions are in one file and whose answers are in another.

OpenAI writes {"custom_id": "…", "body": {…}} and {"custom_id": "…", "response": {…}}, Anthropic "params"
and "result", Gemini "key", "request" and "response". The answers come in any order.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing

from fine_tuning.data_collection.importers.calls import chat_of, sent
from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Fault
from fine_tuning.data_collection.importers.shape import UNREADABLE, Importer, Source, spoilt
from fine_tuning.errors import DataError

_IDS = ("custom_id", "key")
_ASKED, _ANSWERED = ("body", "params", "request"), ("response", "result")
_SCHEMA = "CREATE TABLE half (number INTEGER PRIMARY KEY, id TEXT, is_asked INTEGER, call TEXT, place TEXT)"
_TWICE = "SELECT id, max(place) FROM half GROUP BY id, is_asked HAVING count(DISTINCT call) > 1"
_PAIRS = f"""
SELECT asked.call, answered.call, asked.place FROM half AS asked
LEFT JOIN half AS answered ON answered.id = asked.id AND NOT answered.is_asked
WHERE asked.is_asked AND asked.id NOT IN (SELECT id FROM ({_TWICE})) GROUP BY asked.id ORDER BY asked.number
"""
_JOIN = "put both files of the batch into a folder, and import the folder"


def _half(record: object) -> tuple[str, bool, object] | None:
    """Return (id, whether it is a question, what was sent or answered); None if a record is neither, or both."""
    id = next((record[key] for key in _IDS if record.get(key)), None) if isinstance(record, dict) else None
    if not isinstance(record, dict) or not isinstance(id, str):
        return None
    asked, answered = (next((record[key] for key in keys if key in record), None) for keys in (_ASKED, _ANSWERED))
    if isinstance(asked, dict) and answered is None:
        return id, True, asked
    return (id, False, answered) if asked is None and any(key in record for key in _ANSWERED) else None


def _read(source: Source) -> Iterator[Chat | Fault]:
    with closing(sqlite3.connect("")) as database:  # SQLite deletes it; it is on the disk once it is large
        database.execute(_SCHEMA)
        for record in source.records():
            if isinstance(record, Fault):
                yield record
                continue
            try:
                if not (half := _half(record.value)):
                    raise BadRecord("a question or an answer of a batch")
                row = half[0], half[1], json.dumps(half[2]), record.place
                database.execute("INSERT INTO half (id, is_asked, call, place) VALUES (?, ?, ?, ?)", row)
            except UnicodeEncodeError:
                yield Fault(record.place, "expected text that can be written as UTF-8")
            except UNREADABLE as error:
                yield spoilt(error, record.place, "a question or an answer of a batch", record.value)
        yield from _pairs(database, source.name)


def _pairs(database: sqlite3.Connection, name: str) -> Iterator[Chat | Fault]:
    database.execute("CREATE INDEX ids ON half (id, is_asked)")
    found = {bool(is_asked) for (is_asked,) in database.execute("SELECT DISTINCT is_asked FROM half")}
    if len(found) == 1:
        held, missing = ("questions", "answers") if True in found else ("answers", "questions")
        raise DataError(f"{name} holds the {held} of a batch without the {missing}: {_JOIN}")
    for id, place in database.execute(_TWICE):
        yield Fault(place, f"expected an id of its own, found {id[:40]!r} again: import each batch from its own folder")
    for asked, answered, place in database.execute(_PAIRS):
        got = json.loads(answered or "null")
        if isinstance(got, dict):  # {"type": "expired"} is no answer
            got = got.get("body") or got.get("message") or (None if "type" in got else got)
        try:
            yield chat_of({"request": json.loads(asked), "response": got}, place) if got else Chat(list(sent(asked)))
        except UNREADABLE as error:
            yield spoilt(error, place, "a call of a model", got)


BATCH = Importer("a batch of calls of a model", lambda record: bool(_half(record)), _read, joins="all")
