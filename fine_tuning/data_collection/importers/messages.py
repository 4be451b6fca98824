"""Read messages in OpenAI's format: {"messages": [{"role", "content"}]}, or only a list of messages.

Other names for "messages" (`_LISTS`), "role" and "content" (message_forms.py) are read too.
Messages may contain tool calls and images.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from fine_tuning.data_collection.importers.chats import (
    BadRecord,
    Chat,
    Fault,
    Said,
    dicts,
    kind,
    one_of,
    rated,
)
from fine_tuning.data_collection.importers.message_forms import (
    WRAPS,
    content_of,
    has_content,
    is_message,
    role_of,
    said_of,
    sides_of,
    unwrapped,
)
from fine_tuning.data_collection.importers.shape import NOT_AS_EXPECTED, Importer, Source, each
from fine_tuning.data_collection.importers.trees import paths
from fine_tuning.json_values import JsonObject, JsonValue

_LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns", "responses", "chunks")
# keys of lists that have only a part of a record's messages: `pairs` and `preference` read them
_SIDES = frozenset(
    (
        *("prompt", "completion", "response", "history", "chat_history", "conversation_history", "chosen", "rejected"),
        *("chosen_conversations", "rejected_conversations"),
    )
)
# keys of what continues such a list; without one of them, it is the whole conversation
_BESIDE = frozenset(
    (
        *("prompt", "completion", "response", "chosen", "rejected", "query", "question", "answer", "instruction"),
        *("input", "output", "message", "chosen_conversations", "candidates"),
    )
)
# "context": PaLM and Vertex AI
_SYSTEM = ("system", "system_prompt", "systemInstruction", "system_instruction", "context")
_DEEPEST = 2  # objects within a record that are searched for a list of messages
_IDS = (
    *("conversation_id", "conversationId", "sessionId", "session_id", "chat_id", "chatId", "topicId", "topic_id"),
    *("thread_id", "threadId", "dialogue_id", "conv_id", "conversation"),
)

_OWN_IDS = ("id", "message_id", "messageId", "uuid", "response_id", "user_message_id")
_PARENTS = ("parent_id", "parentId", "parent_message_id", "parentMessageId", "parentUuid", "parent_response_id")


_TREE = frozenset((*_PARENTS, "children"))


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
            return [found, *_threads(record)]
    is_whole = record.keys().isdisjoint(_BESIDE)
    for key, found in record.items():
        if (key not in _SIDES or is_whole) and isinstance(found, list) and _has_both_sides(found):
            return [found]
    if depth == _DEEPEST:
        return []
    inner = (dialogues_in(value, depth + 1) for value in record.values() if isinstance(value, dict))
    return [found for several in inner for found in several]


def _threads(record: JsonObject) -> Iterator[list[JsonValue]]:
    """Yield the earlier threads of a chat in Chatbox, each as a list of messages."""
    threads = record.get("threads")
    for thread in threads if isinstance(threads, list) else ():
        yield from dialogues_in(thread, _DEEPEST)


def _has_both_sides(found: list[JsonValue]) -> bool:
    roles = {role_of(each) for each in islice(found, 20) if isinstance(each, dict) and is_message(each)}
    return {"user", "assistant"} <= roles


def _fits(record: object) -> bool:
    return bool(dialogues_in(record))


def _convert(record: JsonValue, source: Source) -> Iterable[Chat]:
    facts = record if isinstance(record, dict) else {}
    system, parts, _ = content_of(next((facts[key] for key in _SYSTEM if facts.get(key)), None))
    head = [Said("system", system, parts=parts)] if system or parts else []
    found: Sequence[JsonValue] = dialogues_in(record) or [one_of(facts, *_LISTS)]
    for messages in found:
        for some in _by_conversation(dicts(messages, "messages")):
            for said in _paths(_told(some), source.branches == "all"):
                yield Chat(rated([*head, *said], facts))


def _told(messages: Sequence[JsonObject]) -> list[tuple[JsonObject, Said]]:
    """Return the messages of a conversation, in order.

    Raises BadRecord if a role is unknown, and cannot be inferred.
    """
    if any("children" in message for message in messages):
        messages = list(_flat(messages))
    found = [message for message in messages if has_content(message) or not _is_event(message)]
    for without_notes in (False, True):
        with suppress(BadRecord):
            told = [(message, said_of(message)) for message in found if not (without_notes and _is_event(message))]
            if any(said.role == "assistant" for _, said in told):
                return _in_order(told)
    sides = sides_of(found)
    return _in_order([(message, said_of(message, sides)) for message in found])


def _flat(messages: Sequence[JsonObject]) -> Iterator[JsonObject]:
    """Yield messages and the replies that are in them as "children", each reply after what it replies to."""
    waiting = [*reversed(messages)]
    while waiting:
        message = waiting.pop()
        yield message
        replies = message.get("children")
        if isinstance(replies, list) and replies and all(isinstance(each, dict) for each in replies):
            waiting += [each for each in reversed(replies) if isinstance(each, dict)]


def _in_order(told: list[tuple[JsonObject, Said]]) -> list[tuple[JsonObject, Said]]:
    """Return the messages with the oldest first: reversed if the newest comes first, else unchanged."""
    if len(told) < 2 or not told[0][1].time > told[-1][1].time > "":
        return told
    times = [said.time for _, said in told if said.time]
    return told[::-1] if times == sorted(times, reverse=True) else told


def _by_conversation(messages: list[JsonObject]) -> list[list[JsonObject]]:
    """Divide messages by conversation, since some programs store those of all conversations in one list.

    They are divided if each has the id of a conversation, and a conversation has at least two on average.
    """
    if not messages or not any(messages[0].get(key) for key in _IDS):
        return [messages]
    found: dict[tuple[str, ...], list[JsonObject]] = {}
    for message in messages:
        found.setdefault(tuple(str(message.get(key) or "") for key in _IDS), []).append(message)
    return list(found.values()) if all(map(any, found)) and 2 * len(found) <= len(messages) else [messages]


def _paths(told: Sequence[tuple[JsonObject, Said]], all: bool) -> Iterator[list[Said]]:
    """Yield the messages as one conversation.

    If several of them reply to the same message, yield the paths through their tree instead: the best
    one, or all.
    """
    if not any(_TREE & message.keys() or WRAPS & message.keys() for message, _ in told):
        yield [said for _, said in told]
        return
    messages = [unwrapped(message) for message, _ in told]
    parents = [next((message[key] for key in _PARENTS if message.get(key)), None) for message in messages]
    parents = [
        None if isinstance(parent, str) and not parent.strip("0-") else parent for parent in parents
    ]  # LibreChat
    if not any(parents):  # HuggingChat: a message has the ids of its replies
        above = {
            str(reply): message.get("id")
            for message in messages
            if isinstance(replies := message.get("children"), list)
            for reply in replies
        }
        parents = [above.get(str(message.get("id"))) for message in messages]
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
    return is_message(_lowered(record))


def _lowered(record: Any) -> Any:
    """Return a row of a table with its columns in lower case: programs write "Author" and "Message"."""
    return (
        {key.strip().lower(): value for key, value in record.items()}
        if isinstance(record, dict) and all(isinstance(key, str) and key[:1].isupper() for key in record)
        else record
    )


def _read_list(source: Source) -> Iterator[Chat | Fault]:
    """Yield the conversations of a file whose records are messages.

    A new conversation begins where the conversation id changes. Without ids, it begins with a system
    message, or with a message that replies to none.
    """
    now: list[tuple[JsonObject, Said]] = []
    id = ""
    sides = sides_of(map(_lowered, source.found.sample))
    for record in source.records():
        if isinstance(record, Fault):
            yield record
            continue
        value = _lowered(record.value)
        if _is_note(value):
            continue
        try:
            said = said_of(value, sides)
            its_id = str(next((value[key] for key in _IDS if value.get(key)), ""))
        except BadRecord as error:
            yield Fault(record.place, f"expected {error}")
            continue
        except NOT_AS_EXPECTED:
            yield Fault(record.place, f"expected a message, found {kind(record.value)}")
            continue
        is_long = len(now) >= 400 and said.role == "user" and now[-1][1].role == "assistant"
        if now and (its_id != id or (not id and _begins(value, said)) or is_long):
            yield from (Chat(each, id) for each in _paths(_in_order(now), source.branches == "all"))
            now = []
        id = its_id
        now.append((value, said))
    if now:
        yield from (Chat(each, id) for each in _paths(_in_order(now), source.branches == "all"))


def _begins(message: JsonObject, said: Said) -> bool:
    """Return whether a message begins a conversation: it is a system prompt, or its parent is given as empty."""
    return said.role == "system" or any(key in message and not message[key] for key in _PARENTS)


def _is_note(record: object) -> bool:
    """Return whether a record does not belong to the conversation.

    Such a record is an event in an agent's log, or is marked as a note or as the work of a sub-agent.
    """
    if not isinstance(record, dict):
        return False
    return _is_event(record) or any(record.get(key) for key in ("isMeta", "isSidechain", "isCompactSummary"))


def _is_event(record: JsonObject) -> bool:
    """Return whether an object in a list of messages is an event between them, and not a message."""
    names = [key for key in ("type", "event", "message_type") if isinstance(record.get(key), str)]
    return bool(names) and "role" not in record and not is_message(record)


MESSAGES = Importer("messages (OpenAI)", _fits, each(_convert, "messages with a role and content"))
MESSAGE_LIST = Importer("a list of messages", _fits_list, _read_list)
