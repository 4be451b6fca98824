"""Read the tables of an SQLite file as records. The file is not changed."""

import re
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import islice
from urllib.parse import quote

from fine_tuning.data_collection.importers.files import Member
from fine_tuning.data_collection.importers.records import SAMPLE, Look, Record, opened
from fine_tuning.errors import DataError

# names of the column that tells which conversation a message belongs to
_CONVERSATION = re.compile(r"(?:chat|session|conversation|thread|topic|dialog(?:ue)?)_?(?:id|uuid)", re.IGNORECASE)

_ZSTANDARD = b"\x28\xb5\x2f\xfd"  # the first bytes of data compressed by Zstandard
_LARGEST = 64 << 20  # bytes of such a value that are read


@contextmanager
def connected(member: Member) -> Iterator[sqlite3.Connection]:
    """Open a database read-only within the `with` block. Raises DataError if it cannot be read."""
    if member.path is None:
        raise DataError(f"{member.name} is a database inside an archive: unpack the archive, and import the file")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(member.path))}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            connection.execute("PRAGMA trusted_schema = OFF")
            yield connection
    except (sqlite3.Error, sqlite3.Warning, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the database {member.name}: {error}. If a program has it open, end it, and try again"
        ) from error


def look_at_tables(member: Member) -> Look:
    """Return the names of each table's columns, by the table's name, and the first rows of each table."""
    with connected(member) as database:
        columns = _columns(database)
        first = {name: [row.value for row in islice(_rows(database, name, columns[name]), SAMPLE)] for name in columns}
    return opened(Look("database", [columns], lists={name: some for name, some in first.items() if some}))


def rows(member: Member, names: Collection[str]) -> Iterator[Record]:
    """Yield the rows of the tables `names`, those of each conversation together."""
    with connected(member) as database:
        columns = _columns(database)
        for name in names:
            yield from _rows(database, name, columns[name])


def _columns(database: sqlite3.Connection) -> dict[str, list[str]]:
    names = [str(row[0]) for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {
        name: [str(row[0]) for row in database.execute("SELECT name FROM pragma_table_info(?)", (name,))]
        for name in names
    }


def _rows(database: sqlite3.Connection, name: str, columns: list[str]) -> Iterator[Record]:
    order = ", ".join([*(_quoted(column) for column in columns if _CONVERSATION.fullmatch(column)), "1"])
    with suppress(sqlite3.OperationalError):  # a table of an extension that is not loaded
        found = database.execute(f"SELECT * FROM {_quoted(name)} ORDER BY {order}")
        for number, row in enumerate(found, 1):
            yield Record(f"{name}, row {number}", {key: _plain(row[key]) for key in row.keys()})  # noqa: SIM118


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _plain(value: object) -> object:
    if not isinstance(value, bytes):
        return value
    return (_unpacked(value) if value.startswith(_ZSTANDARD) else value).decode("utf-8", "replace")


def _unpacked(value: bytes) -> bytes:
    """Return what was compressed by Zstandard, as Zed does with its threads; the value itself if it is damaged."""
    import pyarrow

    try:
        with pyarrow.CompressedInputStream(pyarrow.BufferReader(value), "zstd") as content:
            read: bytes = content.read(_LARGEST)
            return read
    except (pyarrow.ArrowException, OSError):
        return value
