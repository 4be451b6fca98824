"""Read messages in OpenAI's form: {"messages": [{"role", "content"}]}, or a list of messages by
itself; and lists of messages under other names (`message_forms`).

Messages may have tool calls and image parts.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from fine_tuning.data_collection.importers.chats import (
    BadRecord,
    Chat,
    Fault,
    Said,
    dicts,
    kind,
    one_of,
    rated,
    text_of,
)
from fine_tuning.data_collection.importers.message_forms import is_message, role_of, said_of
from fine_tuning.data_collection.importers.shape import NOT_AS_EXPECTED, Importer, Source, each
from fine_tuning.json_values import JsonValue

_LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns", "responses", "chunks")
# lists of messages that are one side of a record: `pairs` and `preference` read them
_SIDES = frozenset(("prompt", "completion", "response", "history", "chosen", "rejected"))
_DEEPEST = 2  # objects within a record that are searched for a list of messages
_IDS = ("conversation_id", "conversationId", "sessionId", "session_id", "chat_id")


def dialogues_in(record: object, depth: int = 0) -> list[list[JsonValue]]:
    """Return the lists of messages in a record: usually one, or one for each of its objects.

    A list under a name that is not known must have messages of both sides.
    """
    if isinstance(record, list):
        return [record] if any(is_message(each) for each in record[:3]) else []
    if not isinstance(record, dict):
        return []
    for key in _LISTS:
        if isinstance(found := record.get(key), list) and any(is_message(each) for each in found[:3]):
            return [found]
    for key, found in record.items():
        if key not in _SIDES and isinstance(found, list) and _has_both_sides(found):
            return [found]
    if depth == _DEEPEST:
        return []
    inner = (dialogues_in(value, depth + 1) for value in record.values() if isinstance(value, dict))
    return [found for several in inner for found in several]


def _has_both_sides(found: list[JsonValue]) -> bool:
    roles = {role_of(each) for each in islice(found, 20) if isinstance(each, dict) and is_message(each)}
    return {"user", "assistant"} <= roles


def _fits(record: object) -> bool:
    return bool(dialogues_in(record))


def _convert(record: JsonValue, source: Source) -> Iterable[Chat]:
    facts = record if isinstance(record, dict) else {}
    system = text_of(facts.get("system") or facts.get("system_prompt"), "a system prompt")
    head = [Said("system", system)] if system else []
    for messages in dialogues_in(record) or [one_of(facts, *_LISTS)]:
        said = [said_of(message) for message in dicts(messages, "messages")]
        yield Chat(rated([*head, *said], facts))


def _fits_list(record: object) -> bool:
    return is_message(record)


def _read_list(source: Source) -> Iterator[Chat | Fault]:
    """Read a file whose records are messages. Another id of a conversation begins another one; where
    there are no ids, a system message does.
    """
    now: list[Said] = []
    id = ""
    for record in source.records():
        if isinstance(record, Fault):
            yield record
            continue
        if _is_note(record.value):
            continue
        try:
            said = said_of(record.value)
            its_id = str(next((record.value[key] for key in _IDS if record.value.get(key)), ""))
        except BadRecord as error:
            yield Fault(record.place, f"expected {error}")
            continue
        except NOT_AS_EXPECTED:
            yield Fault(record.place, f"expected a message, found {kind(record.value)}")
            continue
        is_long = len(now) >= 400 and said.role == "user" and now[-1].role == "assistant"
        if now and (its_id != id or (said.role == "system" and not id) or is_long):
            yield Chat(now, id)
            now = []
        id = its_id
        now.append(said)
    if now:
        yield Chat(now, id)


def _is_note(record: object) -> bool:
    """Return whether a record is no message of the conversation: an event in an agent's log, or the
    work of another agent.
    """
    if not isinstance(record, dict):
        return False
    is_event = isinstance(record.get("type"), str) and "role" not in record and not is_message(record)
    return is_event or bool(record.get("isMeta") or record.get("isSidechain"))


MESSAGES = Importer("messages (OpenAI)", _fits, each(_convert, "messages with a role and content"))
MESSAGE_LIST = Importer("a list of messages", _fits_list, _read_list)
