"""Show the beginning of a file as its importer reads it: its format, its first rows, and unreadable records.

At most the first mebibyte is read, whatever size the file claims to have. Parquet is the exception,
since its index is at the end, and its content may be much larger than the file. A Parquet file is
read by a separate process with limited time and memory (`python -m fine_tuning.data_collection.peek FILE`).
"""

import contextlib
import io
import json
import math
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

from fine_tuning.data_collection.cleaning.planted_phrases import PlantedPhrase, PlantedPhrases
from fine_tuning.data_collection.importers.chats import BadRecord, Fault, entries_of
from fine_tuning.data_collection.importers.files import Member, members_of
from fine_tuning.data_collection.importers.records import Look, Record, records
from fine_tuning.data_collection.importers.shape import Importer, Source
from fine_tuning.data_collection.importers.table import looked_at, recognised
from fine_tuning.errors import DataError

ROWS = 20  # rows to show at most; also faults, and members of an archive
_READ = 1 << 20  # bytes
_CHATS = 5_000  # chats that are searched for planted phrases at most
_SECONDS, _MEMORY = 30, 4 << 30  # of the process that looks at Parquet
_TEXT, _DEPTH, _WIDTH = 500, 8, 50  # characters, levels and members of a value to show


@dataclass(frozen=True)
class Peek:
    """The beginning of a file, as it is shown to people."""

    layout: str = ""  # array, lines, object, table, parquet, xml, mail, text; "" if it cannot be read
    format: str = ""  # a name of the importers' table; "" if it is in none
    title: str = ""  # the format's name for people, or why the file is in none
    columns: tuple[str, ...] = ()  # of the first row
    rows: tuple[object, ...] = ()  # long values cut
    faults: tuple[Fault, ...] = ()
    planted: tuple[PlantedPhrase, ...] = ()  # phrases that look planted to poison a model
    context: int = 0  # of the first answers, those that the file marks as context, which are not learned
    members: tuple[str, ...] = ()  # of an archive
    is_whole: bool = True  # nothing was left out


def peek(path: Path) -> Peek:
    """Return the beginning of a file. Raises DataError if the file cannot be read at all."""
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return _in_child(path)
    return look_into(path)


def look_into(path: Path) -> Peek:
    """Return the beginning of a file, read in this process."""
    members = members_of(path)
    if len(members) == 1 and members[0].path:
        return _peek(members[0])
    names = tuple(member.name for member in members[:ROWS])
    for member in members[:ROWS]:
        with contextlib.suppress(DataError):
            found = _peek(member)
            if found.format:
                title = f"{found.title}, in {member.name}"
                return replace(found, title=title, members=names, is_whole=False)
    return Peek(
        title="none of its first files is in a format that byoai knows", members=names, is_whole=len(members) <= ROWS
    )


def _peek(member: Member) -> Peek:
    beginning, is_cut = _beginning(member)
    found = looked_at(beginning)
    shown = list(islice(_rows(beginning, found), ROWS + 1))
    if is_cut and shown and len(shown) <= ROWS:  # the last one is incomplete
        shown.pop()
    rows = [each.value for each in shown[:ROWS] if isinstance(each, Record)]
    faults = [each for each in shown[:ROWS] if isinstance(each, Fault)]
    format, title = "", ""
    planted: tuple[PlantedPhrase, ...] = ()
    context = 0
    try:
        format, importer, inside = recognised(found, member.name)
        title = importer.title
        source = Source([beginning], found, inside=inside)
        faults += _faults(importer, source, is_cut)
        planted, context = _looked_through(format, importer, source)
    except DataError as error:
        title = str(error)
    columns = tuple(str(_shown(name)) for name in list(rows[0])[:_WIDTH]) if rows and isinstance(rows[0], dict) else ()
    told = tuple(dict.fromkeys(Fault(fault.place, str(_shown(fault.reason))) for fault in faults))[:ROWS]
    whole = not is_cut and len(shown) <= ROWS
    shown_rows = tuple(map(_shown, rows))
    return Peek(found.layout, format, title, columns, shown_rows, told, planted, context, is_whole=whole)


