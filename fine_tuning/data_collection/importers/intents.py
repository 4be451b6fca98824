"""Read the intents of a chatbot whose wordings and answers are nested objects instead of lists of texts.

Dialogflow, Amazon Lex and Botpress write such intents: {"userSays": [{"data": [{"text": "…"}]}],
"responses": [{"messages": [{"speech": ["…"]}]}]}. Intents with plain lists of texts are read by `columns`.
Watson writes the wordings and the answers in two lists, which the names of the intents connect.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Said
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject

_ASKED = ("userSays", "sampleUtterances", "trainingPhrases", "utterances", "patterns", "questions")
_ANSWERED = ("responses", "answers", "conclusionStatement", "intentClosingSetting", "fulfillment")
_PIECES = ("data", "parts")  # lists whose texts are the pieces of one wording, around the words that stand for a value
_TEXTS = (
    *("text", "utterance", "speech", "content", "value", "plainTextMessage", "message", "messages", "messageGroups"),
    *("closingResponse", "generic", "values", "text_expression", "concat", "scalar"),
)
_CONDITION = re.compile(r"#([\w.-]+)")  # Watson: "#opening_hours && @day"
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
    """Return the texts within a value, in order. Of an object with a value for each language, only the first counts."""
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


def _of_watson(record: object) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the wordings of each intent of a Watson assistant with the answers of the first node for it.

    Nodes below another node are left out, since what they answer depends on what was said before.
    """
    if not isinstance(record, dict) or not isinstance(intents := record.get("intents"), list):
        return
    nodes: list[Any] = [*_objects(record.get("dialog_nodes")), *_objects(record.get("actions"))]
    folders = {node.get("dialog_node") for node in nodes if node.get("type") == "folder"}
    answers: dict[str, list[str]] = {}
    for node in nodes:
        condition = node.get("conditions", node.get("condition"))
        named = [condition.get("intent")] if isinstance(condition, dict) else _CONDITION.findall(str(condition))
        steps = [node, *_objects(node.get("steps"))]
        texts = [text for step in steps for text in _texts(step.get("output"), 1)]
        if texts and node.get("parent") in (None, *folders):
            for intent in named:
                answers.setdefault(str(intent), texts)
    for intent in _objects(intents):
        name = str(intent.get("intent"))
        yield _texts(intent.get("examples")), answers.get(name) or answers.get(name.split("_")[0]) or []


def _objects(value: Any) -> list[Any]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    """Yield a chat for each wording; several answers are taken in turns, so that each occurs."""
    intents = [_sides(record)] if all(_sides(record)) else list(_of_watson(record))
    if not intents:
        raise BadRecord("an intent with wordings and answers")
    for asked, answers in intents:
        for number in range(max(len(asked), len(answers)) if asked else 0):
            said = [Said("user", asked[number % len(asked)])]
            yield Chat([*said, Said("assistant", answers[number % len(answers)])] if answers else said)


def _fits(record: object) -> bool:
    return all(_sides(record)) or any(asked and answers for asked, answers in _of_watson(record))


INTENTS = Importer("intents of a chatbot", _fits, each(_convert, "an intent"))
