"""Read instructions with instances of them: Self-Instruct's seeds, Unnatural and Natural Instructions.

A record is {"instruction": "…", "instances": [{"input": "…", "output": "…"}]}. Each instance is asked with
the instruction before it.
"""

from collections.abc import Iterable

from fine_tuning.data_collection.importers.chats import Chat, Said, dicts, first, has, one_of, text_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject, JsonValue

_INSTRUCTIONS, _INSTANCES = ("instruction", "definition", "Definition"), ("instances", "Instances")
_NO_INPUT = ("<noinput>", "None", "none")


def _fits(record: object) -> bool:
    return (
        isinstance(record, dict)
        and any(record.get(key) for key in _INSTRUCTIONS)
        and has(first(record, *_INSTANCES), "input", "output")
    )


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    instruction = _text(one_of(record, *_INSTRUCTIONS), "an instruction")
    for instance in dicts(one_of(record, *_INSTANCES), "instances"):
        more = _text(instance["input"], "an input")
        asked = instruction if more in _NO_INPUT or not more.strip() else f"{instruction}\n\n{more}"
        yield Chat([Said("user", asked), Said("assistant", _text(instance["output"], "an output"))])


def _text(value: JsonValue, what: str) -> str:
    """Return a text. Of a list of texts, which are equally good, return the first."""
    return text_of(value[0] if isinstance(value, list) and value else value or None, what)


INSTANCES = Importer("instructions with instances", _fits, each(_convert, "an instruction with instances"))
