"""Read the threads of the editor Zed: those of its agent, and text threads (`*.zed.json`).

An agent's thread has messages of the form {"User": {"content": [{"Text": "…"}]}} and {"Agent": …}; older
ones have roles and segments. Its database `threads.db` holds them under "data". A text thread is one
text, and the places at which its messages begin.
"""

from collections.abc import Iterable, Iterator

from fine_tuning.data_collection.importers.chats import (
    ROLES,
    BadRecord,
    Chat,
    Role,
    Said,
    dicts,
    has,
    list_in,
    moment,
    object_in,
    text_of,
)
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject, JsonValue

_SIDES: dict[str, Role] = {"User": "user", "Agent": "assistant"}


def _thread(record: object) -> object:
    return record["data"] if has(record, "data") and isinstance(record["data"], dict) else record


def _fits(record: object) -> bool:
    record = _thread(record)
    if has(record, "zed", "text", "messages"):
        return isinstance(record["text"], str)
    if not has(record, "messages", "version") or not isinstance(messages := record["messages"], list):
        return False
    return any(
        isinstance(message, dict) and (not _SIDES.keys().isdisjoint(message) or has(message, "role", "segments"))
        for message in messages
    )


def _convert(row: JsonObject, source: Source) -> Iterable[Chat]:
    record = object_in(row, "data") or row
    if "zed" in record:
        said = [*_of_text(record)]
    else:
        time, model = moment(record.get("updated_at")), text_of(object_in(record, "model").get("model"), "a model")
        messages = [message for message in list_in(record, "messages") if isinstance(message, dict)]  # or "Resume"
        said = [_of_agent(message, time, model) for message in messages]
    yield Chat(said, text_of(row.get("id"), "an id"))


def _of_agent(message: JsonObject, time: str, model: str) -> Said:
    key = next((key for key in _SIDES if key in message), "")
    role = _SIDES.get(key) or ROLES.get(text_of(message.get("role"), "a role"))
    if role is None:
        raise BadRecord("messages of a User and an Agent")
    content = list_in(object_in(message, key), "content") if key else dicts(message["segments"], "segments")
    texts, thoughts, parts = list[str](), list[str](), list[object]()
    for part in content:
        kind, value = _part(part)
        if kind == "text":
            texts.append(text_of(value, "a text"))
        elif kind == "thinking":
            thoughts.append(text_of(value.get("text") if isinstance(value, dict) else value, "thoughts"))
        else:
            parts.append(part)
    said_by = model if role == "assistant" else ""
    return Said(role, "\n\n".join(filter(None, texts)), time, "\n\n".join(filter(None, thoughts)), said_by, parts)


def _part(part: JsonValue) -> tuple[str, JsonValue]:
    """Return the kind of a part of a message, in lower case, and its value: {"Text": "…"}, {"type": "text", …}."""
    if not isinstance(part, dict) or not part:
        return "", part
    if "type" in part:
        return text_of(part["type"], "a type"), part.get("text")
    kind, value = next(iter(part.items()))
    return kind.lower(), value


def _of_text(record: JsonObject) -> Iterator[Said]:
    text = text_of(record["text"], "a text").encode()  # Zed counts bytes
    messages = dicts(record["messages"], "messages")
    starts = [start for message in messages if isinstance(start := message.get("start"), int)]
    if len(starts) < len(messages):
        raise BadRecord("the place at which each message begins")
    known = object_in(record, "message_metadata")
    for message, start, end in zip(messages, starts, [*starts[1:], len(text)], strict=True):
        facts = object_in(message, "metadata") or object_in(known, str(message.get("id")))
        role = ROLES.get(text_of(facts.get("role"), "a role").lower())
        if role is None:
            raise BadRecord("a role (user, assistant, system) of each message")
        yield Said(role, text[start:end].decode("utf-8", "replace").strip())


ZED = Importer("Zed thread", _fits, each(_convert, "messages of a user and an agent"))
