"""An import: foreign chats read, shown before anything is written, logged as one step with an id,
listed, and taken back as a whole.
"""

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from fine_tuning.conversation import Turn
from fine_tuning.data_collection import chat_labels
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.documents.entailment import Judge
from fine_tuning.data_collection.importers.chats import BadRecord, Entry, Fault, entries_of
from fine_tuning.data_collection.importers.files import Member, members_of
from fine_tuning.data_collection.importers.huggingface import PREFIX, is_saved
from fine_tuning.data_collection.importers.records import Look
from fine_tuning.data_collection.importers.shape import Branches, Importer, Source
from fine_tuning.data_collection.importers.table import dataset_look, forced, importer_named, looked_at, recognised
from fine_tuning.errors import Cancelled, DataError
from fine_tuning.events import Watch
from fine_tuning.json_values import JsonObject

_BATCH = 2_000  # turns that are written at once...
_BATCH_TEXT = 8 << 20  # ...or fewer, of so many characters
_SHOWN = 20  # faults, and files, that a report names


@dataclass(frozen=True)
class Wanted:
    """What an import is asked for.

    Args:
        format: a name of `IMPORTERS`, or "module:function"; found by itself when empty.
        me: whose messages are the answers, in chats among people.
        source: what the source is called in the log; the file's name when empty.
        branches: of trees of answers the best path, or all.
        judge: is asked, too, of each answer that is made of a document.
    """

    format: str = ""
    me: str = ""
    licence: str = ""
    source: str = ""
    branches: Branches = "best"
    judge: Judge | None = None


@dataclass
class Report:
    """What an import found and did."""

    id: str = ""
    readings: int = 0  # files that were read, or folders of them that are one reading
    conversations: int = 0
    unanswered: int = 0  # conversations in which no question found an answer
    turns: int = 0  # that were found
    added: int = 0  # to the log; in a preview: that would be
    formats: Counter[str] = field(default_factory=Counter)  # conversations by format
    first: list[Turn] = field(default_factory=list)
    set_aside: int = 0
    faults: list[Fault] = field(default_factory=list)  # the first of them
    unread: list[str] = field(default_factory=list)  # the first files of a folder that are in no known format
    unread_count: int = 0
    is_whole: bool = True  # not of a preview that ended early

    @property
    def known(self) -> int:
        """Turns that the log has or had already, or that were found twice."""
        return self.turns - self.added

    def set(self, fault: Fault, file: str) -> None:
        self.set_aside += 1
        if len(self.faults) < _SHOWN:
            self.faults.append(Fault(f"{file}, {fault.place}" if fault.place else file, fault.reason))


def import_files(
    log: ConversationLogger,
    places: Sequence[str | Path],
    wanted: Wanted | None = None,
    watch: Watch | None = None,
    id: str = "",
) -> Report:
    """Read foreign chats into the log. Returns what was found and added; turns that the log has or
    had already are left out.

    Args:
        places: files, folders and ZIP archives, or "hf:owner/name".
        watch: told how many percent of all bytes were read.
        id: of the import, as `new_id` makes one; by default a new one.

    Raises:
        DataError: a file is in no known format or cannot be read, or a chat among people lacks `me`.
        Cancelled: stopped; what was written until then stays, and can be taken back.
    """
    watch, report = watch or Watch(), Report(id or new_id())
    try:
        with watch.stage("Importing"):
            for batch in _batches(_read(places, wanted or Wanted(), report, _Progress(watch))):
                report.added += log.log_imported(batch)
    except Cancelled as error:
        undo = (
            f"take them back with byoai import --undo {report.id}, or import again to go on"
            if report.added
            else "nothing was written"
        )
        raise Cancelled(f"the import was stopped after {report.added} turns: {undo}") from error
    if report.added and set(report.formats) == {"document"}:  # hundreds of questions that nobody asked in a chat
        name = wanted.source if wanted and wanted.source else _name(places[0])
        chat_labels.keep_together(log.index.sessions_of_import(report.id), name)
    return report


def new_id() -> str:
    """Return an id for an import."""
    return datetime.now(UTC).strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:6]


def preview(
    log: ConversationLogger, places: Sequence[str | Path], wanted: Wanted | None = None, limit: int | None = None
) -> Report:
    """Return what `import_files` would find and add, and write nothing. `limit`: end after so many turns."""
    report, seen = Report(), set[str]()
    entries = _read(places, wanted or Wanted(), report, _Progress(Watch()))
    looked = 0
    for batch in _batches(entries if limit is None else islice(entries, limit)):
        looked += len(batch)
        ids = {entry.turn.id for entry in batch} - seen
        seen |= ids if limit is not None or len(seen) < 1_000_000 else set()
        report.added += len(ids) - len(log.index.known(ids))
    report.is_whole, report.turns = limit is None or looked < limit, looked
    return report


@dataclass(frozen=True)
class Imported:
    """An import that is in the log."""

    id: str
    turns: int
    source: JsonObject


def imports(log: ConversationLogger) -> list[Imported]:
    """Return the imports in the log, the oldest first."""
    found = log.index.imports()
    turns = {turn.id: turn for turn in log.index.turns([first for _, _, first in found])}
    return [
        Imported(id, count, dict(turns[first].metadata.get("source") or {}))
        for id, count, first in found
        if first in turns
    ]


