"""Import chats from elsewhere into the log: preview them, log them under one import id, list and undo imports."""

import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from fine_tuning.conversation import Turn
from fine_tuning.data_collection.all_cores import AllCores, cores
from fine_tuning.data_collection.cleaning.planted_phrases import PlantedPhrase, PlantedPhrases
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.documents.entailment import Judge
from fine_tuning.data_collection.importers.chats import BadRecord, Entry, Fault, as_task, entries_of
from fine_tuning.data_collection.importers.files import Member, members_of
from fine_tuning.data_collection.importers.huggingface import PREFIX, Dataset, is_dataset
from fine_tuning.data_collection.importers.records import Look
from fine_tuning.data_collection.importers.shape import Branches, Importer, Source
from fine_tuning.data_collection.importers.table import (
    Found,
    dataset_look,
    forced,
    importer_named,
    looked_at,
    recognised,
)
from fine_tuning.data_collection.log import chat_labels
from fine_tuning.data_collection.log.index import update_index
from fine_tuning.errors import Cancelled, DataError
from fine_tuning.events import Watch
from fine_tuning.json_values import JsonObject
from fine_tuning.units import counted

_BATCH = 2_000  # turns written at once, at most
_BATCH_TEXT = 8 << 20  # characters of a batch at which it is written, with fewer turns
_MANY = 5  # batches from which on a child process saves more than the half second that its start takes
_SHOWN = 20  # faults, and unread files, that a report names


@dataclass(frozen=True)
class Wanted:
    """The options of an import.

    Args:
        format: A name of `IMPORTERS`, or "module:function"; if it is empty, the format is recognised.
        me: In chats among people, the person whose messages are the answers.
        licence: The licence of the source; if it is empty, the one that a dataset's card states.
        source: The name of the source in the log; if it is empty, the file's name.
        task: The task of all turns, a label for `mix.shares` and `mix.repeats`; if it is empty, the one that the
            file states for each.
        branches: Whether to read only the best path, or all paths, of a tree of answers.
        judge: Checks each answer that is made from a document, in addition to the rules.
    """

    format: str = ""
    me: str = ""
    licence: str = ""
    source: str = ""
    task: str = ""
    branches: Branches = "best"
    judge: Judge | None = None


@dataclass
class Report:
    """Counts and examples of what an import found in its files, and of what it added to the log."""

    id: str = ""
    readings: int = 0  # sources read: files, or folders whose files belong together
    conversations: int = 0
    unanswered: int = 0  # conversations without any answered question
    open_questions: int = 0  # questions without an answer in the other conversations
    turns: int = 0  # turns found
    context: int = 0  # those whose answer the source marks as context, and which are not learned
    added: int = 0  # turns added to the log; in a preview, those that would be
    formats: Counter[str] = field(default_factory=Counter)  # conversations by format
    first: list[Turn] = field(default_factory=list)
    set_aside: int = 0  # records that were skipped
    faults: list[Fault] = field(default_factory=list)  # why the first of them were skipped
    unread: list[str] = field(default_factory=list)  # the first files of a folder that are in no known format
    unread_count: int = 0
    is_whole: bool = True  # False for a preview that ended early
    logged: int = 0  # turns in the log before
    read: PlantedPhrases = field(default_factory=PlantedPhrases, repr=False)  # searches the turns for poisoned data
    planted: list[PlantedPhrase] = field(default_factory=list)  # phrases that look planted to poison a model

    @property
    def known(self) -> int:
        """The number of turns that were not added: the log has them, they were deleted from it, or were found twice."""
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
    """Read chats from elsewhere into the log; return what was found and added.

    Turns that the log already has, or that were deleted from it, are skipped.

    Args:
        log: The log.
        places: Files, folders and ZIP archives, or "hf:owner/name:CONFIG:SPLIT".
        wanted: The options of the import.
        watch: Gets the percentage of all bytes that have been read, and can stop the import.
        id: The id of the import, by default a new one (`new_id`).

    Raises:
        DataError: A file is in no known format or cannot be read, or a chat among people needs `me`.
        Cancelled: The watch asked to stop. Turns that were logged before stay in the log; `undo` removes
            them.
    """
    watch, report = watch or Watch(), Report(id or new_id(), logged=log.index.count())
    try:
        with watch.stage("Importing"):
            _log(log, _batches(_read(places, wanted or Wanted(), report, _Progress(watch))), report)
    except Cancelled as error:
        undo = (
            f"remove them with byoai import --undo {report.id}, or import again to add the rest"
            if report.added
            else "nothing was written"
        )
        raise Cancelled(f"the import was stopped after {counted(report.added, 'turn')}: {undo}") from error
    report.planted = report.read.found()
    if report.added and set(report.formats) == {"document"}:  # nobody asked these hundreds of questions
        name = wanted.source if wanted and wanted.source else _name(places[0])
        chat_labels.keep_together(log.index.sessions_of_import(report.id), name)
    return report


def _log(log: ConversationLogger, batches: Iterable[list[Entry]], report: Report) -> None:
    """Log the batches. While one is read, a child process adds the previous one to the log's index."""
    indexed: Callable[[], object] = list
    with AllCores(update_index, min(cores() - 1, 1)) as child:
        for number, batch in enumerate(batches, 1):
            indexed()
            report.added += log.log_imported(batch)
            if number >= _MANY:
                indexed = child.begin([os.fsencode(log.path)])
        indexed()


def new_id() -> str:
    """Return a new id for an import: the current time and six random hexadecimal digits."""
    return datetime.now(UTC).strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:6]


