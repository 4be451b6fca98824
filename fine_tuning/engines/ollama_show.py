"""Parse Ollama's answers about models: the list of models, and the details of one model."""

import ast
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from fine_tuning.engines.base import ModelSpec, ModelSummary
from fine_tuning.engines.modelfile import commands
from fine_tuning.errors import ConfigError, EngineError

# The last commands of the Modelfile that Ollama returns. Their values are read from other fields of the answer.
_UNREAD = ("parameter", "license", "message")
_NO_TEMPLATE = "{{ .Prompt }}"  # shown for a model without a TEMPLATE (template.DefaultTemplate)


class Details(TypedDict, total=False):
    """Ollama's details of a model's weights."""

    family: str
    parameter_size: str
    quantization_level: str


class Listed(TypedDict):
    """A model as /api/tags lists it."""

    name: str
    digest: str
    size: int
    details: NotRequired[Details | None]
    modified_at: NotRequired[str]
    remote_host: NotRequired[str]
    capabilities: NotRequired[list[str] | None]


def summary_of(entry: Listed) -> ModelSummary:
    details = entry.get("details") or Details()
    return ModelSummary(
        tag=entry["name"],
        digest=entry["digest"],
        size=entry["size"],
        family=details.get("family", ""),
        parameter_size=details.get("parameter_size", ""),
        quantization=details.get("quantization_level", ""),
    )


def chats_here(entry: Listed) -> bool:
    return not entry.get("remote_host") and "completion" in (entry.get("capabilities") or ["completion"])


def spec_of(shown: dict[str, Any]) -> ModelSpec:
    """Return the definition of a model from an answer of /api/show.

    Its `from_` is the path of the weights on the server. Raises EngineError if the answer cannot be
    parsed.
    """
    found = _modelfile(shown.get("modelfile", ""), {"template": shown.get("template"), "system": shown.get("system")})
    adapter = found.get("adapter")
    template = found.get("template")
    return ModelSpec(
        from_=Path(found.get("from", "")),
        adapter=Path(adapter) if adapter else None,
        template=None if template == _NO_TEMPLATE else template,
        system=shown.get("system") or None,
        parameters=_parameters(shown.get("parameters", "")),
        renderer=found.get("renderer"),
        parser=found.get("parser"),
        license=shown.get("license") or None,
    )


def _modelfile(text: str, exact: dict[str, str | None]) -> dict[str, str]:
    """Return the first value of each command in the Modelfile that Ollama returns, up to its parameters and licenses.

    `exact` has the values of some commands from other fields of the answer. These commands are
    removed from `text` before it is parsed, since they may contain quotes and even whole commands,
    which a Modelfile cannot escape. Raises EngineError if `text` is invalid.
    """
    found: dict[str, str] = {}
    for name, value in exact.items():
        if value and (command := f"{name.upper()} {_quoted(value)}\n") in text:
            text = text.replace(command, "", 1)
            found[name] = value
    try:
        for _, name, argument in commands(text, before=_UNREAD):
            found.setdefault(name, argument)
    except ConfigError as error:
        raise EngineError(
            f"cannot read what Ollama shows of this model: {error}. Update Ollama, or choose another model"
        ) from error
    return found


def _quoted(text: str) -> str:
    """Return `text` as Ollama writes it in a Modelfile (parser.quote): in quotes only where they are needed."""
    if "\n" not in text and text == text.strip(" "):
        return text
    return f'"""{text}"""' if '"' in text else f'"{text}"'


def _parameters(text: str) -> dict[str, Any]:
    """Return parameters by name from lines of `name value`.

    Values are Go literals. `stop` may be repeated, so its value is a list.
    """
    parameters: dict[str, Any] = {}
    for line in text.splitlines():
        name, _, literal = line.partition(" ")
        value = _literal(literal.strip())
        if name == "stop":
            parameters.setdefault("stop", []).append(value)
        else:
            parameters[name] = value
    return parameters


def _literal(text: str) -> object:
    """Return the value of a Go string, number or bool; the text itself if it is none of them.

    Except for bools, these literals are written as in Python.
    """
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
