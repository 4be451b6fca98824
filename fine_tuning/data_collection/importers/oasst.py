"""Read OpenAssistant's trees of messages: one tree per record ("prompt" with "replies"), or one message per record.

In the second form, the messages of a tree follow each other. The best path always takes the reply
with the lowest rank. With `branches` "all", each path from the prompt to a message without replies
is a conversation.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby

from fine_tuning.data_collection.importers.chats import ROLES, BadRecord, Chat, Fault, Said, dicts, has, moment, text_of
from fine_tuning.data_collection.importers.records import Record
from fine_tuning.data_collection.importers.shape import NOT_AS_EXPECTED, Importer, Source, each
from fine_tuning.json_values import JsonObject, JsonValue

_DEEPEST = 200


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    prompt = record.get("prompt", record)  # the tree, or its first message itself
    id = text_of(record.get("message_tree_id") or record.get("message_id"), "a tree's id")
    if not isinstance(prompt, dict):
        raise BadRecord('a tree of messages in "prompt"')
    for number, path in enumerate(_paths(prompt, source.branches == "all")):
        yield Chat([_said(message) for message in path], f"{id} {number}" if number and id else id)


def _paths(message: JsonObject, all: bool, before: tuple[JsonObject, ...] = ()) -> Iterator[tuple[JsonObject, ...]]:
    """Yield the paths through the tree below `message`, the best one first; without `all`, only the best one."""
    path = (*before, message)
    replies = [reply for reply in dicts(message.get("replies") or [], "replies") if _is_kept(reply)]
    if not replies or len(path) >= _DEEPEST:
        yield path
        return
    for reply in sorted(replies, key=_rank)[: None if all else 1]:
        yield from _paths(reply, all, path)


def _is_kept(message: JsonObject) -> bool:
    return not message.get("deleted") and message.get("review_result") is not False


def _rank(message: JsonObject) -> float:
    rank = message.get("rank")
    return float(rank) if isinstance(rank, int | float) and rank == rank else float("inf")  # not NaN


def _said(message: JsonObject) -> Said:
    role = ROLES.get(text_of(message.get("role"), "a role"))
    if role is None:
        raise BadRecord(f"a role (prompter, assistant), found {str(message.get('role'))[:40]!r}")
    model = text_of(message.get("model_name"), "a model")
    return Said(role, text_of(message.get("text"), "text"), moment(message.get("created_date")), model=model)


def _fits_tree(record: object) -> bool:
    if has(record, "message_id", "text", "role", "replies"):
        return True
    return has(record, "prompt") and has(record["prompt"], "text", "role") and "replies" in record["prompt"]


def _fits_message(record: object) -> bool:
    return has(record, "message_id", "parent_id", "text", "role")


def _read_messages(source: Source) -> Iterator[Chat | Fault]:
    faults: list[Fault] = []
    for tree, group in groupby(_good(source.records(), faults), key=lambda record: record.value["message_tree_id"]):
        records = list(group)
        yield from faults
        faults.clear()
        try:
            root = _grown([record.value for record in records])
            for chat in _convert({"message_tree_id": tree, "prompt": root}, source):
                yield Chat(chat.said, chat.id, place=records[0].place)
        except BadRecord as error:
            yield Fault(records[0].place, f"expected {error}")
        except NOT_AS_EXPECTED as error:
            yield Fault(records[0].place, f"expected messages of a tree, found another structure ({error})")
    yield from faults


def _good(records: Iterable[Record | Fault], faults: list[Fault]) -> Iterator[Record]:
    for record in records:
        if isinstance(record, Fault):
            faults.append(record)
        elif _fits_message(record.value):
            record.value.setdefault("message_tree_id", None)
            yield record
        else:
            faults.append(Fault(record.place, "expected a message with message_id, parent_id, text and role"))


def _grown(messages: list[JsonObject]) -> JsonObject:
    """Return the root of the tree of these messages, in which all replies are nested.

    Raises BadRecord if every message is a reply.
    """
    replies: dict[JsonValue, list[JsonValue]] = {message["message_id"]: [] for message in messages}
    found = {message["message_id"]: {**message, "replies": replies[message["message_id"]]} for message in messages}
    roots: list[JsonObject] = []
    for id, message in found.items():
        parent = message["parent_id"]
        if parent in replies and parent != id:
            replies[parent].append(message)
        else:
            roots.append(message)
    if not roots:
        raise BadRecord("a message that replies to none")
    return roots[0]


OASST = Importer("OpenAssistant trees", _fits_tree, each(_convert, 'a tree of messages in "prompt"'))
OASST_MESSAGES = Importer("OpenAssistant messages", _fits_message, _read_messages)
