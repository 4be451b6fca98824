"""Define the chats that importers yield, and convert them to turns of the log.

A conversation from elsewhere is a `Chat`, a list of messages (`Said`). Consecutive messages of one
side form the question or the answer of one turn. Ids are made from the content, so importing the
same chats twice adds nothing. Tool calls, images and other parts that are not text are kept in
`metadata["parts"]`, and are not learned.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import chain
from typing import Any, Literal, TypeGuard

from pydantic import ValidationError

from fine_tuning.conversation import Turn, only_context
from fine_tuning.json_values import JsonObject, JsonValue

Role = Literal["user", "assistant", "system", "tool"]
Rating = Literal["up", "down"]

ROLES: dict[str, Role] = {
    **dict.fromkeys(
        (
            *("user", "human", "prompter", "customer", "usr", "prompt", "visitor", "client", "request"),
            *("user.message", "user_message", "usermessage"),
        ),
        "user",
    ),
    **dict.fromkeys(
        (
            *("assistant", "gpt", "bot", "model", "chatgpt", "ai", "bing", "bard", "claude", "agent", "chatbot"),
            *("gemini", "grok", "deepseek", "copilot", "llm", "char", "character", "response", "operator", "admin"),
            *("machine", "assistant.message", "assistant_message", "assistantmessage", "apimessage"),
        ),
        "assistant",
    ),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(
        (
            *("tool", "function", "observation", "function_call", "function_response", "tool_call", "tool_response"),
            *("tool_result", "function_call_output"),
        ),
        "tool",
    ),
}

# longest text in a part that is not text: the data of an image is not worth its space in the log
_LONGEST_PART = 10_000


class BadRecord(Exception):
    """Raised for a record that does not match its format; the message says what was expected.

    The record is skipped, and reading continues with the next one.
    """


@dataclass(frozen=True, slots=True)
class Fault:
    """A record that was skipped: its place ("line 3", "record 5"), and the reason."""

    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class Said:
    """A message.

    `parts` are the parts of the message that are not text. `rejected` is another answer to the same
    question, to which people preferred this one. `time` has the form that `moment` returns. `learned` is
    False for an answer that its source marks as context for those after it (marks.py).
    """

    role: Role
    text: str = ""
    time: str = ""
    thoughts: str = ""
    model: str = ""
    parts: Sequence[object] = ()
    rejected: str | None = None
    rating: Rating | None = None
    learned: bool = True


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation.

    `id` is its id in the source. If a later import has a chat with this id, its new messages are added
    to the same session. Without an id, one is made from the content.
    """

    said: Sequence[Said]
    id: str = ""
    joint: str = "\n\n"  # text between consecutive messages of one side
    place: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)  # further metadata of its turns
    section: str = ""  # part of the source, such as a chapter of a document


@dataclass(frozen=True, slots=True)
class Entry:
    """A turn to be logged, and the edit and the rating that the answer has in its source."""

    turn: Turn
    edit: str | None = None  # the answer as it should have been
    rating: Rating | None = None

    @property
    def is_context(self) -> bool:
        """Whether the answer is only context: neither the edit nor the rating approves it."""
        return only_context(self.turn) and self.edit is None and self.rating != "up"


@dataclass
class _Exchange:
    asked: list[Said] = field(default_factory=list)
    answered: list[Said] = field(default_factory=list)
    parts: list[object] = field(default_factory=list)
    system: list[str] = field(default_factory=list)  # also of the exchanges after it, until there is another one
    later: list[str] = field(default_factory=list)  # system prompts after the answer
    opening: list[str] = field(default_factory=list)  # answers before the first question

    def is_told(self) -> bool:
        """Return whether the exchange has a question and an answer. Loops, since `any` takes three times as long."""
        for asked in self.asked:
            if asked.parts or asked.text.strip():
                break
        else:
            return False
        for answered in self.answered:  # noqa: SIM110
            if answered.text.strip():
                return True
        return False