def undo(log: ConversationLogger, id: str) -> int:
    """Take an import back as a whole: the log is as before, but for what else was logged since.
    Returns how many turns went.

    Raises:
        DataError: there is no such import.
    """
    return log.take_back(id)


# Reading


@dataclass
class _Progress:
    """Tells a watch how many percent of all bytes were read."""

    watch: Watch
    total: int = 0
    done: int = 0
    told: int = -1

    def read(self, count: int) -> None:
        """Note that so many bytes were read. Cancelled when it should stop."""
        self.watch.stop_if_asked()
        self.done += count
        if (percent := min(100 * self.done // max(self.total, 1), 100)) != self.told:
            self.told = percent
            self.watch.count(percent, 100, "percent")


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    characters = 0
    for entry in entries:
        batch.append(entry)
        characters += len(entry.turn.user_message) + len(entry.turn.bot_response)
        if len(batch) >= _BATCH or characters >= _BATCH_TEXT:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _read(places: Sequence[str | Path], wanted: Wanted, report: Report, progress: _Progress) -> Iterator[Entry]:
    """Yield what is in all files; count and note it in `report`."""
    unknown: list[DataError] = []  # files in no format
    refused: list[DataError] = []  # files that cannot be read, or need more to be asked for
    for place in places:
        facts = {"name": wanted.source or _name(place), "licence": wanted.licence}
        for format, importer, source in _readings(place, wanted, report, progress, unknown):
            report.readings += 1
            told: JsonObject = {key: fact for key, fact in {**facts, "format": format}.items() if fact}
            try:
                for entry in _entries(format, importer, source, {"source": told, "import": report.id}, report):
                    progress.watch.stop_if_asked()
                    yield entry
            except DataError as error:
                refused.append(error)
                report.set(Fault("", str(error)), source.name)
    if report.turns == 0 and (errors := refused or (unknown if not report.readings else [])):
        raise errors[0]
    if report.turns == 0 and wanted.me:
        raise DataError(
            f"nobody called {wanted.me!r} answered anybody in {', '.join(map(str, places))}: leave out --me to see the "
            "names"
        )


def _name(place: str | Path) -> str:
    return str(place) if str(place).startswith(PREFIX) else Path(place).resolve().name


def _entries(format: str, importer: Importer, source: Source, facts: JsonObject, report: Report) -> Iterator[Entry]:
    for chat in importer.read(source):
        if isinstance(chat, Fault):
            report.set(chat, source.name)
            continue
        try:
            entries = entries_of(chat, format, facts)
        except BadRecord as error:
            report.set(Fault(chat.place, f"expected {error}"), source.name)
            continue
        report.conversations += bool(entries)
        report.unanswered += not entries
        report.formats[format] += bool(entries)
        report.turns += len(entries)
        report.first += [entry.turn for entry in entries[: 3 - len(report.first)]]
        yield from entries


def _readings(
    place: str | Path, wanted: Wanted, report: Report, progress: _Progress, unknown: list[DataError]
) -> Iterator[tuple[str, Importer, Source]]:
    """Yield what is to be read at a place, in order."""
    if str(place).startswith(PREFIX) or is_saved(Path(place)):
        found = dataset_look(str(place))
        format, importer, _ = (
            forced(wanted.format, found, str(place)) if wanted.format else recognised(found, str(place))
        )
        yield format, importer, Source([], found, wanted.me, wanted.branches, dataset=str(place), read=progress.read)
        return
    members = members_of(Path(place).expanduser())
    progress.total += sum(member.size for member in members)
    if not members:
        raise DataError(f"{place} is empty: there is nothing to import")
    if wanted.format and (importer := importer_named(wanted.format)).whole:
        for member in members:
            found = Look("text", [])
            yield (
                wanted.format,
                importer,
                Source([member], found, read=progress.read, judge=wanted.judge, called=wanted.source),
            )
        return
    looks = _looks(members, wanted, report, unknown)
    last: tuple[str, Importer, Source] | None = None  # which more files of its folder may join
    for member, (format, importer, inside), found in looks:
        source = Source([member], found, wanted.me, wanted.branches, inside, read=progress.read)
        if last and importer.joins and last[0] == format and last[2].member.folder == member.folder:
            last = (format, importer, replace(last[2], members=[*last[2].members, member]))
            continue
        if last:
            yield last
        last = (format, importer, source)
    if last:
        yield last


def _looks(
    members: Sequence[Member], wanted: Wanted, report: Report, unknown: list[DataError]
) -> Iterator[tuple[Member, tuple[str, Importer, str], Look]]:
    """Yield (file, what it was recognised as, what it is made of); note the files that are in no known format."""
    for member in members:
        try:
            found = looked_at(member)
            taken = (
                forced(wanted.format, found, member.name, len(members) > 1)
                if wanted.format
                else recognised(found, member.name)
            )
            yield member, taken, found
        except DataError as error:
            if len(members) == 1:
                raise
            unknown += [error] if not unknown else []
            report.unread_count += 1
            report.unread += [member.name] if len(report.unread) < _SHOWN else []
