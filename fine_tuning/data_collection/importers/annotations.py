"""Read what people wrote and chose in an annotation tool: the tasks of Label Studio and Prodigy, Argilla's records.

A task has the question in `data` or `fields`. The answer is the text that an annotator wrote, the one
of two answers that was chosen, or the messages with which a chat was continued.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Said, text_of
from fine_tuning.data_collection.importers.message_forms import is_message, said_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject

_ASKED = ("prompt", "question", "instruction", "input", "query", "text")
_SIDES = ("left", "right")  # of Label Studio's Pairwise


def _shown(record: JsonObject) -> JsonObject:
    """Return what a task shows to the annotator."""
    found = next((found for key in ("data", "fields") if isinstance(found := record.get(key), dict)), {})
    return record if "_task_hash" in record else found


def _asked(record: JsonObject) -> str:
    shown = _shown(record)
    return next((text for key in _ASKED if isinstance(text := shown.get(key), str) and text.strip()), "")


def _results(record: JsonObject) -> Iterator[list[Any]]:
    """Yield the values of each annotation in Label Studio."""
    annotations: Any = record.get("annotations")
    for annotation in annotations if isinstance(annotations, list) else ():
        if not annotation.get("was_cancelled"):
            yield [one.get("value") or {} for one in annotation.get("result") or []]


def _written(record: JsonObject) -> Iterator[str]:
    """Yield the answer that each annotator wrote. If it consists of several texts, they are joined."""
    for values in _results(record):
        if found := [text for value in values for text in _listed(value.get("text"))]:
            yield "\n\n".join(found)
    if "_task_hash" in record and record.get("answer") == "accept":  # Prodigy
        yield from _listed(record.get("user_input"))
    responses: Any = record.get("responses")
    if isinstance(responses, list):  # Argilla 1: [{"values": {"answer": {"value": "…"}}, "status": "submitted"}]
        kept = [each.get("values") for each in responses if each.get("status") != "discarded"]
        responses = {"": [answer for values in kept if isinstance(values, dict) for answer in values.values()]}
    for answers in responses.values() if isinstance(responses, dict) else ():
        for answer in answers if isinstance(answers, list) else ():
            if isinstance(answer, dict) and isinstance(answer.get("value"), str):
                yield answer["value"]


def _listed(value: object) -> list[str]:
    return [text_of(text, "a text") for text in (value if isinstance(value, list) else [value]) if text]


def _chosen(record: JsonObject) -> tuple[str, str] | None:
    """Return the chosen and the rejected answer of a task that compares two; None for any other task."""
    asked = _asked(record)
    answers = [text for text in _shown(record).values() if isinstance(text, str) and text.strip() and text != asked]
    side = next((value.get("selected") for values in _results(record) for value in values if "selected" in value), None)
    if len(answers) != 2 or side not in _SIDES:
        return None
    return (answers[0], answers[1]) if side == "left" else (answers[1], answers[0])


def _continued(record: JsonObject) -> list[Said]:
    """Return the messages of a chat that an annotator continued, with those that were added; [] for any other task."""
    shown = next((found for found in _shown(record).values() if isinstance(found, list)), [])
    added = next(
        (
            some
            for values in _results(record)
            if (some := [each["chatmessage"] for each in values if "chatmessage" in each])
        ),
        [],
    )
    return [said_of(each) for each in (*shown, *added) if isinstance(each, dict) and is_message(each)] if added else []


def _said(record: JsonObject) -> list[Said]:
    """Return the messages of a task; [] if it has none."""
    if continued := _continued(record):
        return continued
    asked = Said("user", _asked(record))
    if not asked.text:
        return []
    if both := _chosen(record):
        return [asked, Said("assistant", both[0], rejected=both[1])]
    answer = next(_written(record), "")
    return [asked, Said("assistant", answer)] if answer else []


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    said = _said(record)
    if not said:
        raise BadRecord("a task with a question, and an annotation with an answer")
    yield Chat(said)


ANNOTATIONS = Importer(
    "tasks of an annotation tool, with answers",
    lambda record: isinstance(record, dict) and bool(_said(record)),
    each(_convert, "an annotated task"),
)
