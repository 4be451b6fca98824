"""Read the intents of a chatbot whose wordings and answers are deeper objects than lists of texts.

Dialogflow, Amazon Lex and Botpress write such intents: {"userSays": [{"data": [{"text": "…"}]}],
"responses": [{"messages": [{"speech": ["…"]}]}]}. Intents with plain lists of texts are read by `pairs`.
"""

import re
from collections.abc import Iterable
from typing import Any

from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Said
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject

_ASKED = ("userSays", "sampleUtterances", "trainingPhrases", "utterances", "patterns", "questions")
_ANSWERED = ("responses", "answers", "conclusionStatement", "intentClosingSetting", "fulfillment")
_PIECES = ("data", "parts")  # lists whose texts are the pieces of one wording, around the words that stand for a value
_TEXTS = (
    *("text", "utterance", "speech", "content", "value", "plainTextMessage", "message", "messages", "messageGroups"),
    "closingResponse",
)
_LANGUAGE = re.compile(r"[a-z]{2}(?:[-_][A-Za-z]{2,4})?")
_DEEPEST = 8


def _sides(record: object) -> tuple[list[str], list[str]]:
    """Return the wordings and the answers of an intent; empty lists for what is missing."""
    holder = record.get("data", record) if isinstance(record, dict) else record
    if not isinstance(holder, dict):
        return [], []
    asked, answered = (next((holder[key] for key in keys if holder.get(key)), None) for keys in (_ASKED, _ANSWERED))
    return _texts(asked), _texts(answered)


def _texts(value: Any, depth: int = 0) -> list[str]:
    """Return the texts within a value, in order; of a value for each language those of the first one."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    if depth == _DEEPEST:
        return []
    if isinstance(value, list):
        return [text for inner in value for text in _texts(inner, depth + 1)]
    if not isinstance(value, dict) or not value:
        return []
    if pieces := next((value[key] for key in _PIECES if isinstance(value.get(key), list)), None):
        return ["".join(_texts(pieces, depth + 1))]
    if all(_LANGUAGE.fullmatch(str(key)) for key in value):
        return _texts(next(iter(value.values())), depth + 1)
    return [text for key in _TEXTS if key in value for text in _texts(value[key], depth + 1)]


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    """Yield a chat for each wording; several answers are taken in turns, so that each occurs."""
    asked, answers = _sides(record)
    if not asked or not answers:
        raise BadRecord("an intent with wordings and answers")
    for number in range(max(len(asked), len(answers))):
        said = [Said("user", asked[number % len(asked)]), Said("assistant", answers[number % len(answers)])]
        yield Chat(said)


INTENTS = Importer("intents of a chatbot", lambda record: all(_sides(record)), each(_convert, "an intent"))