def entries_of(chat: Chat, format: str, facts: JsonObject) -> tuple[list[Entry], int]:
    """Return the turns of a chat as entries for the log, and how many of its questions have no answer.

    The turns have `facts` in their metadata. Questions without an answer are left out, and so are
    answers without a question. Raises BadRecord if a message cannot be part of a turn.
    """
    if chat.section and "source" in facts:
        facts = {**facts, "source": {**object_in(facts, "source"), "section": chat.section}}
    exchanges = list(_exchanges(chat.said))
    told = [exchange for exchange in exchanges if exchange.is_told()]
    content = [(said.role if said.learned else "context", said.text, said.rejected or "") for said in chat.said]
    session = _id(format, chat.id) if chat.id else _id(*chain.from_iterable(content))
    counts: dict[tuple[str, str], int] = {}
    entries = []
    for exchange in told:
        question, answer = _joined(exchange.asked, chat.joint), _joined(exchange.answered, chat.joint)
        last = exchange.answered[-1]
        found = _facts(exchange)
        if is_context := "weight" in found:  # the owner alone may approve an answer that is only context
            last = replace(last, rejected=None, rating=None)
        counts[question, answer] = nth = counts.get((question, answer), 0) + 1
        record = {
            "id": _id(session, str(nth), question, answer, last.rejected or "", *(["context"] if is_context else [])),
            "session_id": session,
            "timestamp": next((said.time for said in (*exchange.answered, *reversed(exchange.asked)) if said.time), ""),
            "user_message": question,
            "bot_response": answer if last.rejected is None else last.rejected,
            "metadata": {**found, **chat.facts, **facts},
        }
        try:
            turn = Turn.model_validate(record)
        except ValidationError as error:
            raise BadRecord(f"texts in {'.'.join(map(str, error.errors()[0]['loc']))}") from error
        entries.append(Entry(turn, None if last.rejected is None else answer, last.rating))
    return entries, len(exchanges) - len(told)


def _exchanges(said: Sequence[Said]) -> Iterator[_Exchange]:
    """Yield questions with their answers, if they have one."""
    now = _Exchange()
    for message in said:
        if message.role == "user" and now.answered:
            yield now
            now = _Exchange(system=[*(now.later or now.system)], opening=[] if now.is_told() else now.opening)
        if message.parts:
            now.parts += [{"role": message.role, "part": plain(part)} for part in message.parts]
        match message.role:
            case "system":
                (now.later if now.answered else now.system).append(message.text)
            case "user":
                now.asked.append(message)
            case "assistant" if now.asked and (message.text.strip() or message.parts or message.thoughts):
                now.answered.append(message)
            case "assistant" if message.text.strip():
                now.opening.append(message.text)
            case "tool":
                now.parts += [{"role": "tool", "part": message.text}] if message.text else []
    if now.asked:
        yield now


def _facts(exchange: _Exchange) -> dict[str, object]:
    models, thoughts, is_context = list[str](), list[str](), False
    for said in exchange.answered:
        if not said.learned and said.text.strip():
            is_context = True  # the whole answer, even if another of its messages is learned
        if said.model:
            models.append(said.model)
        if said.thoughts:
            thoughts.append(said.thoughts)
    facts: dict[str, object] = {
        "model": models[0] if models else "",
        "thoughts": "\n\n".join(thoughts),
        "system": "\n\n".join(exchange.system),
        "opening": "\n\n".join(exchange.opening),
        "parts": exchange.parts,
    }
    found = {key: fact for key, fact in facts.items() if fact}
    return {**found, "weight": 0} if is_context else found


def _joined(said: Sequence[Said], joint: str) -> str:
    return said[0].text if len(said) == 1 else joint.join(message.text for message in said if message.text.strip())


def _id(*parts: str) -> str:
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def plain(value: object, depth: int = 0) -> object:
    """Return a value in a form that JSON can represent, with long texts (such as the data of images) shortened."""
    match value:
        case str():
            return value if len(value) <= _LONGEST_PART else f"{value[:80]}… ({len(value)} characters)"
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case dict() if depth < 20:
            return {str(key): plain(each, depth + 1) for key, each in value.items()}
        case list() | tuple() if depth < 20:
            return [plain(each, depth + 1) for each in value]
    return str(value)[:_LONGEST_PART]


_NUMBER = re.compile(r"\d{9,19}(\.\d+)?")


def moment(value: object, *forms: str) -> str:
    """Convert a time from a record to ISO 8601 in UTC, and return it; "" if the value is not a time.

    A time without a zone is taken as UTC, so that every machine gets the same result.

    Args:
        value: A text in ISO 8601 or in one of `forms`, or a number since 1970, whose size shows whether
            it counts seconds, milli-, micro- or nanoseconds.
        forms: Formats of `strptime`.
    """
    if isinstance(value, str):
        text = value.strip()
        value = float(text) if _NUMBER.fullmatch(text) else _parsed(text, forms)
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e20:
        return ""
    while value >= 1e11:
        value /= 1000
    return iso(datetime.fromtimestamp(value, UTC))


def iso(time: datetime) -> str:
    try:
        return (time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError):
        return ""


def _parsed(text: str, forms: Sequence[str]) -> datetime | None:
    for form in forms:
        with suppress(ValueError):
            return datetime.strptime(text, form)
    with suppress(ValueError):
        return datetime.fromisoformat(text)
    return None


