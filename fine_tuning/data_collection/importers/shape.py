"""Define what an importer is: how it recognises its format, and how it turns records into chats."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from fine_tuning.data_collection.documents.entailment import Judge
from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Fault, kind, task_in
from fine_tuning.data_collection.importers.files import Member, Read, unwatched
from fine_tuning.data_collection.importers.huggingface import Dataset
from fine_tuning.data_collection.importers.packed import unpacked
from fine_tuning.data_collection.importers.records import Layout, Look, Record, records, within
from fine_tuning.data_collection.importers.sqlite_records import rows

_T = TypeVar("_T")

Branches = Literal["best", "all"]
# Exceptions that are raised by reading a record that does not have the structure of its format.
NOT_AS_EXPECTED = (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError)
UNREADABLE = (BadRecord, *NOT_AS_EXPECTED)  # also the exception that importers raise on purpose

RECORDS: frozenset[Layout] = frozenset({"array", "lines", "table", "parquet", "object", "xml"})


@dataclass(frozen=True)
class Inside:
    """The lists of a large object whose elements are the records: those named in `keys`.

    `others` are the lists without records. A list in neither set begins after the part of the file that
    was examined; its elements are records if they have the format (`fits`).
    """

    keys: frozenset[str]
    others: frozenset[str]
    fits: Callable[[object], bool]

    def holds(self, key: str, value: object) -> bool:
        """Return whether an element of the list `key` is a record."""
        return key in self.keys or (key not in self.others and self.fits(value))


@dataclass(frozen=True)
class Source:
    """The files or the dataset that one call of an importer's `read` reads, and the options of the import.

    Usually this is one file; for Slack it is all files of a channel.
    """

    members: Sequence[Member]
    found: Look
    me: str = ""  # in a chat among people, the person whose messages are the answers
    branches: Branches = "best"  # which paths of a tree of answers are read
    inside: Inside | None = None  # the lists, in a large object, whose elements are the records
    dataset: Dataset | None = None  # a dataset of Hugging Face, instead of files
    read: Read = unwatched  # called with the number of bytes after each read
    judge: Judge | None = None  # judges questions and answers made from a document
    called: str = ""  # name of the source, if not the file's

    @property
    def member(self) -> Member:
        return self.members[0]

    @property
    def name(self) -> str:
        return self.dataset.name if self.dataset else self.member.name

    def records(self) -> Iterator[Record | Fault]:
        found = self._records()
        if not self.found.is_packed:
            return found
        is_database = self.found.layout == "database"
        return (
            each if isinstance(each, Fault) else Record(each.place, unpacked(each.value, is_database)) for each in found
        )

    def _records(self) -> Iterator[Record | Fault]:
        if self.dataset:
            yield from self.dataset.rows(self.read)
        for member in self.members:
            if self.found.layout == "database":
                yield from rows(member, self.inside.keys if self.inside else ())
            elif self.inside:
                yield from within(member, self.inside.holds, self.read)
            else:
                yield from records(member, self.found, self.read)


@dataclass(frozen=True)
class Importer:
    """A format that can be imported.

    `fits` returns whether a record has the format; for a text it gets the first lines (`Look.lines`).
    `read` yields the chats of a source, and a Fault for each record that it skips.
    """

    title: str  # its name for people
    fits: Callable[[Any], bool]
    read: Callable[[Source], Iterator[Chat | Fault]]
    layouts: frozenset[Layout] = RECORDS
    joins: Literal["no", "folder", "all"] = "no"  # which files are read together: none, those of a folder, or all
    whole: bool = False  # whether it reads files of any layout; it is used only if the user names it


def has_format(importer: Importer, value: object) -> bool:
    """Return whether a record has the importer's format; False if the importer fails to examine it."""
    try:
        return importer.fits(value)
    except UNREADABLE:
        return False


def spoilt(error: Exception, place: str, expected: str, value: object) -> Fault:
    """Return the Fault for a record whose reading raised `error`, one of UNREADABLE.

    `place` says where the record is, `expected` what the format requires; `value` is what was found.
    """
    if isinstance(error, BadRecord):
        return Fault(place, f"expected {error}")
    return Fault(place, f"expected {expected}, found {kind(value)} of another structure ({error})")


def each(
    convert: Callable[[Any, Source], Iterable[Chat]], expected: str, *tasks: str
) -> Callable[[Source], Iterator[Chat | Fault]]:
    """Return a `read` function for a format in which each record is a conversation of its own.

    A record that only repeats the beginning of the next one is left out: some files have a record for each
    answer, with all that was said before. `tasks` are the keys under which a record may name its task,
    besides "task".
    """

    def read(source: Source) -> Iterator[Chat | Fault]:
        for record in source.records():
            if isinstance(record, Fault):
                yield record
                continue
            try:
                task = task_in(record.value, "task", *tasks)
                for chat in convert(record.value, source):
                    facts = {**task, **chat.facts} if task else chat.facts
                    yield Chat(chat.said, chat.id, chat.joint, record.place, facts, chat.section)
            except UNREADABLE as error:
                yield spoilt(error, record.place, expected, record.value)

    return lambda source: without_beginnings(read(source), _said)


def _said(chat: Chat | Fault) -> Sequence[object]:
    """Return the content by which a chat is compared with the next one; () if it is kept in any case."""
    return () if isinstance(chat, Fault) or chat.id else (chat.facts, chat.section, *chat.said)


def without_beginnings(items: Iterable[_T], said: Callable[[_T], Sequence[object]]) -> Iterator[_T]:
    """Yield the items, except those whose content `said` is the beginning of the next item's content."""
    before: list[tuple[_T, Sequence[object]]] = []  # the item before, if there is one
    for item in items:
        now = said(item)
        for earlier, content in before:
            if not (0 < len(content) < len(now) and now[: len(content)] == content):
                yield earlier
        before = [(item, now)]
    yield from (earlier for earlier, _ in before)
