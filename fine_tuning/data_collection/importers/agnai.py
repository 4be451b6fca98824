"""Read chats exported from Agnai (Agnaistic): {"name", "greeting", "scenario", "messages": [{"msg", …}]}.

A message with a "userId" is the user's, one with a "characterId" a character's; one with neither tells an event,
and is left out.
"""

from collections.abc import Iterable, Iterator

from fine_tuning.data_collection.importers.chats import Chat, Role, Said, dicts, has, moment, text_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject

_SIDES: dict[str, Role] = {"userId": "user", "characterId": "assistant"}


def _fits(record: object) -> bool:
    if not has(record, "messages", "scenario") or not isinstance(messages := record["messages"], list):
        return False
    return any(has(message, "msg") and not _SIDES.keys().isdisjoint(message) for message in messages)


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    scenario = text_of(record.get("scenario"), "a scenario").strip()
    yield Chat([*([Said("system", scenario)] if scenario else []), *_said(dicts(record["messages"], "messages"))])


def _said(messages: Iterable[JsonObject]) -> Iterator[Said]:
    for message in messages:
        role = next((role for key, role in _SIDES.items() if message.get(key)), None)
        if role and not message.get("ooc"):
            yield Said(role, text_of(message.get("msg"), "msg"), moment(message.get("createdAt")))


AGNAI = Importer("Agnai chat", _fits, each(_convert, "messages with a msg"))