def preview(
    log: ConversationLogger, places: Sequence[str | Path], wanted: Wanted | None = None, limit: int | None = None
) -> Report:
    """Return what `import_files` would find and add, without logging it. `limit`: stop after this many turns."""
    report, seen = Report(logged=log.index.count()), set[str]()
    entries = _read(places, wanted or Wanted(), report, _Progress(Watch()))
    looked = 0
    for batch in _batches(entries if limit is None else islice(entries, limit)):
        looked += len(batch)
        ids = {entry.turn.id for entry in batch} - seen
        seen |= ids if limit is not None or len(seen) < 1_000_000 else set()
        report.added += len(ids) - len(log.index.known(ids))
    report.is_whole, report.turns = limit is None or looked < limit, looked
    report.planted = report.read.found()
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
    """Remove all turns of an import from the log; return how many there were. All other turns stay.

    Raises TurnNotFound if there is no such import.
    """
    return log.take_back(id)


# Reading


@dataclass
class _Progress:
    """Reports to a watch which percentage of all bytes has been read."""

    watch: Watch
    total: int = 0
    done: int = 0
    told: int = -1

    def read(self, count: int) -> None:
        """Add `count` bytes to those that have been read. Raises Cancelled if the watch asks to stop."""
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
    """Yield the turns in all files, and add what is found to `report`."""
    unknown: list[DataError] = []  # files in no known format
    refused: list[DataError] = []  # files that cannot be read, or need further options
    for place in places:
        dataset = Dataset(str(place)) if is_dataset(place) else None
        licence = wanted.licence or (dataset.licence() if dataset else "")
        facts = {"name": wanted.source or _name(place), "licence": licence}
        readings = (
            [_reading_of(dataset, wanted, progress)] if dataset else _readings(place, wanted, report, progress, unknown)
        )
        for format, importer, source in readings:
            report.readings += 1
            told: JsonObject = {key: fact for key, fact in {**facts, "format": format}.items() if fact}
            noted = {"source": told, "import": report.id, **as_task(wanted.task)}
            try:
                for entry in _entries(format, importer, source, noted, report):
                    progress.watch.stop_if_asked()
                    yield entry
            except DataError as error:
                refused.append(error)
                report.set(Fault("", str(error)), source.name)
    if report.turns == 0 and (errors := refused or (unknown if not report.readings else [])):
        raise errors[0]
    if report.turns == 0 and wanted.me:
        raise DataError(
            f"nothing to learn from {', '.join(map(str, places))}: no text of {wanted.me!r} follows a message of "
            "somebody else. Import without --me to see the names, and choose another one"
        )


def _name(place: str | Path) -> str:
    return str(place) if str(place).startswith(PREFIX) else Path(place).resolve().name


def _entries(format: str, importer: Importer, source: Source, facts: JsonObject, report: Report) -> Iterator[Entry]:
    for chat in importer.read(source):
        if isinstance(chat, Fault):
            report.set(chat, source.name)
            continue
        try:
            entries, unanswered = entries_of(chat, format, facts)
        except BadRecord as error:
            report.set(Fault(chat.place, f"expected {error}"), source.name)
            continue
        report.conversations += bool(entries)
        report.unanswered += not entries
        report.open_questions += unanswered if entries else 0
        report.formats[format] += bool(entries)
        report.turns += len(entries)
        report.context += sum(entry.is_context for entry in entries)
        report.first += [entry.turn for entry in entries[: 3 - len(report.first)]]
        for entry in entries if format != "document" else ():  # there the questions are byoai's own
            report.read.add(entry.turn.user_message, entry.edit or entry.turn.bot_response)
        yield from entries


def _reading_of(dataset: Dataset, wanted: Wanted, progress: _Progress) -> tuple[str, Importer, Source]:
    """Return (name of the format, its importer, source) for a dataset of the Hugging Face Hub or a local copy."""
    found = dataset_look(dataset)
    format, importer, _ = (
        forced(wanted.format, found, dataset.name) if wanted.format else recognised(found, dataset.name)
    )
    return format, importer, Source([], found, wanted.me, wanted.branches, dataset=dataset, read=progress.read)


def _readings(
    place: str | Path, wanted: Wanted, report: Report, progress: _Progress, unknown: list[DataError]
) -> Iterator[tuple[str, Importer, Source]]:
    """Yield (name of the format, its importer, source) for each source at a place, in order.

    A source is a file, or a group of files that belong together. Errors about files in no known format
    are added to `unknown`.
    """
    members = members_of(Path(place).expanduser())
    progress.total += sum(member.size for member in members)
    if not members:
        raise DataError(f"{place} is empty: choose another file or folder")
    if wanted.format and (importer := importer_named(wanted.format)).whole:
        for member in members:
            found = Look("text", [])
            yield (
                wanted.format,
                importer,
                Source([member], found, read=progress.read, judge=wanted.judge, called=wanted.source),
            )
        return
    joined: dict[tuple[str, str], tuple[Importer, Source, list[Member]]] = {}  # sources of several files
    for member, (format, importer, inside), found in _looks(members, wanted, report, unknown):
        source = Source([member], found, wanted.me, wanted.branches, inside, read=progress.read)
        if importer.joins == "no":
            yield format, importer, source
        else:
            group = format, member.folder if importer.joins == "folder" else ""
            joined.setdefault(group, (importer, source, []))[2].append(member)
    for (format, _), (importer, source, together) in joined.items():
        yield format, importer, replace(source, members=together)


def _looks(
    members: Sequence[Member], wanted: Wanted, report: Report, unknown: list[DataError]
) -> Iterator[tuple[Member, Found, Look]]:
    """Yield (file, its format and importer, its layout and first records) for each file in a known format.

    Files in no known format are added to `report`, and the error about the first of them to `unknown`.
    If `members` has only one file, its error is raised instead.
    """
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
