"""Write conversations as files for other programs: as the log has them, and as training data.

jsonl        one turn per line, as in the log
json         a list of conversations with their turns
csv          one turn per row, for spreadsheets
parquet      one turn per row, for data frames; `metadata` is JSON
markdown     for people: a heading for each conversation, then its messages
chatml       one conversation per line
sharegpt     one conversation per line, with `from` and `value`, as many data sets have it
alpaca       one turn per record, with the turns before it as its history
instruction  one turn per line, with the turns before it as its history

The last four are training data, with one answer to each question. pair_formats.py shows the keys of
chatml, alpaca and instruction.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from fine_tuning import paths
from fine_tuning.branches import on_chosen_paths, stretches
from fine_tuning.config import DatasetFormat
from fine_tuning.conversation import Conversation, Turn, parse_conversations
from fine_tuning.data_collection.pair_formats import FORMATS, Example
from fine_tuning.errors import DataError

_COLUMNS = ("id", "session_id", "timestamp", "user_message", "bot_response", "model", "rating")
_MARK = "exported.json"  # the number of turns in the last export
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_AT_ONCE = 10_000  # turns of a Parquet file written at once
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class DataExporter:
    """Exports conversations to `folder` (by default data/exports/), into one file for each format."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder else paths.home() / "exports"

    def export_all_formats(self, conversations: Sequence[Conversation | dict[str, object]]) -> dict[str, Path]:
        """Write an export in every format, as `export` does."""
        return self.export(conversations, _FORMATS)

    def export(
        self, conversations: Sequence[Conversation | dict[str, object]], formats: Iterable[str]
    ) -> dict[str, Path]:
        """Write the conversations in these formats, and replace older exports; return the paths by format.

        Raises DataError for an unknown format, or for records that are not conversations; the message names
        each such record.
        """
        parsed = parse_conversations(conversations)
        return {format: write_export(parsed, format, self.folder / _known(format).file) for format in map(str, formats)}

    def export_when_due(self, conversations: Sequence[Conversation], every: int) -> bool:
        """Write every format if there are at least `every` more turns than in the last export, or fewer turns.

        Return whether an export was due.
        """
        mark, turns = self.folder / _MARK, sum(len(conversation.turns) for conversation in conversations)
        before = int(paths.read_json(mark)) if mark.exists() else 0
        if before <= turns < before + every:
            return False
        self.export_all_formats(conversations)
        paths.write_json(mark, turns)
        return True

    def exported(self) -> list[str]:
        """Return the formats in which the folder has an export."""
        return [format for format, known in _FORMATS.items() if (self.folder / known.file).exists()]

    def remove(self) -> list[Path]:
        """Remove all exports from the folder; return the files that existed."""
        files = [self.folder / name for name in (_MARK, *(known.file for known in _FORMATS.values()))]
        there = [file for file in files if file.exists()]
        for file in there:
            file.unlink()
        return there


def write_export(conversations: Sequence[Conversation | dict[str, object]], format: str, path: Path) -> Path:
    """Write the conversations in one format to `path`, atomically; return the path.

    Raises DataError for an unknown format, and for a path that cannot be written or is in the folder of
    the logs.
    """
    render = _known(format).render
    if paths.real(path).parent == paths.real(paths.conversations_dir()):
        raise DataError(
            f"{path} is in the folder of the logs, where an export could overwrite a log: choose another folder"
        )
    try:
        parsed = parse_conversations(conversations)
        paths.atomic_write(path, render(parsed))
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}. Choose another folder, or check the disk and the "
            "permissions"
        ) from error
    return path


def file_of(format: str) -> str:
    """Return the file name of a format's export. Raises DataError for an unknown format."""
    return _known(format).file


def render(conversations: list[Conversation], format: str) -> Iterator[bytes]:
    """Return an iterator over the bytes of an export in pieces. Texts are in UTF-8.

    Raises DataError for an unknown format.
    """
    return _known(format).render(conversations)


def _in_utf8(render: Callable[[list[Conversation]], Iterator[str]]) -> Callable[[list[Conversation]], Iterator[bytes]]:
    return lambda conversations: (piece.encode() for piece in render(conversations))


def _parquet(conversations: list[Conversation]) -> Iterator[bytes]:
    """Yield the bytes of a Parquet file in pieces of some thousands of turns."""
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(column, pyarrow.string()) for column in (*_COLUMNS, "metadata")])
    turns = (turn for conversation in conversations for turn in conversation.turns)
    sink = _Sink()
    with pyarrow.parquet.ParquetWriter(sink, schema) as writer:
        while batch := list(islice(turns, _AT_ONCE)):
            writer.write_table(pyarrow.Table.from_pylist([_parquet_row(turn) for turn in batch], schema))
            yield sink.taken()
    yield sink.taken()


def _parquet_row(turn: Turn) -> dict[str, str | None]:
    facts = {**turn.metadata, **turn.model_dump(exclude={"metadata"})}
    row = {column: None if facts.get(column) is None else str(facts[column]) for column in _COLUMNS}
    return row | {"metadata": json.dumps(turn.metadata, ensure_ascii=False)}


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


def _jsonl(conversations: list[Conversation]) -> Iterator[str]:
    return _lines(turn.model_dump() for conversation in conversations for turn in conversation.turns)


def _json(conversations: list[Conversation]) -> Iterator[str]:
    return _array(conversation.model_dump() for conversation in conversations)