_LABELS = frozenset(("label", "kto_tag", "is_safe", "is_correct"))


def rated(said: Sequence[Said], record: JsonObject) -> list[Said]:
    """Return messages, with the last one rated up or down if the record has the label true or false.

    Data sets for KTO (arXiv 2402.01306) have such labels, and those of safe and unsafe answers.
    """
    label = label_in(record)
    if label is None or not said:
        return [*said]
    return [*said[:-1], replace(said[-1], rating="up" if label else "down")]


def label_in(record: Mapping[str, Any]) -> bool | None:
    """Return the label, true or false, that a record gives its last answer (see `rated`); None without one."""
    if _LABELS.isdisjoint(record):
        return None
    return next((record[key] for key in _LABELS if isinstance(record.get(key), bool)), None)


QUESTION_MARKS = ("?", "？", "؟")
_LONGEST_TASK = 60  # characters; a longer text is an instruction and no label


def task_in(record: object, *keys: str) -> JsonObject:
    """Return {"task": label}, for the metadata of a record's turns, if it names its task under one of `keys`; else {}.

    Return {} too if the value is not usable as a label (`as_task`).
    """
    if not isinstance(record, dict):
        return {}
    for key in keys:
        if record.get(key):
            return as_task(record[key])
    return {}


def as_task(label: object) -> JsonObject:
    """Return {"task": label} with the label on one line; {} if `label` is not text, blank, or too long."""
    words = " ".join(label.split()) if isinstance(label, str) else ""
    return {"task": words} if 0 < len(words) <= _LONGEST_TASK else {}


# Access to the values of records, which may have any type


def text_of(value: object, what: str) -> str:
    """Return a value as text: a number as people write it, and "" for null.

    Raises BadRecord, with `what` as the expected value, for a value of any other type.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise BadRecord(f"{what} as text, found {kind(value)}")


def dicts(value: object, what: str) -> list[JsonObject]:
    """Return `value` if it is a list of objects. Raises BadRecord, with `what` as the expected value, otherwise."""
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        return value
    raise BadRecord(f"{what} as a list of objects, found {kind(value)}")


def has(record: object, *keys: str) -> TypeGuard[JsonObject]:
    """Return whether a record is an object that has all of these keys."""
    return isinstance(record, dict) and all(key in record for key in keys)


def one_of(record: JsonObject, *keys: str) -> JsonValue:
    """Return the value of the first of `keys` that is in the record and not empty.

    Raises BadRecord if there is none.
    """
    found = next((record[key] for key in keys if record.get(key)), None)
    if found is None:
        raise BadRecord(f"something in {' or '.join(keys)}")
    return found


def first(record: object, *keys: str) -> JsonValue:
    """Try `keys` in order, and return the first item of the first non-empty list; None if there is none."""
    for key in keys:
        items = record.get(key) if isinstance(record, dict) else None
        if isinstance(items, list) and items:
            found: JsonValue = items[0]
            return found
    return None


def object_in(record: JsonObject, key: str) -> JsonObject:
    """Return the object under `key`; {} if the key is missing.

    The type is not checked: using a value of another type raises one of NOT_AS_EXPECTED.
    """
    found: Any = record.get(key)
    return found or {}


def list_in(record: JsonObject, key: str) -> list[JsonValue]:
    """Return the list under `key`; [] if the key is missing. As in `object_in`, the type is not checked."""
    found: Any = record.get(key)
    return found or []


def kind(value: object) -> str:
    """Return the name of a value's JSON type for messages, such as "an object" or "text"."""
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)


def rows_in(value: object) -> list[JsonObject]:
    """Return the rows of a table that is stored by its columns; [] for any other value.

    The datasets of Hugging Face store {"text": ["…", "…"], "speaker": [0, 1]}, pandas stores {"text": {"0":
    "…", "1": "…"}, "speaker": {…}} or {"columns": ["text", "speaker"], "data": [["…", 0], ["…", 1]]}.
    """
    if not isinstance(value, dict) or len(value) < 2:
        return []
    names, rows = value.get("columns"), value.get("data")
    if isinstance(names, list) and isinstance(rows, list) and all(map(_is_text, names)):
        return [dict(zip(names, row, strict=True)) for row in rows if isinstance(row, list) and len(row) == len(names)]
    columns = list(value.values())
    if all(isinstance(each, list) for each in columns) and len({len(each) for each in columns}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    if all(isinstance(each, dict) and each and each.keys() == columns[0].keys() for each in columns):
        return [{name: column[key] for name, column in value.items()} for key in columns[0]]
    return []


def _is_text(value: object) -> bool:
    return isinstance(value, str)
