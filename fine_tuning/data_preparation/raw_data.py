"""Read a user's own dataset as records, {"messages": [...]} or {"text": "..."}. The formats are:

jsonl        one object per line, or one list of objects; also chatml, alpaca and instruction
csv          a header line, then the records; separated by commas, semicolons or tabs
text         records separated by empty lines: dialogues (User: ... Assistant: ...), or plain paragraphs
huggingface  a folder of parquet, arrow, csv or jsonl files, or the name of a dataset on the Hugging Face hub;
             "hf:owner/name" is always that dataset, and never a folder
custom       "module:function", a function that yields records; only if the calling program allows its code to run

The fields of a record are recognised by the names that are usual in datasets (`_PAIRS`, `_LISTS`, `_SINGLE`).
"""

import csv
import hashlib
import importlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.config import DatasetFormat
from fine_tuning.conversation import Turn, is_context, is_refused
from fine_tuning.data_collection.importers.chats import BadRecord, Said, label_in
from fine_tuning.data_collection.importers.huggingface import PREFIX
from fine_tuning.data_collection.importers.marks import is_learned, own_facts
from fine_tuning.data_collection.importers.pairs import after_history
from fine_tuning.data_collection.importers.records import cell_value
from fine_tuning.data_collection.importers.shape import without_beginnings
from fine_tuning.errors import ConfigError, DataError, NoConversations
from fine_tuning.json_values import parse_json

Record = dict[str, Any]

LARGEST = 2 << 30  # size limit of a file in bytes
_PAIRS = (  # field names of the question, its context, and the answer
    ("user_message", None, "bot_response"),
    ("question", "context", "answer"),
    ("prompt", "input", "completion"),
    ("prompt", "input", "response"),
    ("instruction", "input", "output"),
    ("instruction", "context", "response"),
    ("input", None, "output"),
    ("user", None, "assistant"),
    ("query", None, "response"),
    ("query", None, "answer"),
)
_SINGLE = ("text", "content")
_LISTS = ("messages", "conversations", "conversation")
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "prompter": "user"}
_SPEAKER = re.compile(r"(?im)^[ \t]*(user|human|question|q|assistant|bot|answer|a)[ \t]*:[ \t]*")
_ASKS = {"user", "human", "question", "q"}
_TRAIN = re.compile(r"(^|[/_.-])train([/_.-]|$)")
_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)


def read_records(source: str | Path, format: DatasetFormat, *, trusted: bool = False) -> Iterator[Record]:
    """Yield the records of a user's dataset.

    Args:
        source: A file, a folder, or a name, depending on `format`.
        format: The format of the dataset.
        trusted: Whether the code that `source` names in the format custom may be run.

    Raises DataError with file and line of a record that cannot be read, and ConfigError if code
    may not be run or cannot be imported.
    """
    raw: Iterable[tuple[str, Any]]
    if format == DatasetFormat.CUSTOM:
        if not trusted:
            raise ConfigError(
                "a dataset of the format custom must be prepared first: call prepare_dataset, and give the path "
                "that it returns"
            )
        raw = _custom(str(source))
    elif format == DatasetFormat.HUGGINGFACE:
        raw = _huggingface(str(source))
    else:
        read = {DatasetFormat.CSV: _csv, DatasetFormat.TEXT: _text}.get(format, _jsonl)
        raw = read(_file(Path(source)))
    for place, record in raw:
        yield _record(place, record)


def read_turns(source: Path, format: DatasetFormat) -> list[Turn]:
    """Return the records of a dataset as turns of the log; each record becomes one session.

    Equal records become the same session, and are returned once; a record that only repeats the beginning
    of the next one is left out. Raises NoConversations if there is no question with an answer, and the
    errors of `read_records`.
    """
    turns: list[Turn] = []
    said_in = ((_system(record), *_exchanges(record)) for record in read_records(source, format))
    for system, *said in without_beginnings(said_in, tuple):
        # records without marks and a system prompt keep the ids that earlier releases gave them
        content: list[object] = [(asked, answered, *([0] if context else [])) for asked, answered, context in said]
        content += [{"system": system}] if system else []
        session = "dataset-" + hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        told = {"source": str(source), **({"system": system} if system else {})}
        for number, (asked, answered, context) in enumerate(said):
            facts = {**told, **({"weight": 0} if context else {})}
            turns.append(
                Turn(
                    id=f"{session}-{number}",
                    session_id=session,
                    timestamp="",
                    user_message=asked,
                    bot_response=answered,
                    metadata=facts,
                )
            )
    if not turns:
        raise NoConversations(f"{source} contains no question with an answer: check the file and its format")
    return list({turn.id: turn for turn in turns}.values())


