"""Read text-generation-webui's chats: {"internal": [[question, answer], ...], "visible": ...}.

In old chats the key is "data" instead of "internal".
"""

from collections.abc import Iterable

from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Role, Said, first, moment, object_in, text_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject

_NOBODY = "<|BEGIN-VISIBLE-CHAT|>"  # in place of a question where the character spoke first


def _fits(record: object) -> bool:
    pair = first(record, "internal", "data")
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    said, about = list[Said](), object_in(record, "metadata")
    pairs = record.get("internal") or record.get("data")
    if not isinstance(pairs, list):
        raise BadRecord("pairs of a question and an answer")
    for number, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRecord("pairs of a question and an answer")
        texts = [text_of(text, "text") for text in pair]
        sides: list[tuple[Role, str]] = [("user", texts[0]), ("assistant", texts[1])]
        for role, text in sides:
            if text != _NOBODY:
                said.append(Said(role, text, _time(about.get(f"{role}_{number}"))))
    yield Chat(said)


def _time(facts: object) -> str:
    return moment(facts.get("timestamp"), "%b %d, %Y %H:%M") if isinstance(facts, dict) else ""


TEXT_GENERATION_WEBUI = Importer(
    "text-generation-webui chat", _fits, each(_convert, "pairs in internal"), frozenset({"object", "array"})
)
