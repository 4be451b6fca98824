"""Write records as the bytes of a file, piece by piece: JSON Lines, a JSON array, CSV, Parquet.

In CSV, lists are cells with JSON. In Parquet, they are columns of their own type, as the `datasets`
library and TRL read them.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

Kind = Literal["text", "messages", "chatml", "sharegpt", "exchanges", "numbers"]
"""What a column holds: a text; a list of {"role", "content"}, of pairs of texts, or of numbers.

"chatml" and "sharegpt" are lists of {"role", "content"} and of {"from", "value"} that may have a "weight", too.
"""

Record = Mapping[str, object]

_AT_ONCE = 10_000  # records of a Parquet file written at once
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def json_lines(records: Iterable[Record]) -> Iterator[bytes]:
    return ((json.dumps(record, ensure_ascii=False) + "\n").encode() for record in records)


def json_array(records: Iterable[Record]) -> Iterator[bytes]:
    """Yield the text of `json.dumps(list(records), indent=2)` and a line end, one record at a time."""
    before = "["
    for record in records:
        # JSON escapes line ends within texts
        text = json.dumps(record, ensure_ascii=False, indent=2).replace("\n", "\n  ")
        yield f"{before}\n  {text}".encode()
        before = ","
    yield b"[]\n" if before == "[" else b"\n]\n"


def csv_rows(records: Iterable[Record], columns: Sequence[str]) -> Iterator[bytes]:
    yield "\ufeff".encode()  # Excel reads UTF-8 only with this mark
    yield _row(columns)
    for record in records:
        yield _row([_cell(record.get(column)) for column in columns])


def parquet(records: Iterable[Record], columns: Mapping[str, Kind]) -> Iterator[bytes]:
    """Yield the bytes of a Parquet file in pieces of some thousands of records."""
    import pyarrow
    import pyarrow.parquet

    text, weight = pyarrow.string(), ("weight", pyarrow.int8())
    types = {
        "text": text,
        "messages": pyarrow.list_(pyarrow.struct([("role", text), ("content", text)])),
        "chatml": pyarrow.list_(pyarrow.struct([("role", text), ("content", text), weight])),
        "sharegpt": pyarrow.list_(pyarrow.struct([("from", text), ("value", text), weight])),
        "exchanges": pyarrow.list_(pyarrow.list_(text)),
        "numbers": pyarrow.list_(pyarrow.int8()),
    }
    schema = pyarrow.schema([(column, types[kind]) for column, kind in columns.items()])
    rest, sink = iter(records), _Sink()
    with pyarrow.parquet.ParquetWriter(sink, schema) as writer:
        while batch := list(islice(rest, _AT_ONCE)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))
            yield sink.taken()
    yield sink.taken()


def _row(cells: Sequence[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue().encode()


def _cell(value: object) -> str:
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    text = "" if value is None else str(value)
    return "'" + text if _is_formula(text) else text


def unguarded(cell: str) -> str:
    """Return the text of a CSV cell without the "'" that `csv_rows` puts before a text that looks like a formula.

    With it a spreadsheet shows the text and does not execute it (OWASP, CSV injection).
    """
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def _is_formula(text: str) -> bool:
    return text.lstrip(" ").startswith(_FORMULA)


class _Sink(io.RawIOBase):
    """A write-only file in memory. `taken` returns what was written since the last call, and frees it."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._pieces.append(bytes(piece))
        self._written += len(self._pieces[-1])
        return len(self._pieces[-1])

    def tell(self) -> int:
        return self._written

    def taken(self) -> bytes:
        """Return what was written since the last call."""
        found, self._pieces = b"".join(self._pieces), []
        return found