def _csv(conversations: list[Conversation]) -> Iterator[str]:
    yield "\ufeff"  # Excel reads UTF-8 only with this mark
    yield _row(_COLUMNS)
    for turn in (turn for conversation in conversations for turn in conversation.turns):
        facts = {**turn.metadata, **turn.model_dump(exclude={"metadata"})}
        yield _row([_cell(facts.get(column)) for column in _COLUMNS])


def _markdown(conversations: list[Conversation]) -> Iterator[str]:
    """Yield each conversation as Markdown, along its chosen path, which has one answer to each question.

    Messages are Markdown already, so they stay unchanged.
    """
    before = ""
    for conversation in conversations:
        turns = on_chosen_paths(conversation.turns)
        begun = next((turn.timestamp for turn in turns if turn.timestamp), "")
        yield f"{before}# Conversation{f' of {begun[:10]}' if begun else ''}\n"
        if conversation.system:
            yield f"\n**System prompt**\n\n{_block(conversation.system)}\n"
        for turn in turns:
            who = str(turn.metadata.get("model") or "Assistant")
            yield f"\n## You\n\n{_block(turn.user_message)}\n\n## {_line(who)}\n\n{_block(turn.bot_response)}\n"
        before = "\n---\n\n"


def _block(text: str) -> str:
    """Return a text without line ends around it. A code fence that is still open at its end is closed."""
    lines, fence = text.strip("\n").split("\n"), ""
    for line in lines:
        found = _FENCE.match(line)
        if found and not fence:
            fence = found[1]
        elif found and found[1].startswith(fence) and not line.strip(f" {fence[0]}"):
            fence = ""
    return "\n".join([*lines, fence] if fence else lines)


def _line(text: str) -> str:
    return " ".join(text.split())


def _chatml(conversations: list[Conversation]) -> Iterator[str]:
    examples = (example for conversation in conversations for example in _examples(conversation))
    return _lines(FORMATS[DatasetFormat.CHATML].of(example) for example in examples)


def _sharegpt(conversations: list[Conversation]) -> Iterator[str]:
    """Yield each conversation as a line, as importers/sharegpt.py reads it."""
    examples = (example for conversation in conversations for example in _examples(conversation))
    for example in examples:
        said = [("system", example.system)] if example.system else []
        for question, answer in example.exchanges:
            said += [("human", question), ("gpt", answer)]
        yield json.dumps({"conversations": [{"from": who, "value": text} for who, text in said]}, ensure_ascii=False)
        yield "\n"


def _alpaca(conversations: list[Conversation]) -> Iterator[str]:
    return _array(FORMATS[DatasetFormat.ALPACA].of(example) for example in _by_turn(conversations))


def _instruction(conversations: list[Conversation]) -> Iterator[str]:
    return _lines(FORMATS[DatasetFormat.INSTRUCTION].of(example) for example in _by_turn(conversations))


def _examples(conversation: Conversation) -> Iterator[Example]:
    """Yield the chosen path of a conversation as one example, or as several if the system prompt changes."""
    for stretch in stretches(conversation):
        yield Example([(turn.user_message, turn.bot_response) for turn in stretch.turns], stretch.system)


def _by_turn(conversations: list[Conversation]) -> Iterator[Example]:
    """Yield one example for each question: the question with its answer, after the exchanges before it."""
    for whole in (example for conversation in conversations for example in _examples(conversation)):
        yield from (Example(whole.exchanges[:end], whole.system) for end in range(1, len(whole.exchanges) + 1))


def _cell(value: object) -> str:
    """Return the text of a cell that a spreadsheet shows and does not execute as a formula (OWASP, CSV injection)."""
    text = "" if value is None else str(value)
    return "'" + text if text.lstrip(" ").startswith(_FORMULA) else text


def _row(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


def _lines(records: Iterable[dict[str, object]]) -> Iterator[str]:
    return (json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _array(records: Iterable[dict[str, object]]) -> Iterator[str]:
    """Yield the text of `json.dumps(list(records), indent=2)` and a line end, one record at a time."""
    before = "["
    for record in records:
        # JSON escapes line ends within texts
        yield before + "\n  " + json.dumps(record, ensure_ascii=False, indent=2).replace("\n", "\n  ")
        before = ","
    yield "[]\n" if before == "[" else "\n]\n"


class _Format(NamedTuple):
    file: str
    render: Callable[[list[Conversation]], Iterator[bytes]]


_LOG: dict[str, _Format] = {
    "jsonl": _Format("conversations.jsonl", _in_utf8(_jsonl)),
    "json": _Format("conversations.json", _in_utf8(_json)),
    "csv": _Format("conversations.csv", _in_utf8(_csv)),
    "parquet": _Format("conversations.parquet", _parquet),
    "markdown": _Format("conversations.md", _in_utf8(_markdown)),
}
_TRAINING: dict[str, _Format] = {
    DatasetFormat.CHATML.value: _Format("chatml.jsonl", _in_utf8(_chatml)),
    "sharegpt": _Format("sharegpt.jsonl", _in_utf8(_sharegpt)),
    DatasetFormat.ALPACA.value: _Format("alpaca.json", _in_utf8(_alpaca)),
    DatasetFormat.INSTRUCTION.value: _Format("instruction.jsonl", _in_utf8(_instruction)),
}
_FORMATS = _LOG | _TRAINING

LOG_FORMATS = tuple(_LOG)
ALL_FORMATS = tuple(_FORMATS)


def _known(format: str) -> _Format:
    if format not in _FORMATS:
        raise DataError(f"unknown export format {format!r}: choose one of {', '.join(_FORMATS)}")
    return _FORMATS[format]
