"""Read the records of a file of any program: JSON, JSON Lines, CSV, Parquet, XML, mails, text, or a database.

A malformed record is replaced by a Fault, and reading continues.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, TextIO

from fine_tuning.data_collection.importers import mail_records, xml_records
from fine_tuning.data_collection.importers.chats import QUESTION_MARKS, Fault
from fine_tuning.data_collection.importers.files import UNDECODED, Member, Read, encoding_of, unwatched
from fine_tuning.data_collection.importers.json_stream import LONGEST, BadJson, JsonReader, elements, events
from fine_tuning.data_collection.importers.packed import unpacked
from fine_tuning.data_collection.record_files import unguarded
from fine_tuning.errors import DataError
from fine_tuning.json_values import parse_json

SAMPLE = 20  # records that are examined to recognise the format
_LINES = 2_000  # lines of a text that are examined
_BATCH = 500  # rows of a Parquet file in memory at once
_SPOKEN = {"role", "content", "from", "value", "user", "human", "input"}  # keys of a message in a cell of a table
# a line such as "sep=;" gives the delimiter for Excel; Anki writes "#separator:tab", "#tags column:3" and others
_SETTING = re.compile(r"sep=|#(?:separator|html|tags|deck|notetype|guid|columns?|if matches)\b[\w ]*:")
_ABOUT_CARDS = re.compile(r"^#(?:guid|notetype|deck|tags) column:(\d{1,3})", re.MULTILINE)
_FIRST, _HEADERS = 12, 1_000  # lines and characters in which settings may stand
DELIMITERS = {".csv": ",;\t|", ".tsv": "\t"}

Layout = Literal["array", "lines", "object", "table", "parquet", "xml", "mail", "database", "text"]


@dataclass(frozen=True, slots=True)
class Record:
    """A value, and its place in the file, such as "line 3"."""

    place: str
    value: Any


@dataclass(frozen=True)
class Look:
    """The layout of a file, and its first records.

    If the file is one large object, the only record holds the beginnings of its lists.
    """

    layout: Layout
    sample: Sequence[Any] = ()
    lines: Sequence[str] = ()  # for a text, its first lines
    delimiter: str = ","
    names: Sequence[str] = ()  # of the columns of a table, if its first row does not name them
    # for an object, the first elements of each of its lists
    lists: dict[str, list[object]] = field(default_factory=dict)
    is_packed: bool = False  # whether records must be opened (`unpacked`)


def look(member: Member) -> Look:
    """Return the layout and the first records of a file. Raises DataError if it cannot be read."""
    return opened(_look(member))


def opened(found: Look) -> Look:
    """Return a look whose first records are not packed."""
    sample = [unpacked(value) for value in found.sample]
    lists = {key: [unpacked(value, found.layout == "database") for value in some] for key, some in found.lists.items()}
    both = (*zip(sample, found.sample, strict=True), *((lists[key], some) for key, some in found.lists.items()))
    is_packed = any(one is not other and one != other for one, other in both)
    return replace(found, sample=sample, lists=lists, is_packed=True) if is_packed else found


def _look(member: Member) -> Look:
    head = member.head()
    if head.startswith(b"SQLite format 3\0"):
        return Look("database")
    if head.startswith(b"PAR1"):
        return Look("parquet", _values(parquet(member)))
    with member.text(newline="\n") as text:
        start = text.read(1 << 16).lstrip("\ufeff \t\r\n")
    if re.match(r'\[\s*[\[{"\]]', start):
        return Look("lines", _values(lines(member))) if _is_lines(start) else Look("array", _values(array(member)))
    if start.startswith("{"):
        return _look_at_object(member, start)
    if xml_records.is_xml(start, member.suffix):
        return Look("xml", _values(_placed(xml_records.elements(member))))
    if mail_records.is_mail(start):
        return Look("mail", _values(_placed(mail_records.messages(member))))
    found = head.decode(encoding_of(head), "replace").splitlines()[:_LINES]
    as_table = look_at_table(member, DELIMITERS[member.suffix]) if member.suffix in DELIMITERS else None
    return as_table or Look("text", lines=found)


def look_at_table(member: Member, delimiters: str = DELIMITERS[".csv"]) -> Look | None:
    """Return the layout and first rows of a table; None if the file is not a table.

    The delimiter is the one that divides the first row into the most columns.
    """
    looks = [opened(Look("table", _values(table(member, delimiter)), delimiter=delimiter)) for delimiter in delimiters]
    best = max(looks, key=lambda look: len(look.sample[0]) if look.sample else 0)
    if not best.sample:
        return None
    cells = list(best.sample[0].values())
    return best if len(cells) > 1 or isinstance(cells[0], list) else None  # a single column may hold conversations


def look_at_headless(member: Member, found: Look) -> Look | None:
    """Return the look at a table without a row of column names; None if it is unclear which column holds the questions.

    They are in the first column in which most rows end with a question mark, or in the first field of an
    Anki deck. The next column holds the answers. `found` is the look for which the first row was taken as
    the names of the columns.
    """
    rows = [list(found.sample[0]), *(list(row.values()) for row in found.sample)]
    head = member.head()[:_HEADERS].decode(member.encoding, "replace")
    about = {int(number) - 1 for number in _ABOUT_CARDS.findall(head)}  # columns such as the card's tags
    for column in range(len(rows[0]) - 1):
        asks = sum(str(row[column]).rstrip().endswith(QUESTION_MARKS) for row in rows)
        if 2 * asks > len(rows) or (head.startswith("#separator:") and column not in about):
            names = [f"column {number}" for number in range(len(rows[0]))]
            names[column], names[column + 1] = "question", "answer"
            sample = _values(table(member, found.delimiter, names=names))
            return replace(found, sample=sample, names=names)
    return None


def _look_at_object(member: Member, start: str) -> Look:
    if member.suffix in (".jsonl", ".ndjson") or _is_lines(start):
        return Look("lines", _values(lines(member)))
    whole: dict[str, object] = {}
    within_chats: dict[str, object] = {}
    lists: dict[str, list[object]] = {}
    with suppress(BadJson), member.text() as text:
        for path, value in islice(events(JsonReader(text)), 200):
            if len(path) > 1 and path[-1] == "*" and not isinstance(value, Fault):
                lists.setdefault(path[-2], []).append(value)
            elif len(path) == 1 and path[0] != "{":
                whole[path[0]] = value
            elif path[0] == "chats" and path[1] != "{":  # Telegram's export of all chats, or another program's object
                within_chats[path[1]] = [] if path[1] == "list" else value
    if within_chats:
        whole["chats"] = within_chats
    return Look("object", [{**lists, **whole}], lists=lists)


def _is_lines(start: str) -> bool:
    """Return whether a text has an object, or an array, on each line.

    The first line must be a complete one, and the second line must begin another.
    """
    first, _, rest = start.partition("\n")
    return first.rstrip().endswith("}" if start[0] == "{" else "]") and rest.lstrip().startswith(start[0])


def _values(records: Iterable[Record | Fault]) -> list[Any]:
    """Return the first SAMPLE values, without faults."""
    return [record.value for record in islice(records, SAMPLE) if isinstance(record, Record)]


# Records, by layout


def records(member: Member, found: Look, read: Read = unwatched) -> Iterator[Record | Fault]:
    """Yield the records of a file: elements of an array, lines, or rows of a table; an object is a single record."""
    match found.layout:
        case "array":
            yield from array(member, read)
        case "lines":
            yield from lines(member, read)
        case "table":
            yield from table(member, found.delimiter, read, found.names)
        case "parquet":
            yield from parquet(member, read)
        case "xml":
            yield from _placed(xml_records.elements(member, read))
        case "mail":
            yield from _placed(mail_records.messages(member, read))
        case "object":
            yield from _whole(member, read)


def array(member: Member, read: Read = unwatched) -> Iterator[Record | Fault]:
    with member.text(read) as text:
        try:
            yield from _numbered(elements(JsonReader(text)))
        except BadJson as error:
            yield Fault(*_split(error))


def within(
    member: Member, wanted: str | Callable[[str, object], bool], read: Read = unwatched
) -> Iterator[Record | Fault]:
    """Yield the elements of the list `wanted` in a large object.

    If `wanted` is a function, yield the elements of all lists for which it returns True: it gets the
    list's key and the element.
    """
    is_wanted = wanted if callable(wanted) else lambda key, value: key == wanted
    with member.text(read) as text:
        try:
            found = (
                value
                for path, value in events(JsonReader(text))
                if len(path) == 2 and path[1] == "*" and is_wanted(path[0], value)
            )
            yield from _numbered(found)
        except BadJson as error:
            yield Fault(*_split(error))


def _numbered(values: Iterable[object]) -> Iterator[Record | Fault]:
    for number, value in enumerate(values, 1):
        yield value if isinstance(value, Fault) else Record(f"record {number}", value)


def _split(error: BadJson) -> tuple[str, str]:
    place, _, reason = str(error).partition(": ")
    return place, f"expected JSON: {reason}"


def lines(member: Member, read: Read = unwatched) -> Iterator[Record | Fault]:
    with member.text(read) as text:
        for number, line in numbered_lines(text):
            place = f"line {number}"
            if not line.strip("\ufeff \t\r\n"):
                continue
            if len(line) > LONGEST:
                yield Fault(place, f"expected at most {LONGEST} characters")
            elif not line.isascii() and UNDECODED.search(line):
                yield Fault(place, "expected text in the file's encoding, found other bytes")
            else:
                yield _parsed(place, line)


def _parsed(place: str, line: str) -> Record | Fault:
    try:
        return Record(place, json.loads(line.lstrip("\ufeff")))
    except json.JSONDecodeError as error:
        return Fault(f"{place}, column {error.colno}", f"expected JSON: {error.msg}")
    except RecursionError:
        return Fault(place, "expected JSON, found it nested too deeply")
    except ValueError as error:  # such as a number with thousands of digits
        return Fault(place, f"expected JSON: {error}")


def numbered_lines(text: TextIO) -> Iterator[tuple[int, str]]:
    """Yield (number, line). Of a line that is too long, only the beginning is yielded, a little more than `LONGEST`."""
    number = 0
    while line := text.readline(LONGEST + 1):
        number += 1
        rest = line
        while len(rest) > LONGEST and not rest.endswith("\n"):
            rest = text.readline(LONGEST + 1)
        yield number, line


def table(
    member: Member, delimiter: str, read: Read = unwatched, names: Sequence[str] = ()
) -> Iterator[Record | Fault]:
    """Yield the rows of a table as objects, whose keys are `names`, else the cells of the first row."""
    csv.field_size_limit(LONGEST)
    with member.text(read, newline="") as text:
        rows = csv.reader(text, delimiter=delimiter)
        while True:
            place = f"line {rows.line_num + 1}"
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Fault(place, f"expected a row of a table: {error}")
                continue
            if rows.line_num < _FIRST and row and _SETTING.match(row[0]):
                continue
            if not names:
                names = [name.strip("\ufeff ") for name in row]
            elif any("\udc80" <= sign <= "\udcff" for cell in row if not cell.isascii() for sign in cell):
                yield Fault(place, "expected text in the file's encoding, found other bytes")
            elif len(row) == len(names):
                yield Record(place, {name: cell_value(cell) for name, cell in zip(names, row, strict=True)})
            elif any(cell.strip() for cell in row):
                yield Fault(place, f"expected {len(names)} columns, found {len(row)}")


def cell_value(cell: str) -> object:
    """Return the text of a cell, or the list of messages or of exchanges that is written in it as JSON.

    A "'" that an export puts before a text, so that spreadsheets do not take it for a formula, is
    left out.
    """
    if cell.startswith(("[{", "[[")):
        with suppress(ValueError):
            found = parse_json(cell)
            if all(isinstance(each, list) or (isinstance(each, dict) and _SPOKEN & each.keys()) for each in found):
                return found
    return unguarded(cell)


def parquet(member: Member, read: Read = unwatched) -> Iterator[Record | Fault]:
    import pyarrow
    from pyarrow import parquet as format

    if member.path is None:
        raise DataError(f"{member.name} is a Parquet file inside an archive: unpack the archive, and import the folder")
    number = 0
    try:
        with format.ParquetFile(member.path) as file:
            for batch in file.iter_batches(_BATCH):
                read(member.size * len(batch) // max(file.metadata.num_rows, 1))
                for row in batch.to_pylist():
                    number += 1
                    yield Record(f"row {number}", row)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        if number == 0:
            raise DataError(
                f"{member.name} is a damaged Parquet file ({str(error)[:200]}): download or export it again"
            ) from error
        yield Fault(f"row {number + 1}", f"expected a row: {str(error)[:200]}")


def _placed(found: Iterable[tuple[str, object] | Fault]) -> Iterator[Record | Fault]:
    for each in found:
        yield each if isinstance(each, Fault) else Record(*each)


def _whole(member: Member, read: Read) -> Iterator[Record | Fault]:
    with member.text(read) as text:
        reader, number = JsonReader(text), 0
        try:
            while reader.peek():
                number += 1
                yield Record(f"object {number}", reader.value())
        except BadJson as error:
            yield Fault(*_split(error))
