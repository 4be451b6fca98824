"""Conversations as files for other programs: the log as it is, and as training data.

jsonl        a turn a line, as the log has it
json         a list of conversations with their turns
csv          a turn a row, for spreadsheets
chatml       one conversation a line
alpaca       one turn a record, with the earlier ones as its history
instruction  one turn a line, with the earlier ones as its history

The last three are training data: one answer to each question. pair_formats.py shows their keys.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fine_tuning import paths
from fine_tuning.config import DatasetFormat
from fine_tuning.conversation import Conversation, parse_conversations, standing
from fine_tuning.data_collection.pair_formats import FORMATS, Example
from fine_tuning.errors import DataError

_COLUMNS = ("id", "session_id", "timestamp", "user_message", "bot_response", "model", "rating")
_MARK = "exported.json"  # how many turns were exported last
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class DataExporter:
    """Writes conversations into `folder`, one file for each format. None: data/exports/."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder else paths.home() / "exports"

    def export_all_formats(self, conversations: Sequence[Conversation | dict[str, Any]]) -> dict[str, Path]:
        """Write every format, as `export` does."""
        return self.export(conversations, _FORMATS)

    def export(self, conversations: Sequence[Conversation | dict[str, Any]], formats: Iterable[str]) -> dict[str, Path]:
        """Write these formats in place of older exports, and return the paths by format.

        Raises DataError that names every record that is no conversation, or an unknown format.
        """
        parsed = parse_conversations(conversations)
        return {format: write_export(parsed, format, self.folder / _known(format).file) for format in map(str, formats)}

    def export_when_due(self, conversations: Sequence[Conversation], every: int) -> bool:
        """Write every format if there are `every` more turns than at the last time, or fewer than then. Return whether it was due."""
        mark, turns = self.folder / _MARK, sum(len(conversation.turns) for conversation in conversations)
        before = int(paths.read_json(mark)) if mark.exists() else 0
        if before <= turns < before + every:
            return False
        self.export_all_formats(conversations)
        paths.write_json(mark, turns)
        return True

    def exported(self) -> list[str]:
        """Return the formats that were exported here."""
        return [format for format, known in _FORMATS.items() if (self.folder / known.file).exists()]

    def remove(self) -> list[Path]:
        """Remove what was exported here, and return the files that were there."""
        files = [self.folder / name for name in (_MARK, *(known.file for known in _FORMATS.values()))]
        there = [file for file in files if file.exists()]
        for file in there:
            file.unlink()
        return there


def write_export(conversations: Sequence[Conversation | dict[str, Any]], format: str, path: Path) -> Path:
    """Write one format to `path`, whole or not at all. DataError for an unknown format, an unwritable place, or that of the logs."""
    render = _known(format).render
    if paths.real(path).parent == paths.real(paths.conversations_dir()):
        raise DataError(f"{path} lies among the logs, and an export could replace one: name another folder")
    try:
        parsed = parse_conversations(conversations)
        paths.atomic_write(path, (piece.encode() for piece in render(parsed)))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def file_of(format: str) -> str:
    """Return the name of the file that holds an export. DataError for an unknown format."""
    return _known(format).file


def render(conversations: list[Conversation], format: str) -> Iterator[str]:
    """Yield an export's text in pieces. DataError, at once, for an unknown format."""
    return _known(format).render(conversations)


def _jsonl(conversations: list[Conversation]) -> Iterator[str]:
    return _lines(turn.model_dump() for conversation in conversations for turn in conversation.turns)


def _json(conversations: list[Conversation]) -> Iterator[str]:
    return _array(conversation.model_dump() for conversation in conversations)


def _csv(conversations: list[Conversation]) -> Iterator[str]:
    yield "\ufeff"  # without the mark Excel does not read UTF-8
    yield _row(_COLUMNS)
    for turn in (turn for conversation in conversations for turn in conversation.turns):
        facts = {**turn.metadata, **turn.model_dump(exclude={"metadata"})}
        yield _row([_cell(facts.get(column)) for column in _COLUMNS])


def _chatml(conversations: list[Conversation]) -> Iterator[str]:
    examples = (Example(_exchanges(conversation), conversation.system or "") for conversation in conversations)
    return _lines(FORMATS[DatasetFormat.CHATML].of(example) for example in examples)


def _alpaca(conversations: list[Conversation]) -> Iterator[str]:
    return _array(FORMATS[DatasetFormat.ALPACA].of(example) for example in _by_turn(conversations))


def _instruction(conversations: list[Conversation]) -> Iterator[str]:
    return _lines(FORMATS[DatasetFormat.INSTRUCTION].of(example) for example in _by_turn(conversations))


def _exchanges(conversation: Conversation) -> list[tuple[str, str]]:
    """Return each question with its one answer."""
    return [(turn.user_message, turn.bot_response) for turn in standing(conversation.turns)]


def _by_turn(conversations: list[Conversation]) -> Iterator[Example]:
    """Yield one example for each question, with the exchanges before it."""
    for conversation in conversations:
        exchanges = _exchanges(conversation)
        yield from (Example(exchanges[:end], conversation.system or "") for end in range(1, len(exchanges) + 1))


def _cell(value: object) -> str:
    """Return text that a spreadsheet shows and does not run (OWASP, CSV injection)."""
    text = "" if value is None else str(value)
    return "'" + text if text.lstrip(" ").startswith(_FORMULA) else text


def _row(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


def _lines(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    return (json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _array(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield what `json.dumps(list(records), indent=2)` returns, and the end of its line."""
    before = "["
    for record in records:
        yield before + "\n  " + json.dumps(record, ensure_ascii=False, indent=2).replace("\n", "\n  ")  # no text holds a line's end
        before = ","
    yield "[]\n" if before == "[" else "\n]\n"


class _Format(NamedTuple):
    file: str
    render: Callable[[list[Conversation]], Iterator[str]]


_LOG: dict[str, _Format] = {
    "jsonl": _Format("conversations.jsonl", _jsonl),
    "json": _Format("conversations.json", _json),
    "csv": _Format("conversations.csv", _csv),
}
_TRAINING: dict[str, _Format] = {
    DatasetFormat.CHATML.value: _Format("chatml.jsonl", _chatml),
    DatasetFormat.ALPACA.value: _Format("alpaca.json", _alpaca),
    DatasetFormat.INSTRUCTION.value: _Format("instruction.jsonl", _instruction),
}
_FORMATS = _LOG | _TRAINING

LOG_FORMATS = tuple(_LOG)
ALL_FORMATS = tuple(_FORMATS)


def _known(format: str) -> _Format:
    if format not in _FORMATS:
        raise DataError(f"unknown export format {format!r}: known are {', '.join(_FORMATS)}")
    return _FORMATS[format]
