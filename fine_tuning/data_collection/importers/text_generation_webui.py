"""text-generation-webui's chats: {"internal": [[question, answer], ...], "visible": ...}, in old ones "data"."""

from collections.abc import Iterable
from typing import Any

from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Said, first, moment, text_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each

_NOBODY = "<|BEGIN-VISIBLE-CHAT|>"  # in a question's place: the character began


def _fits(record: Any) -> bool:
    pair = first(record, "internal", "data")
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)


def _convert(record: Any, source: Source) -> Iterable[Chat]:
    said, about = [], record.get("metadata") or {}
    for number, pair in enumerate(record.get("internal") or record.get("data")):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRecord("pairs of a question and an answer")
        texts = [text_of(text, "text") for text in pair]
        sides: list[tuple[Any, str]] = [("user", texts[0]), ("assistant", texts[1])]
        for role, text in sides:
            if text != _NOBODY:
                said.append(Said(role, text, _time(about.get(f"{role}_{number}"))))
    yield Chat(said)


def _time(facts: Any) -> str:
    return moment(facts.get("timestamp"), "%b %d, %Y %H:%M") if isinstance(facts, dict) else ""


TEXT_GENERATION_WEBUI = Importer("text-generation-webui chat", _fits, each(_convert, "pairs in internal"), frozenset({"object", "array"}))
