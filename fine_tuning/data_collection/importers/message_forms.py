"""Read one message, whichever names its program uses for the speaker, the text and the time.

OpenAI writes {"role", "content"}, ShareGPT {"from", "value"}, others {"sender", "message"},
{"speaker", "utterance"} or {"type", "text"}. Some programs put the message into another object, the
wrapper.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from fine_tuning.data_collection.importers.chats import ROLES, BadRecord, Role, Said, moment, text_of
from fine_tuning.data_collection.importers.html_text import text_of_html
from fine_tuning.data_collection.importers.marks import is_learned
from fine_tuning.json_values import JsonObject, JsonValue

_WRAPPERS = ("message", "response", "payload", "data", "post", "node")
WRAPS = frozenset((*_WRAPPERS, "info", "candidates"))
"""Keys of a message under which the message itself may be."""
_SPEAKERS = ("role", "from", "sender", "author", "speaker", "type", "message_type", "src", "event", "kind")
_IS_USER = ("isCreatedByUser", "is_user", "isUser", "is_human", "isHuman")
_CONTENTS = (
    *("content", "value", "text", "message", "parts", "utterance", "say", "body", "raw_content", "fragments"),
    *("contentParts", "content_list", "blocks", "rawText"),
)
_CALLS = ("tool_calls", "function_call", "audio", "refusal")
_TIMES = ("timestamp", "created_at", "create_time", "createdAt", "inserted_at", "date", "time")
_TEXTS = frozenset(("text", "input_text", "output_text", "user-prompt"))
_THOUGHTS = frozenset(("thinking", "reasoning", "thought", "think"))
_RESULTS = frozenset(("tool_result", "tool_response", "function_call_output", "tool-return", "retry-prompt"))
_KINDS = ("type", "part_kind", "phase")  # of a part: "part_kind" is Pydantic AI's, "phase" Qwen's
_REASONED = ("reasoning_content", "reasoning", "thinking")
_NUMBERS = {0: "bot", 1: "user"}  # Copilot Studio: {"from": {"role": 1}}
# text that an agent program inserts as if its user wrote it: "<command-name>/status</command-name>"
_INSERTED = re.compile(
    r"\s*(?:<([a-z]+(?:[-_][a-z]+)+)[^>]*>.*?</\1>\s*)+|"
    r"\[Request interrupted by user[^\]]*\]|# AGENTS\.md instructions.*",
    re.DOTALL,
)
_MARKED = re.compile(r"\s*<(task|user_query|user_message|feedback)>\s*(.*?)\s*</\1>\s*", re.DOTALL)  # Cline, Cursor


def is_message(value: object) -> bool:
    """Return whether a value is an object with a known speaker and a content."""
    if not isinstance(value, dict):
        return False
    message = unwrapped(value)
    return role_of(message) is not None and any(key in message for key in (*_CONTENTS, *_CALLS))


def has_content(message: JsonObject) -> bool:
    """Return whether a message has a text or another content that is not empty."""
    return any(unwrapped(message).get(key) for key in _CONTENTS)


def said_of(message: JsonObject, sides: Mapping[str, Role] = MappingProxyType({})) -> Said:
    """Return the message in a JSON object. Raises BadRecord if its role is unknown.

    `sides` holds the roles that cannot be recognised by the speaker's name, as `sides_of` returns them.
    """
    if len(message) == 2 and not sides:  # most messages are {"role", "content"}: this is ten times as fast
        name, said = message.get("role"), message.get("content")
        known = ROLES.get(name) if isinstance(name, str) else None
        if known and isinstance(said, str) and said and "<" not in said[:20]:
            return Said(known, said)
    wrapper, message = message, unwrapped(message)
    role = sides.get(name_of(message)) or role_of(message)
    if role is None:
        raise BadRecord(f"a role (user, assistant, system, tool), found {name_of(message)[:40]!r}")
    content = next((message[key] for key in _CONTENTS if message.get(key)), None)
    inserted = [part for part in content if _is_inserted(part)] if role == "user" and isinstance(content, list) else []
    if inserted and isinstance(content, list):
        content = [part for part in content if part not in inserted]
    text, parts, thoughts = content_of(content)
    if role == "user" and (marked := _MARKED.fullmatch(text)):
        text = marked[2]
    parts += inserted
    parts += [{key: message[key]} for key in _CALLS if message.get(key)]
    if message.get("isThought"):
        text, thoughts = "", text
    if wrapper is not message and role == "user" and _INSERTED.fullmatch(text):
        text, parts = "", [*parts, text]
    if is_result(role, text, parts) or is_note(message):
        role = "tool"
    if role == "tool" and not text and not parts:
        parts = [message]
    if message.get("content_type") == "text/html":
        text = text_of_html(text)
    thoughts = thoughts or text_of(next((message[key] for key in _REASONED if message.get(key)), ""), "reasoning")
    model = message.get("model") or message.get("model_name")
    learned = is_learned(role, message)
    return Said(role, text, time_of(message), thoughts, text_of(model, "a model"), parts, learned=learned)


def is_note(message: Mapping[str, object]) -> bool:
    """Return whether a message is a note among those who answer, which the person who asked never saw."""
    return any(message.get(key) is True for key in ("private", "internal")) or message.get("public") is False


def _is_inserted(part: JsonValue) -> bool:
    text = part.get("text") if isinstance(part, dict) else None
    return isinstance(text, str) and bool(_INSERTED.fullmatch(text))


def role_of(message: JsonObject) -> Role | None:
    """Return the role of a message's speaker; None if it is unknown."""
    for key in _SPEAKERS:
        role = ROLES.get(_name(message.get(key)).strip().lower())
        if role and not (key == "type" and role == "system"):  # a program's notes may have the type "system"
            return role
    for holder in (message, *(message.get(key) for key in _SPEAKERS)):  # Character.AI: {"src": {"is_human": true}}
        for key in _IS_USER:
            if isinstance(holder, dict) and isinstance(holder.get(key), bool):
                return "user" if holder[key] else "assistant"
    return None


