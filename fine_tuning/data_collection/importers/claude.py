"""Read Claude's export, `conversations.json`.

The `chat_messages` of each conversation consist of blocks of text, thinking and tool use.
"""

from collections.abc import Iterable

from fine_tuning.data_collection.importers.chats import (
    ROLES,
    BadRecord,
    Chat,
    Said,
    dicts,
    has,
    list_in,
    moment,
    text_of,
)
from fine_tuning.data_collection.importers.message_forms import is_result
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.data_collection.importers.trees import paths
from fine_tuning.json_values import JsonObject

_NOWHERE = "00000000-0000-4000-8000-000000000000"  # parent of a first message


def _fits(record: object) -> bool:
    return has(record, "chat_messages") and isinstance(record["chat_messages"], list)


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    # the export may have null in the place of a lost message
    messages = dicts([each for each in list_in(record, "chat_messages") if each is not None], "chat_messages")
    nodes = {id: message for message in messages if isinstance(id := message.get("uuid"), str)}
    id, model = text_of(record.get("uuid"), "an id"), text_of(record.get("model"), "a model")
    is_tree = len(nodes) == len(messages) and any(
        message.get("parent_message_uuid") not in (None, _NOWHERE) for message in messages
    )
    found = (
        paths(nodes, record.get("current_leaf_message_uuid"), "parent_message_uuid", source.branches == "all")
        if is_tree
        else [messages]
    )
    for number, path in enumerate(found):
        yield Chat([_said(message, model) for message in path], f"{id} {path[-1]['uuid']}" if number and id else id)


def _said(message: JsonObject, model: str) -> Said:
    role = ROLES.get(text_of(message.get("sender"), "a sender"))
    if role is None:
        raise BadRecord("a sender (human, assistant)")
    blocks = dicts(message.get("content") or [], "content")
    texts = [text_of(block.get("text"), "text") for block in blocks if block.get("type") == "text"]
    thoughts = [text_of(block.get("thinking"), "thinking") for block in blocks if block.get("type") == "thinking"]
    others = [block for block in blocks if block.get("type") not in ("text", "thinking", "token_budget")]
    files = [*list_in(message, "attachments"), *list_in(message, "files")]
    text = "\n\n".join(text for text in texts if text.strip()) if blocks else text_of(message.get("text"), "text")
    parts = [*others, *({"attachment": file} for file in files)]
    return Said(
        "tool" if is_result(role, text, parts) else role,
        text,
        moment(message.get("created_at")),
        "\n\n".join(filter(None, thoughts)),
        model if role == "assistant" else "",
        parts,
    )


CLAUDE = Importer("Claude export (conversations.json)", _fits, each(_convert, "a conversation with chat_messages"))
