"""Read messages in OpenAI's format: {"messages": [{"role", "content"}]}, or only a list of messages.

Other names for "messages" (`_LISTS`), "role" and "content" (message_forms.py) are read too.
Messages may contain tool calls and images.
"""

from collections.abc import Iterable, Iterator, Sequence
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
from fine_tuning.data_collection.importers.message_forms import is_message, role_of, said_of, unwrapped
from fine_tuning.data_collection.importers.shape import NOT_AS_EXPECTED, Importer, Source, each
from fine_tuning.data_collection.importers.trees import paths
from fine_tuning.json_values import JsonObject, JsonValue

_LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns", "responses", "chunks")
# keys of lists that have only a part of a record's messages: `pairs` and `preference` read them
_SIDES = frozenset(("prompt", "completion", "response", "history", "chosen", "rejected"))
_DEEPEST = 2  # objects within a record that are searched for a list of messages
_IDS = ("conversation_id", "conversationId", "sessionId", "session_id", "chat_id")

_OWN_IDS = ("id", "message_id", "messageId", "uuid", "response_id", "user_message_id")
_PARENTS = ("parent_id", "parentId", "parent_message_id", "parentMessageId", "parentUuid", "parent_response_id")


def dialogues_in(record: object, depth: int = 0) -> list[list[JsonValue]]:
    """Return the lists of messages in a record.

    This is the record itself if it is such a list; else one list among its values; if it has none,
    the lists in its nested objects. A list whose key is not in `_LISTS` must contain messages of
    both the user and the assistant.
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
    found: Sequence[JsonValue] = dialogues_in(record) or [one_of(facts, *_LISTS)]
    for messages in found:
        told = [(message, said_of(message)) for message in dicts(messages, "messages")]
        for said in _paths(told, source.branches == "all"):
            yield Chat(rated([*head, *said], facts))


def _paths(told: Sequence[tuple[JsonObject, Said]], all: bool) -> Iterator[list[Said]]:
    """Yield the messages as one conversation.

    If several of them reply to the same message, yield the paths through their tree instead: the best
    one, or all.
    """
    messages = [unwrapped(message) for message, _ in told]
    parents = [next((message[key] for key in _PARENTS if message.get(key)), None) for message in messages]
    named = {parent for parent in parents if isinstance(parent, str)}
    for key in _OWN_IDS:
        ids = [str(message.get(key)) for message in messages]
        is_tree = named <= set(ids) and len(set(ids)) == len(ids)
        if is_tree and len(named) < sum(parent is not None for parent in parents):
            by_id = {id: said for id, (_, said) in zip(ids, told, strict=True)}
            nodes: dict[str, JsonObject] = {
                id: {"id": id, "parent": parent} for id, parent in zip(ids, parents, strict=True)
            }
            for path in paths(nodes, None, "parent", all):
                yield [by_id[str(node["id"])] for node in path]
            return
    yield [said for _, said in told]


def _fits_list(record: object) -> bool:
    return is_message(record)


def _read_list(source: Source) -> Iterator[Chat | Fault]:
    """Yield the conversations of a file whose records are messages.

    A new conversation begins where the conversation id changes. Without ids, it begins with a system
    message, or with a message that replies to none.
    """
    now: list[tuple[JsonObject, Said]] = []
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
        is_long = len(now) >= 400 and said.role == "user" and now[-1][1].role == "assistant"
        if now and (its_id != id or (not id and _begins(record.value, said)) or is_long):
            yield from (Chat(each, id) for each in _paths(now, source.branches == "all"))
            now = []
        id = its_id
        now.append((record.value, said))
    if now:
        yield from (Chat(each, id) for each in _paths(now, source.branches == "all"))


def _begins(message: JsonObject, said: Said) -> bool:
    """Return whether a message begins a conversation: it is a system prompt, or its parent is given as empty."""
    return said.role == "system" or any(key in message and not message[key] for key in _PARENTS)


def _is_note(record: object) -> bool:
    """Return whether a record does not belong to the conversation.

    Such a record is an event in an agent's log, or is marked as a note or as the work of a sub-agent.
    """
    if not isinstance(record, dict):
        return False
    is_event = isinstance(record.get("type"), str) and "role" not in record and not is_message(record)
    return is_event or bool(record.get("isMeta") or record.get("isSidechain"))


MESSAGES = Importer("messages (OpenAI)", _fits, each(_convert, "messages with a role and content"))
MESSAGE_LIST = Importer("a list of messages", _fits_list, _read_list)
