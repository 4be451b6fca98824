"""Conversations as files for other programs.

jsonl   a turn a line, as the log has it
json    a list of conversations with their turns
csv     a turn a row, for spreadsheets
chatml  {"messages": [{"role", "content"}, ...]} a line, a conversation each                 (OpenAI, TRL)
alpaca  [{"instruction", "input", "output", "history", ...}], a turn each                    (Stanford Alpaca, LLaMA-Factory)
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.conversation import Conversation, parse_conversations, standing
from fine_tuning.errors import DataError

_COLUMNS = ("id", "session_id", "timestamp", "user_message", "bot_response", "model", "rating")
_MARK = "exported.json"  # how many turns were exported last
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class DataExporter:
    """Writes into `folder`: data/exports/ if None."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder else paths.home() / "exports"

    def export_all_formats(self, conversations: Sequence[Conversation | dict[str, Any]]) -> dict[str, Path]:
        """Every format once; the paths by format. What was there is replaced. DataError names every record that is no conversation."""
        parsed = parse_conversations(conversations)
        return {format: write_export(parsed, format, self.folder / name) for format, (name, _) in _FORMATS.items()}

    def export_when_due(self, conversations: Sequence[Conversation], every: int) -> bool:
        """`export_all_formats` if there are `every` more turns than at the last time, or fewer than then. Whether it was due."""
        mark, turns = self.folder / _MARK, sum(len(conversation.turns) for conversation in conversations)
        before = int(paths.read_json(mark)) if mark.exists() else 0
        if before <= turns < before + every:
            return False
        self.export_all_formats(conversations)
        paths.write_json(mark, turns)
        return True

    def remove(self) -> list[Path]:
        """Remove what was exported here. The files that were there."""
        files = [self.folder / name for name in (_MARK, *(name for name, _ in _FORMATS.values()))]
        there = [file for file in files if file.exists()]
        for file in there:
            file.unlink()
        return there


def write_export(conversations: Sequence[Conversation | dict[str, Any]], format: str, path: Path) -> Path:
    """Write one format to `path`, whole or not at all. DataError for an unknown format, an unwritable place, or that of the logs."""
    if format not in _FORMATS:
        raise DataError(f"unknown export format {format!r}: known are {', '.join(_FORMATS)}")
    if paths.real(path).parent == paths.real(paths.conversations_dir()):
        raise DataError(f"{path} lies among the logs, and an export could replace one: name another folder")
    _, render = _FORMATS[format]
    try:
        paths.atomic_write(path, render(parse_conversations(conversations)))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _jsonl(conversations: list[Conversation]) -> str:
    return _lines(turn.model_dump() for conversation in conversations for turn in conversation.turns)


def _json(conversations: list[Conversation]) -> str:
    return json.dumps([conversation.model_dump() for conversation in conversations], ensure_ascii=False, indent=2) + "\n"


def _csv(conversations: list[Conversation]) -> str:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(_COLUMNS)
    for turn in (turn for conversation in conversations for turn in conversation.turns):
        facts = {**turn.metadata, **turn.model_dump(exclude={"metadata"})}
        writer.writerow(_cell(facts.get(column)) for column in _COLUMNS)
    return "\ufeff" + table.getvalue()  # without the mark Excel does not read UTF-8


def _chatml(conversations: list[Conversation]) -> str:
    chats = (conversation.model_copy(update={"turns": tuple(standing(conversation.turns))}) for conversation in conversations)
    return _lines({"messages": [message.model_dump() for message in chat.messages()]} for chat in chats)


def _alpaca(conversations: list[Conversation]) -> str:
    records = []
    for conversation in conversations:
        history: list[list[str]] = []
        for turn in standing(conversation.turns):
            optional = {"system": conversation.system, "history": list(history)}
            record: dict[str, Any] = {"instruction": turn.user_message, "input": "", "output": turn.bot_response}
            records.append(record | {key: value for key, value in optional.items() if value})
            history.append([turn.user_message, turn.bot_response])
    return json.dumps(records, ensure_ascii=False, indent=2) + "\n"


def _cell(value: object) -> str:
    """Text that a spreadsheet shows and does not run (OWASP, CSV injection)."""
    text = "" if value is None else str(value)
    return "'" + text if text.lstrip(" ").startswith(_FORMULA) else text


def _lines(records: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


_FORMATS: dict[str, tuple[str, Callable[[list[Conversation]], str]]] = {
    "jsonl": ("conversations.jsonl", _jsonl),
    "json": ("conversations.json", _json),
    "csv": ("conversations.csv", _csv),
    "chatml": ("chatml.jsonl", _chatml),
    "alpaca": ("alpaca.json", _alpaca),
}
