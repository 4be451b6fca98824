"""Write conversations as files for other programs: as the log has them, and as training data.

jsonl        one turn per line, as in the log
json         a list of conversations with their turns
csv          one turn per row, for spreadsheets
parquet      one turn per row, for data frames; `metadata` is JSON
markdown     for people: a heading for each conversation, then its messages

The first four hold every turn with its rating, and say whether an answer is incomplete.
training_formats.py lists the formats of training data, without the answers that must not be trained on.
Each can also be written as jsonl, csv or parquet; the format is then named with the file type, such as
"alpaca.csv" (`in_file`).
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fine_tuning import paths
from fine_tuning.branches import on_chosen_paths
from fine_tuning.conversation import Conversation, Turn, only_context, parse_conversations
from fine_tuning.data_collection.record_files import Kind, Record, csv_rows, json_array, json_lines, parquet
from fine_tuning.data_collection.training_formats import TRAINING, TrainingFormat
from fine_tuning.errors import ConfigError, DataError, NoConversations

_COLUMNS = ("id", "session_id", "timestamp", "user_message", "bot_response", "model", "rating", "weight", "incomplete")
_MARK = "exported.json"  # the number of turns in the last export
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ALSO_AS = ("jsonl", "csv", "parquet")  # file types in which every format of training data can be written


class DataExporter:
    """Exports conversations to `folder` (by default data/exports/), into one file for each format."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder else paths.home() / "exports"

    def export_all_formats(self, conversations: Sequence[Conversation | dict[str, object]]) -> dict[str, Path]:
        """Write an export in every format, each as its first file type, as `export` does."""
        return self.export(conversations, ALL_FORMATS)

    def export(
        self, conversations: Sequence[Conversation | dict[str, object]], formats: Iterable[str]
    ) -> dict[str, Path]:
        """Write the conversations in these formats, and replace older exports; return the paths by format.

        Raises DataError for an unknown format, or for records that are not conversations; the message names
        each such record.
        """
        parsed = parse_conversations(conversations)
        return {format: write_export(parsed, format, self.folder / _known(format).file) for format in map(str, formats)}

    def is_due(self, turns: int, every: int) -> bool:
        """Return whether these are at least `every` more turns than in the last export, or fewer turns."""
        mark = self.folder / _MARK
        before = int(paths.read_json(mark)) if mark.exists() else 0
        return not before <= turns < before + every

    def export_when_due(self, conversations: Sequence[Conversation], every: int) -> bool:
        """Write every format if an export is due (`is_due`); return whether it was."""
        turns = sum(len(conversation.turns) for conversation in conversations)
        if not self.is_due(turns, every):
            return False
        self.export_all_formats(conversations)
        paths.write_json(self.folder / _MARK, turns)
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


@contextmanager
def exporting() -> Iterator[None]:
    """Hold a lock within the `with` block, from reading the log until its exports are written.

    So `forget` runs before or after, and no export keeps what it removes. Raises Busy if another program
    holds the lock for more than ten seconds.
    """
    with paths.locked(paths.home() / "exports"):
        yield


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
    columns: dict[str, Kind] = dict.fromkeys((*_COLUMNS, "metadata"), "text")
    return parquet(map(_parquet_row, _turns(conversations)), columns)


def _parquet_row(turn: Turn) -> Record:
    facts = _facts(turn)
    row = {column: None if facts.get(column) is None else str(facts[column]) for column in _COLUMNS}
    return row | {"metadata": json.dumps(turn.metadata, ensure_ascii=False)}


def _csv(conversations: list[Conversation]) -> Iterator[bytes]:
    return csv_rows(map(_facts, _turns(conversations)), _COLUMNS)


def _facts(turn: Turn) -> Record:
    """Return what the columns of a table hold. They have no column for an edit, which may have an answer learned."""
    weight = 0 if only_context(turn) else None
    return {**turn.metadata, "weight": weight, **turn.model_dump(exclude={"metadata"})}


def _jsonl(conversations: list[Conversation]) -> Iterator[bytes]:
    return json_lines(turn.model_dump() for turn in _turns(conversations))


def _json(conversations: list[Conversation]) -> Iterator[bytes]:
    return json_array(conversation.model_dump() for conversation in conversations)


def _turns(conversations: list[Conversation]) -> Iterator[Turn]:
    return (turn for conversation in conversations for turn in conversation.turns)


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


def _training(format: TrainingFormat, kind: str, conversations: list[Conversation]) -> Iterator[bytes]:
    records = format.records(conversations)
    match kind:
        case "csv":
            return csv_rows(records, list(format.columns))
        case "parquet":
            return parquet(records, format.columns)
        case "json":
            return json_array(records)
        case _:
            return json_lines(records)


class _Format(NamedTuple):
    file: str
    render: Callable[[list[Conversation]], Iterator[bytes]]


_LOG: dict[str, _Format] = {
    "jsonl": _Format("conversations.jsonl", _jsonl),
    "json": _Format("conversations.json", _json),
    "csv": _Format("conversations.csv", _csv),
    "parquet": _Format("conversations.parquet", _parquet),
    "markdown": _Format("conversations.md", _in_utf8(_markdown)),
}
_FIRST_KIND = {name: "json" if name == "alpaca" else "jsonl" for name in TRAINING}
_FORMATS = _LOG | {
    name if kind == _FIRST_KIND[name] else f"{name}.{kind}": _Format(f"{name}.{kind}", partial(_training, format, kind))
    for name, format in TRAINING.items()
    for kind in dict.fromkeys((_FIRST_KIND[name], *_ALSO_AS))
}

LOG_FORMATS = tuple(_LOG)
ALL_FORMATS = (*_LOG, *TRAINING)


def in_file(format: str, kind: str = "") -> str:
    """Return the name of a format of training data written as this file type: jsonl, csv or parquet.

    Without a kind, return the name of the format. Raises DataError for an unknown format, and
    ConfigError for a kind that it is not written as.
    """
    file = _known(format).file
    if not kind or file == f"{format}.{kind}":
        return format
    if f"{format}.{kind}" not in _FORMATS:
        raise ConfigError(
            f"{format} is not written as {kind!r}: name one of {', '.join(TRAINING)}, and one of {', '.join(_ALSO_AS)}"
        )
    return f"{format}.{kind}"


def is_of_pairs(format: str) -> bool:
    """Return whether a format holds pairs of a chosen and a rejected answer."""
    known = TRAINING.get(format.partition(".")[0])
    return known is not None and known.of_pairs


def check_records(conversations: Sequence[Conversation], format: str) -> None:
    """Raise NoConversations for a format of training data if the conversations give no record in it."""
    known = TRAINING.get(format.partition(".")[0])
    if known is None or any(True for _ in known.records(conversations)):
        return
    why = (
        "there is no pair of answers to one question. Edit an answer, or regenerate it and rate one of the two with a "
        "thumb up"
        if known.of_pairs
        else f"{format} leaves out answers that are rated down, incomplete or only context, and there is no other. "
        "Choose jsonl, which holds every turn"
    )
    raise NoConversations(f"nothing to export, and nothing was written: {why}")


def _known(format: str) -> _Format:
    if format not in _FORMATS:
        raise DataError(f"unknown export format {format!r}: choose one of {', '.join(ALL_FORMATS)}")
    return _FORMATS[format]