def texts_of(record: Record) -> dict[str, str]:
    """Return the texts of a record by the names that conditions use: "text" (all), "question" and "answer".

    Several questions or answers are joined. A plain text counts as an answer.
    """
    if "messages" not in record:
        return {"text": record["text"], "question": "", "answer": record["text"]}
    said = [(message["role"], message["content"]) for message in record["messages"]]
    asked = "\n".join(content for role, content in said if role == "user")
    answered = "\n".join(content for role, content in said if role == "assistant")
    return {"text": "\n".join(content for _, content in said), "question": asked, "answer": answered}


def _exchanges(record: Record) -> Iterator[tuple[str, str, bool]]:
    """Yield the exchanges of a record as (question, answer, whether the answer is only context).

    A plain text gives one pair: the question asks to continue its first third, the answer is the
    rest.
    """
    if "messages" not in record:
        text = record["text"].strip()
        cut = re.compile(r"\s").search(text, len(text) // 3)
        if cut:
            yield f"Continue this text: {text[: cut.start()]}", text[cut.end() :].strip(), False
        return
    asked = None
    for message in record["messages"]:
        if message["role"] == "user":
            asked = message["content"]
        elif message["role"] == "assistant" and asked is not None:
            yield asked, message["content"], message.get("weight") == 0
            asked = None


def _system(record: Record) -> str:
    first = next(iter(record.get("messages", ())), None)
    return str(first["content"]) if first and first["role"] == "system" else ""


# Map a record's field names to messages or text


def _record(place: str, record: object) -> Record:
    if isinstance(record, str):
        return {"text": record}
    if not isinstance(record, Mapping):
        raise DataError(f"{place}: a record must be an object with named fields, not {type(record).__name__}")
    fields = {str(key).strip().lower(): value for key, value in record.items() if key is not None}
    for name in _LISTS:
        if isinstance(fields.get(name), (list, tuple)):
            messages = [_message(place, message) for message in fields[name]]
            if label_in(fields) is False and messages and messages[-1]["role"] == "assistant":
                messages[-1]["weight"] = 0
            return {"messages": messages}
    for asks, gives, answers in _PAIRS:
        if fields.get(asks) is not None and fields.get(answers) is not None:
            asked, more = _string(fields[asks]), _string(fields.get(gives) or "") if gives else ""
            question = Said("user", f"{asked}\n\n{more}" if more.strip() else asked)
            answer = Said("assistant", _string(fields[answers]), learned=_answer_is_learned(fields))
            own = {"system": own_facts(fields).get("system")} if "user_message" in fields else fields
            try:
                said = after_history(own, [question, answer])
            except BadRecord as error:
                raise DataError(
                    f"{place}: expected {error}, in its system prompt or its history. Correct the record, or leave the "
                    "field out"
                ) from error
            return {"messages": [_plain(each) for each in said if each.role in ("system", "user", "assistant")]}
    for name in _SINGLE:
        if isinstance(fields.get(name), str):
            return {"text": fields[name]}
    known = ", ".join(f"{asks} and {answers}" for asks, _, answers in _PAIRS[:5])
    there = ", ".join(list(fields)[:20]) or "none"
    raise DataError(f"{place}: its fields ({there}) are not known: name them {known}, or messages, or text")


def _answer_is_learned(fields: Mapping[str, Any]) -> bool:
    """Return whether the answer of a question may be trained on; of byoai's own turns, as the log decides."""
    if "user_message" in fields:
        facts = own_facts(fields)
        return not (is_context(facts) or is_refused(facts))
    return label_in(fields) is not False


def _plain(said: Said) -> Record:
    return {"role": said.role, "content": said.text, **({} if said.learned else {"weight": 0})}


def _message(place: str, message: object) -> Record:
    if isinstance(message, Mapping):
        role = str(message.get("role", message.get("from", ""))).lower()
        content = message.get("content", message.get("value"))
        role = _ROLES.get(role, role)
        if role in ("system", "user", "assistant") and isinstance(content, str):
            return {"role": role, "content": content, **({} if is_learned(role, message) else {"weight": 0})}
    raise DataError(
        f'{place}: {str(message)[:80]} is not a message: write {{"role": "user" or "assistant", "content": "..."}}'
    )


def _string(value: object) -> str:
    """Return the text of a field; the first text if the field holds several answers, as in the dataset SQuAD."""
    if isinstance(value, Mapping):
        value = value.get("text", value.get("content", ""))
    if isinstance(value, (list, tuple)):
        value = value[0] if value else ""
    return value if isinstance(value, str) else str(value)


# Read the records of a file in its own form


def _file(path: Path) -> tuple[Path, str]:
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path} has more than {LARGEST >> 30} GB: split it into several files")
        return path, path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}. Check the path and its permissions"
        ) from error


