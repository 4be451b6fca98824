"""Modelfiles: what a version's tag is made of, as text (https://docs.ollama.com/modelfile; parser/parser.go in Ollama's source).

A model made from a bare GGUF inherits nothing from the base that it was trained from, so `spec_for` copies all that shapes its text.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fine_tuning.engines.base import ModelDetails, ModelSpec
from fine_tuning.errors import ConfigError, EngineError, ExportError

NATIVE_TEMPLATES = (0, 30)  # the Ollama version from which a model may do without a Go template: the GGUF's Jinja is used
BARE_TEMPLATE = "{{ .Prompt }}"  # what Ollama uses for a model without a template (template.DefaultTemplate)


def spec_for(
    details: ModelDetails, base_tag: str, artifact: Path, mode: Literal["adapter", "merged"], ollama_version: str | None = None
) -> ModelSpec:
    """What the fine-tune of the base `details` is made of, `artifact` being the adapter's or the merged model's GGUF.

    An adapter on the base's tag inherits everything. A merged GGUF gets the base's template, system text, parameters, renderer, parser
    and license. A base without a template of its own goes without: Ollama then reads the GGUF's, as it did for the base. Ollama older
    than 0.30 (say its version if Ollama it is) would instead guess one from the GGUF that the base never had: it is told the bare one.

    EngineError if the base is itself an adapter on another model, whose weights the training does not see.
    """
    if details.spec.adapter:
        raise EngineError(
            f"{base_tag} is itself an adapter on another model, and a new one would be trained without it: "
            "set training.base_model to the model that it was made from, or fine-tune with deployment.mode: merged and build on that"
        )
    if mode == "adapter":
        return ModelSpec(from_=base_tag, adapter=artifact)
    template = details.spec.template
    if ollama_version and _version(ollama_version) < NATIVE_TEMPLATES:
        template = template or BARE_TEMPLATE
    return replace(details.spec, from_=artifact, template=template)


def modelfile_text(spec: ModelSpec, folder: Path | None = None) -> str:
    """`spec` as a Modelfile that `ollama create -f` reads. Files in `folder`, where it will lie, are named relative to it.

    ExportError if a text cannot be written in one (the format has no escapes).
    """
    lines = [f"FROM {_quote('FROM', _source(spec.from_, folder))}"]
    if spec.adapter:
        lines.append(f"ADAPTER {_quote('ADAPTER', _source(spec.adapter, folder))}")
    for name in ("template", "system", "renderer", "parser", "license"):
        if (value := getattr(spec, name)) is not None:
            lines.append(f"{name.upper()} {_quote(name.upper(), value)}")
    for name, value in spec.parameters.items():
        lines += [f"PARAMETER {name} {_parameter(name, item)}" for item in (value if isinstance(value, list) else [value])]
    text = "\n".join(lines) + "\n"
    if hidden := {character for character in text if not _is_read(character)}:
        points = ", ".join(f"U+{ord(character):04X}" for character in sorted(hidden))
        text = f"# `ollama create` leaves out {points} when it reads this file; byoai registers the texts with them.\n{text}"
    return text


def parse_modelfile(text: str, folder: Path | None = None) -> ModelSpec:
    """The spec that a Modelfile in `folder` says. ConfigError names the line of what is wrong or cannot be kept in a spec."""
    values: dict[str, Any] = {"parameters": {}}
    for line, name, argument in _commands(text):
        match name.split():
            case ["from" | "adapter" as key] if key not in values:
                values[key] = _target(argument, folder) if key == "from" else _path(argument, folder)
            case ["template" | "system" | "renderer" | "parser" as key]:
                values[key] = argument
            case ["license"]:
                values["license"] = "\n".join([*filter(None, [values.get("license")]), argument])
            case ["parameter", "stop"]:
                values["parameters"].setdefault("stop", []).append(argument)
            case ["parameter", key]:
                values["parameters"][key] = _literal(argument)
            case _:
                raise ConfigError(f"Modelfile, line {line}: a second {name.upper()}, or one that byoai does not know")
    if "from" not in values:
        raise ConfigError("Modelfile: no FROM line: it must name a model or the path of a GGUF")
    return ModelSpec(from_=values.pop("from"), **values)


# Writing


def _source(source: str | Path, folder: Path | None) -> str:
    if isinstance(source, str):
        return source
    if folder and source.is_relative_to(folder):
        source = source.relative_to(folder)
    return str(source) if source.is_absolute() else f"./{source.as_posix()}"


def _parameter(name: str, value: Any) -> str:
    return _quote(f"PARAMETER {name}", value) if isinstance(value, str) else json.dumps(value)


def _quote(command: str, text: str) -> str:
    """`text` as Ollama's parser reads it back: bare on one line, else in quotes, which end where a line ends in quotes."""
    seen = "".join(character for character in text if _is_read(character))
    if seen and text == text.strip() and seen == seen.strip() and not seen.startswith('"') and not re.search(r"[\r\n]", seen):
        return text
    if '"' not in text:
        return f'"{text}"'
    if re.search(r'"""\s*[\r\n]', seen):
        raise ExportError(
            f'the {command} of the base has a line that ends in """, which a Modelfile cannot hold: '
            "use deployment.mode: adapter, which inherits it, or change it in the base"
        )
    return f'"""{text}"""'


def _is_read(character: str) -> bool:
    """Whether Ollama's parser keeps it (strconv.IsPrint, which is as Python's, and white space)."""
    return character.isprintable() or character in "\t\r\n"


def _version(text: str) -> tuple[int, ...]:
    """(0, 32, 15) of "0.32.15-rc1". A build without a version calls itself 0.0.0, and is taken for a new one."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", text)[:3])
    return numbers if any(numbers) else NATIVE_TEMPLATES


# Reading

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\r\n]*)*")
_COMMAND = re.compile(r"(parameter[ \t]+\w+|[a-z]+)[ \t]", re.IGNORECASE | re.ASCII)
_END = r"[ \t]*(?=[\r\n]|\Z)"
_VALUE = re.compile(rf'[ \t]*+(?:"""(.*?)"""{_END}|"(?!"")(.*?)"{_END}|(?!")([^\r\n]*))', re.DOTALL)


def _commands(text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, command in lower case (`parameter stop`), and argument of each command."""
    position = _skip(text, 0)
    while position < len(text):
        line = len(re.findall(r"\r\n|\r|\n", text[:position])) + 1
        command = _COMMAND.match(text, position)
        if command is None:
            raise ConfigError(f"Modelfile, line {line}: expected a command such as FROM or PARAMETER, and what it sets")
        value = _VALUE.match(text, command.end())
        if value is None:
            raise ConfigError(f"Modelfile, line {line}: the quotes that begin here are never closed at the end of a line")
        argument = next(group for group in value.groups() if group is not None)
        name = command[1].lower() if not command[1].lower().startswith("parameter") else f"parameter {command[1].split()[1]}"
        yield line, name, argument.strip() if value[3] is not None else argument
        position = _skip(text, value.end())


def _skip(text: str, position: int) -> int:
    blank = _BLANK.match(text, position)
    return blank.end() if blank else position


def _target(argument: str, folder: Path | None) -> str | Path:
    """A path if it looks like one, else a tag."""
    is_path = argument.startswith((".", "~")) or Path(argument).is_absolute() or argument.endswith(".gguf")
    return _path(argument, folder) if is_path else argument


def _path(argument: str, folder: Path | None) -> Path:
    path = Path(argument).expanduser()
    return folder / path if folder else path


def _literal(text: str) -> Any:
    """A number or a truth value; else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