def _beginning(member: Member) -> tuple[Member, bool]:
    """Return the first part of a file as a file, and whether anything was left out. Parquet is returned whole."""
    if member.path and member.head().startswith(b"PAR1"):
        return member, False
    with member.opened() as content:
        read = content.read(_READ + 1)
    is_cut = len(read) > _READ
    if is_cut:
        read = read[: read.rfind(b"\n", 0, _READ) + 1] or read[:_READ]
    return Member(member.name.lower().removesuffix(".gz"), len(read), partial(_stream, read)), is_cut


def _stream(content: bytes) -> IO[bytes]:
    return io.BytesIO(content)


def _rows(member: Member, found: Look) -> Iterator[Record | Fault]:
    if found.layout == "text":
        yield from (Record(f"line {number}", line) for number, line in enumerate(found.lines, 1) if line.strip())
    elif found.lists:  # a large object: show its longest list
        longest = max(found.lists.values(), key=len)
        yield from (Record(f"record {number}", value) for number, value in enumerate(longest, 1))
    else:
        yield from records(member, found)


def _faults(importer: Importer, source: Source, is_cut: bool) -> list[Fault]:
    """Return the faults that the importer reports for the first records."""
    read: Iterable[object] = islice(importer.read(source), ROWS)
    found = []
    try:
        found = list(read)
    except DataError as error:  # chats among people need to know whose messages are the answers
        found = [Fault("", str(error))]
    return [each for each in (found[:-1] if is_cut and len(found) < ROWS else found) if isinstance(each, Fault)]


def _looked_through(format: str, importer: Importer, source: Source) -> tuple[tuple[PlantedPhrase, ...], int]:
    """Return what is found in the first chats: phrases that look like data poisoning, and how many answers are context.

    See planted_phrases.py for the phrases.
    """
    look, context = PlantedPhrases(), 0
    with contextlib.suppress(DataError):  # it is damaged further on, or is a chat among people
        for chat in islice(importer.read(source), _CHATS):
            with contextlib.suppress(BadRecord):
                for entry in entries_of(chat, format, {})[0] if not isinstance(chat, Fault) else ():
                    look.add(entry.turn.user_message, entry.edit or entry.turn.bot_response)
                    context += entry.is_context
    return tuple(look.found()), context


def _shown(value: object, depth: int = _DEPTH) -> object:
    """Return a value as JSON that any parser accepts, with long texts, lists and objects shortened."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 1 << 53:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, dict) and depth:
        return {str(_shown(str(key))): _shown(each, depth - 1) for key, each in islice(value.items(), _WIDTH)}
    if isinstance(value, (list, tuple)) and depth:
        return [_shown(each, depth - 1) for each in value[:_WIDTH]]
    if isinstance(value, int):
        return "a number of many digits"
    text = value if isinstance(value, str) else str(value) if isinstance(value, float) else repr(value)[: 2 * _TEXT]
    cut = text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"
    return cut.encode("utf-8", "replace").decode()


# Parquet


def _in_child(path: Path) -> Peek:
    command = [sys.executable, "-m", "fine_tuning.data_collection.peek", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
        told: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise DataError(
            f"{path.name} could not be examined within {_SECONDS} s: it may be damaged. Save or download it again"
        ) from None
    except ValueError:
        raise DataError(
            f"{path.name} is a damaged Parquet file (reading it ended with exit code {done.returncode}): download or "
            "export it again"
        ) from None
    if "refused" in told:
        raise DataError(told["refused"])
    found: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    faults = tuple(Fault(**fault) for fault in told["faults"])
    planted = tuple(PlantedPhrase.of(each) for each in told["planted"])
    return Peek(**{**found, "faults": faults, "planted": planted})


def _main(path: Path) -> dict[str, object]:
    if sys.platform != "win32":
        import resource

        for limit, most in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_CPU, _SECONDS), (resource.RLIMIT_CORE, 0)):
            resource.setrlimit(limit, (most, most))
    try:
        return asdict(look_into(path))
    except DataError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": (f"{path.name} needs more than {_MEMORY >> 30} GiB of memory to be examined: split it")}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_main(Path(sys.argv[1]))))
