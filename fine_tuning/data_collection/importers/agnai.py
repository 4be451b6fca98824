"""Read chats exported from Agnai (Agnaistic): {"name", "greeting", "scenario", "messages": [{"msg", …}]}.

A message with a "userId" is the user's, one with a "characterId" a character's.
"""

from collections.abc import Iterable

from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Role, Said, dicts, has, moment, text_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject

_SIDES: dict[str, Role] = {"userId": "user", "characterId": "assistant"}


def _fits(record: object) -> bool:
    if not has(record, "messages", "scenario") or not isinstance(messages := record["messages"], list):
        return False
    return any(isinstance(each, dict) and "msg" in each and not _SIDES.keys().isdisjoint(each) for each in messages)


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    scenario = text_of(record.get("scenario"), "a scenario").strip()
    said = [_said(message) for message in dicts(record["messages"], "messages") if not message.get("ooc")]
    yield Chat([*([Said("system", scenario)] if scenario else []), *said])


def _said(message: JsonObject) -> Said:
    role = next((role for key, role in _SIDES.items() if message.get(key)), None)
    if role is None:
        raise BadRecord("a userId or a characterId of a message")
    return Said(role, text_of(message.get("msg"), "msg"), moment(message.get("createdAt")))


AGNAI = Importer("Agnai chat", _fits, each(_convert, "messages with a msg"))
