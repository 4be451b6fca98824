"""Read the backup of Cherry Studio, `data.json`: its messages name the blocks that hold their texts."""

from collections.abc import Iterable

from fine_tuning.data_collection.importers.chats import Chat, Said, dicts, has, list_in, object_in, text_of
from fine_tuning.data_collection.importers.message_forms import said_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject, JsonValue

_KINDS = {"main_text": "text", "code": "text", "thinking": "thinking"}


def _fits(record: object) -> bool:
    stored = record.get("indexedDB") if isinstance(record, dict) else None
    return has(stored, "topics", "message_blocks")


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    stored = object_in(record, "indexedDB")
    blocks = {str(block.get("id")): block for block in dicts(stored["message_blocks"], "message_blocks")}
    for topic in dicts(stored["topics"], "topics"):
        said = [_said(message, blocks) for message in dicts(list_in(topic, "messages"), "messages")]
        yield Chat(said, text_of(topic.get("id"), "an id"))


def _said(message: JsonObject, blocks: dict[str, JsonObject]) -> Said:
    found = [blocks[str(id)] for id in list_in(message, "blocks") if str(id) in blocks]
    model = message.get("model")
    parts: list[JsonValue] = [
        {"type": _KINDS[kind], "text": block.get("content")} if (kind := str(block.get("type"))) in _KINDS else block
        for block in found
    ]
    name = model.get("id") if isinstance(model, dict) else model
    return said_of({**message, "content": message.get("content") or parts, "model": name})


CHERRY_STUDIO = Importer("Cherry Studio backup (data.json)", _fits, each(_convert, "topics and message_blocks"))
