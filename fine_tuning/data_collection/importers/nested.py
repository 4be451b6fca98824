"""Read records of a known format that are nested within other objects, in files of any program.

Many programs store their chats within other objects: {"data": {"chats": [{"messages": [...]}]}}, or
{"faqs": [{"category": "…", "questions": [{"question": "…", "answer": "…"}]}]}. Every value within a
record is searched.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fine_tuning.data_collection.importers.calls import CALLS
from fine_tuning.data_collection.importers.chats import Chat, Fault, rows_in
from fine_tuning.data_collection.importers.columns import COLUMNS
from fine_tuning.data_collection.importers.dialogues import SPOKEN
from fine_tuning.data_collection.importers.intents import INTENTS
from fine_tuning.data_collection.importers.messages import MESSAGE_LIST, MESSAGES
from fine_tuning.data_collection.importers.pairs import ALPACA, COMPLETION, DOLLY
from fine_tuning.data_collection.importers.passages import PASSAGES
from fine_tuning.data_collection.importers.people_records import PEOPLE
from fine_tuning.data_collection.importers.preference import PREFERENCE
from fine_tuning.data_collection.importers.records import SAMPLE, Look, Record
from fine_tuning.data_collection.importers.replies import REPLIES
from fine_tuning.data_collection.importers.shape import Importer, Source, has_format
from fine_tuning.data_collection.importers.sharegpt import SHAREGPT
from fine_tuning.data_collection.importers.tickets import TICKETS

_FORMATS = (
    *(PREFERENCE, SHAREGPT, CALLS, TICKETS, MESSAGES, DOLLY, ALPACA, COMPLETION, PASSAGES, COLUMNS, INTENTS),
    SPOKEN,
)
_DEEPEST = 8  # values within values
_LOOKED_AT = 2_000  # values of a record that are searched to recognise it

# an importer, and the records that it is to read
Found = tuple[Importer, Sequence[object]]


@dataclass(frozen=True)
class _Part(Source):
    """A source whose records were found within a record of another source."""

    values: Sequence[object] = ()
    place: str = ""

    def records(self) -> Iterator[Record | Fault]:
        for value in self.values:
            yield Record(self.place, value)


def _fits(record: object) -> bool:
    return any(importer for importer, _ in _found(record, [_LOOKED_AT]))


def _read(source: Source) -> Iterator[Chat | Fault]:
    people: list[object] = []
    for record in source.records():
        if isinstance(record, Fault):
            yield record
        else:
            yield from chats_within(record.value, record.place, source, people)
    if people:  # of the whole file, since the person named by --me may have written in a few of the chats only
        yield from PEOPLE.read(_part(source, people, "a chat"))


def chats_within(value: object, place: str, source: Source, people: list[object]) -> Iterator[Chat | Fault]:
    """Yield the chats of all records within a value. Chats among people are added to `people` instead.

    `place` says where in the source the value is.
    """
    for importer, values in _found(value, [-1]):
        if importer is PEOPLE:
            people += values
        else:
            yield from _placed(importer.read(_part(source, values, place)), place)


def _part(source: Source, values: Sequence[object], place: str) -> Source:
    found = Look("array", values[:SAMPLE])
    return _Part(source.members, found, source.me, source.branches, read=source.read, values=values, place=place)


def _placed(chats: Iterator[Chat | Fault], place: str) -> Iterator[Chat | Fault]:
    for chat in chats:
        yield replace(chat, place=place) if isinstance(chat, Chat) else chat


def _found(value: object, left: list[int], depth: int = 0) -> Iterator[Found]:
    """Yield each importer that can read something within `value`, with the records for it, in order.

    `left` has one element: how many values may still be examined. A negative number sets no limit.
    """
    inner: Sequence[Any] = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()
    if depth == _DEEPEST or not inner or not left[0]:
        return
    left[0] -= 1
    if depth and isinstance(value, list) and _has_format(MESSAGE_LIST, value[:SAMPLE]):
        yield MESSAGE_LIST, value
        return
    if isinstance(value, list) and len(value) > 1 and _has_format(PEOPLE, value[:SAMPLE]):
        yield PEOPLE, [{"messages": value}]
        return
    for rows in _tables(value):
        if importer := next((each for each in (REPLIES, *_FORMATS) if _has_format(each, rows[:SAMPLE])), None):
            yield importer, rows
            return
    for each in inner:
        if isinstance(each, dict | list) and left[0]:
            importer = _format_of(each)
            if importer:
                yield importer, [each]
            else:
                yield from _found(each, left, depth + 1)


def _tables(value: Any) -> Iterator[Sequence[Any]]:
    """Yield the rows of a table that a value may be: stored by columns, or by the ids of its rows."""
    if rows := rows_in(value):
        yield rows
    if isinstance(value, dict) and len(value) > 1 and all(isinstance(each, dict) for each in value.values()):
        yield [{"id": id, **row} for id, row in value.items()]


def _format_of(value: object) -> Importer | None:
    return next((importer for importer in _FORMATS if _has_format(importer, [value])), None)


def _has_format(importer: Importer, values: Sequence[object]) -> bool:
    """Return whether more than half of the values have a format."""
    return 2 * sum(has_format(importer, value) for value in values) > len(values)


NESTED = Importer("records within other objects", _fits, _read)