def sides_of(messages: Iterable[object]) -> dict[str, Role]:
    """Return by name the roles of the speakers whose role cannot be recognised by their name.

    If all other speakers are users, such a speaker (named after a model, for example) is the assistant;
    if all others are assistants, the user. If a user talks only with "system", that is the assistant.
    """
    spoken = [unwrapped(each) for each in messages if isinstance(each, dict) and has_content(each)]
    roles = [role_of(each) for each in spoken]
    known = {role for role in roles if role in ("user", "assistant")}
    told: dict[str, Role] = {
        name: role for each, role in zip(spoken, roles, strict=True) if role in known and (name := name_of(each))
    }
    if len(known) != 1:
        return told if None in roles else {}
    other: Role = "assistant" if "user" in known else "user"
    names = {name_of(each): other for each, role in zip(spoken, roles, strict=True) if role is None}
    if not names and other == "assistant" and "system" in roles[1:]:
        return {"system": other}
    return {name: role for name, role in names.items() if name}


def is_result(role: Role, text: str, parts: Sequence[object]) -> bool:
    """Return whether a message only contains results of tools, which Claude stores as messages of the user."""
    return role == "user" and not text.strip() and bool(parts) and all(_kind_of(part) in _RESULTS for part in parts)


def time_of(message: JsonObject) -> str:
    """Return the time of a message, as `moment` returns it."""
    time: object = next((message[key] for key in _TIMES if message.get(key)), None)
    while isinstance(time, dict) and time:  # MongoDB: {"$date": {"$numberLong": "1700000000000"}}
        time = next(iter(time.values()))
    return moment(time)


def content_of(content: object) -> tuple[str, list[object], str]:
    """Return the text of a message's content, its parts that are not text, and its thoughts."""
    if isinstance(content, dict):
        content = next((content[key] for key in _CONTENTS if key in content), [content])
    if not isinstance(content, list):
        return text_of(content, "content"), [], ""
    texts, parts, thoughts = list[str](), list[object](), list[str]()
    for part in content:
        if isinstance(part, dict) and isinstance(part.get("part"), dict):  # big-AGI: {"part": {"pt": "text", ...}}
            part = part["part"]
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = _kind_of(part)
        text = next((text for name in (kind, "text", "value", "content") if (text := _text_in(part, name))), None)
        if text is not None and (kind in _THOUGHTS or part.get("thought") is True):
            thoughts.append(text)
        elif text is not None and kind in _TEXTS:
            texts.append(text)
        else:
            parts.append(part)
    return "\n\n".join(texts), parts, "\n\n".join(thoughts)


def _kind_of(part: object) -> str:
    """Return the kind of a part, such as "text" or "tool_use"; "" if it is no object."""
    if not isinstance(part, dict):
        return ""
    kind = str(next((part[key] for key in _KINDS if part.get(key)), "text")).lower()
    return "text" if kind == "answer" else kind


def _text_in(part: object, name: str) -> str | None:
    """Return the text that a part has under a name, which may be an object: {"text": {"value": "…"}}."""
    text = part.get(name) if isinstance(part, dict) else None
    if isinstance(text, dict):
        text = text.get("value")
    return text if isinstance(text, str) else None


def unwrapped(message: JsonObject, depth: int = 0) -> JsonObject:
    """Return the message in a wrapper, with the wrapper's other values, such as the time.

    An object that is not a wrapper is returned unchanged.
    """
    if isinstance(about := message.get("info"), dict) and "role" in about:  # OpenCode
        return {**about, **message}
    if message.get("content") or message.get("value") or message.get("text") or message.get("parts"):
        return message
    if isinstance(message.get("data"), str):  # RisuAI
        return {**message, "content": message["data"]}
    several = message.get("candidates")  # Character.AI
    if isinstance(several, list) and (candidates := [each for each in several if isinstance(each, dict)]):
        best = message.get("primary_candidate_id")
        return {**message, **next((each for each in candidates if each.get("candidate_id") == best), candidates[0])}
    for key in _WRAPPERS:
        inner = message.get(key)
        if isinstance(inner, dict) and any(name in inner for name in (*_SPEAKERS, *_CONTENTS)):
            found: JsonObject = {**message, "message": None, **inner}
            return unwrapped(found, depth + 1) if depth < 2 else found
    return message


def _name(speaker: JsonValue) -> str:
    if isinstance(speaker, dict):  # ChatGPT: {"author": {"role": "user"}}; Intercom: {"author": {"type": "admin"}}
        if isinstance(number := speaker.get("role"), int):
            return _NUMBERS.get(number, "")
        speaker = next((speaker[key] for key in ("role", "type", "name") if speaker.get(key)), None)
    return speaker if isinstance(speaker, str) else ""


def name_of(message: JsonObject) -> str:
    """Return the name of a message's speaker in lower case; "" if it has none."""
    return next((name for key in _SPEAKERS if (name := _name(message.get(key)).strip().lower())), "")
