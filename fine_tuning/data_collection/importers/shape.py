"""What an importer is: how a format is told apart, and how its records become chats."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fine_tuning.data_collection.documents.entailment import Judge
from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Fault, kind
from fine_tuning.data_collection.importers.files import Member, Read, unwatched
from fine_tuning.data_collection.importers.huggingface import rows
from fine_tuning.data_collection.importers.records import Layout, Look, Record, records, within
from fine_tuning.json_values import JsonObject

Branches = Literal["best", "all"]
# What a foreign record that is not built as its format says runs into.
NOT_AS_EXPECTED = (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError)
UNREADABLE = (BadRecord, *NOT_AS_EXPECTED)  # and what a reader says of one

RECORDS: frozenset[Layout] = frozenset({"array", "lines", "table", "parquet", "object"})


@dataclass(frozen=True)
class Source:
    """What one reading is about: a file (Slack: all of a channel's), and what was asked for."""

    members: Sequence[Member]
    found: Look
    me: str = ""  # whose messages are the answers, in a chat among people
    branches: Branches = "best"  # of a tree of answers
    inside: str = ""  # the list of a large object whose elements are the records
    dataset: str = ""  # of Hugging Face, in the place of files
    read: Read = unwatched  # told how far the reading is
    judge: Judge | None = None  # of what is made of a document
    called: str = ""  # what the source is called

    @property
    def member(self) -> Member:
        return self.members[0]

    @property
    def name(self) -> str:
        return self.dataset or self.member.name

    def records(self) -> Iterator[Record | Fault]:
        if self.dataset:
            yield from rows(self.dataset, self.read)
        for member in self.members:
            yield from within(member, self.inside, self.read) if self.inside else records(member, self.found, self.read)


@dataclass(frozen=True)
class Importer:
    """One format. `fits` looks at a record (of text: at `Look.lines`); `read` yields chats, and
    Faults for what it sets aside.
    """

    title: str  # what people call it
    fits: Callable[[Any], bool]
    read: Callable[[Source], Iterator[Chat | Fault]]
    layouts: frozenset[Layout] = RECORDS
    joins: bool = False  # the files of a folder are one reading
    whole: bool = False  # only where it is asked for: it reads a file of whatever layout by itself


def spoilt(error: Exception, place: str, expected: str, value: object) -> Fault:
    """Return the fault of a record whose reading raised one of UNREADABLE; `expected` is what its
    format has there, `value` what it is.
    """
    if isinstance(error, BadRecord):
        return Fault(place, f"expected {error}")
    return Fault(place, f"expected {expected}, found {kind(value)} of another structure ({error})")


def each(
    convert: Callable[[JsonObject, Source], Iterable[Chat]], expected: str
) -> Callable[[Source], Iterator[Chat | Fault]]:
    """Return a `read` of a format of which every record is a conversation of its own."""

    def read(source: Source) -> Iterator[Chat | Fault]:
        for record in source.records():
            if isinstance(record, Fault):
                yield record
                continue
            try:
                for chat in convert(record.value, source):
                    yield Chat(chat.said, chat.id, chat.joint, record.place)
            except UNREADABLE as error:
                yield spoilt(error, record.place, expected, record.value)

    return read
