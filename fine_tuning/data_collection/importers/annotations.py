"""Read what people wrote in an annotation tool: Label Studio's tasks with a text area, and Argilla's records.

The task has the question in `data` or `fields`; the answer is the text that the annotator wrote.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Said, text_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject

_ASKED = ("prompt", "question", "instruction", "input", "query", "text")


def _asked(record: JsonObject) -> str:
    shown: JsonObject = next((found for key in ("data", "fields") if isinstance(found := record.get(key), dict)), {})
    return next((text for key in _ASKED if isinstance(text := shown.get(key), str) and text.strip()), "")


def _written(record: JsonObject) -> Iterator[str]:
    """Yield the texts that annotators wrote; of each annotation, its texts are joined."""
    annotations: Any = record.get("annotations") or []
    for annotation in annotations if isinstance(annotations, list) else ():
        values = [
            one.get("value") or {} for one in annotation.get("result") or [] if not annotation.get("was_cancelled")
        ]
        found = [text for value in values for text in _listed(value.get("text"))]
        if found:
            yield "\n\n".join(found)
    responses: Any = record.get("responses")
    for answers in responses.values() if isinstance(responses, dict) else ():
        for answer in answers if isinstance(answers, list) else ():
            if isinstance(answer, dict) and isinstance(answer.get("value"), str):
                yield answer["value"]


def _listed(value: object) -> list[str]:
    return [text_of(text, "a text") for text in (value if isinstance(value, list) else [value]) if text]


def _fits(record: object) -> bool:
    return isinstance(record, dict) and bool(_asked(record)) and any(_written(record))


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    asked, answer = _asked(record), next(_written(record), "")
    if not asked or not answer:
        raise BadRecord("a task with a question, and an annotation with a text")
    yield Chat([Said("user", asked), Said("assistant", answer)])


ANNOTATIONS = Importer("tasks of an annotation tool, with written answers", _fits, each(_convert, "an annotated task"))