def _jsonl(file: tuple[Path, str]) -> Iterator[tuple[str, object]]:
    path, text = file
    if text.lstrip().startswith("["):  # one JSON list of all records
        try:
            found = parse_json(text)
        except ValueError as error:
            raise DataError(f"{path}: not valid JSON ({error}). Correct it, or choose another format") from error
        yield from ((f"{path}, record {number}", record) for number, record in enumerate(found, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"{path}, line {number}", parse_json(line)
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: not valid JSON ({error}). Correct the line, or choose another format"
            ) from error


def _csv(file: tuple[Path, str]) -> Iterator[tuple[str, object]]:
    path, text = file
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    csv.field_size_limit(10_000_000)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for record in reader:
            if None in record:
                cure = f"put texts that hold {separator!r} in quotes"
                raise DataError(f"{path}, line {reader.line_num}: more values than the first line has names; {cure}")
            if any(record.values()):
                cells = {name: cell if cell is None else cell_value(cell) for name, cell in record.items()}
                yield f"{path}, line {reader.line_num}", cells
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not valid CSV ({error}). Correct the line, or choose another format"
        ) from error


def _text(file: tuple[Path, str]) -> Iterator[tuple[str, object]]:
    path, text = file
    for number, paragraph in enumerate(filter(str.strip, re.split(r"\r?\n[ \t]*(?:\r?\n)+", text)), 1):
        pieces = _SPEAKER.split(paragraph)  # the text before the first speaker, then speaker and text in turn
        said = [
            {"role": "user" if speaker.lower() in _ASKS else "assistant", "content": content.strip()}
            for speaker, content in zip(pieces[1::2], pieces[2::2], strict=True)
        ]
        spoken = not pieces[0].strip() and {message["role"] for message in said} == {"user", "assistant"}
        yield f"{path}, paragraph {number}", {"messages": said} if spoken else {"text": paragraph.strip()}


def _custom(source: str) -> Iterator[tuple[str, object]]:
    module, colon, name = source.partition(":")
    try:
        function = getattr(importlib.import_module(module), name) if colon else None
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{source}: {error}. Write module:function, of a module that this program can import"
        ) from error
    if not callable(function):
        raise ConfigError(f"{source} does not name a function: write module:function")
    yield from ((f"{source}, record {number}", record) for number, record in enumerate(function(), 1))


def _huggingface(source: str) -> Iterator[tuple[str, object]]:
    if source.startswith(PREFIX):
        folder = _fetched(source.removeprefix(PREFIX))
    else:
        folder = Path(source) if Path(source).exists() else _fetched(source)
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.suffix in _READERS)
    trained = [path for path in files if _TRAIN.search(path.relative_to(folder).as_posix())] if folder.is_dir() else []
    if not files:
        raise DataError(
            f"{folder} is not a dataset, because it contains no parquet, arrow, jsonl, json or csv file: name another "
            "folder"
        )
    for path in trained or files:
        yield from _READERS.get(path.suffix, _jsonl_of)(path)


def _jsonl_of(path: Path) -> Iterator[tuple[str, object]]:
    if path.name in ("dataset_info.json", "state.json", "dataset_dict.json"):  # metadata of the dataset, not records
        return iter(())
    return _jsonl(_file(path))


def _arrow(path: Path) -> Iterator[tuple[str, object]]:
    import pyarrow as arrow
    import pyarrow.parquet

    try:
        if path.suffix == ".parquet":
            batches = pyarrow.parquet.ParquetFile(path).iter_batches()
        else:
            batches = iter(arrow.ipc.open_stream(arrow.memory_map(str(path))))
        number = 0
        for batch in batches:
            for record in batch.to_pylist():
                number += 1
                yield f"{path}, record {number}", record
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}. Download or export it again") from error


_READERS: dict[str, Callable[[Path], Iterator[tuple[str, object]]]] = {
    ".parquet": _arrow,
    ".arrow": _arrow,
    ".jsonl": _jsonl_of,
    ".json": _jsonl_of,
    ".csv": lambda path: _csv(_file(path)),
}


def _fetched(name: str) -> Path:
    """Download the data files of a dataset from the Hugging Face hub, without its code; return their folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if not _NAME.fullmatch(name):
        raise DataError(
            f"{name} is neither a folder nor the name of a dataset of the Hugging Face hub: write a path, or owner/name"
        )
    patterns = [f"*{suffix}" for suffix in _READERS]
    try:
        return Path(
            snapshot_download(name, repo_type="dataset", allow_patterns=patterns, cache_dir=paths.cache() / "datasets")
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"cannot fetch the dataset {name}: {str(error).splitlines()[0]}. Check its name and the network"
        ) from error
