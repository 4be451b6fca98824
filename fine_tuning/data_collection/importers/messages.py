"""Read messages in OpenAI's format: {"messages": [{"role", "content"}]}, or only a list of messages.

Messages may contain tool calls and images.
"""

from collections.abc import Iterable, Iterator

from fine_tuning.data_collection.importers.chats import (
    ROLES,
    BadRecord,
    Chat,
    Fault,
    Said,
    dicts,
    first,
    has,
    kind,
    moment,
    one_of,
    text_of,
)
from fine_tuning.data_collection.importers.shape import NOT_AS_EXPECTED, Importer, Source, each
from fine_tuning.json_values import JsonObject

_LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns")
_CALLS = ("tool_calls", "function_call", "audio", "refusal")
_TEXTS = ("text", "input_text", "output_text")


def said_of(message: JsonObject) -> Said:
    """Return a message in OpenAI's format as `Said`. Raises BadRecord for an unknown role."""
    role = ROLES.get(text_of(message.get("role"), "a role").lower())
    if role is None:
        raise BadRecord(f"a role (user, assistant, system, tool), found {str(message.get('role'))[:40]!r}")
    text, parts = content_of(message.get("content"))
    parts += [{key: message[key]} for key in _CALLS if message.get(key)]
    thoughts = text_of(message.get("reasoning_content") or message.get("reasoning"), "reasoning")
    time = moment(
        message.get("timestamp") or message.get("created_at") or message.get("create_time") or message.get("date")
    )
    return Said(role, text, time, thoughts, text_of(message.get("model"), "a model"), parts)


def content_of(content: object) -> tuple[str, list[object]]:
    """Return (text of a message's content, its parts that are not text)."""
    if not isinstance(content, list):
        return text_of(content, "content"), []
    texts, parts = list[str](), list[object]()
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("type", "text") in _TEXTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            parts.append(part)
    return "\n\n".join(texts), parts


def _fits(record: object) -> bool:
    return has(first(record, *_LISTS), "role", "content") or has(first(record, *_LISTS), "role", "tool_calls")


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    messages = dicts(one_of(record, *_LISTS), "messages")
    said = [said_of(message) for message in messages]
    if system := text_of(record.get("system") or record.get("system_prompt"), "a system prompt"):
        said.insert(0, Said("system", system))
    yield Chat(said)


def _fits_list(record: object) -> bool:
    return has(record, "role", "content") and str(record["role"]).lower() in ROLES


def _read_list(source: Source) -> Iterator[Chat | Fault]:
    """Yield the conversations of a file whose records are messages.

    A system message begins another conversation.
    """
    now: list[Said] = []
    for record in source.records():
        if isinstance(record, Fault):
            yield record
            continue
        try:
            said = said_of(record.value)
        except BadRecord as error:
            yield Fault(record.place, f"expected {error}")
            continue
        except NOT_AS_EXPECTED:
            yield Fault(record.place, f"expected a message, found {kind(record.value)}")
            continue
        if now and (said.role == "system" or (len(now) >= 400 and said.role == "user" and now[-1].role == "assistant")):
            yield Chat(now)
            now = []
        now.append(said)
    if now:
        yield Chat(now)


MESSAGES = Importer("messages (OpenAI)", _fits, each(_convert, "messages with a role and content"))
MESSAGE_LIST = Importer("a list of messages", _fits_list, _read_list)
