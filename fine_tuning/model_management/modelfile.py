"""Write Modelfiles, Ollama's text format for the definition of a model; engines/modelfile.py parses them."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from fine_tuning.engines.base import ModelDetails, ModelSpec
from fine_tuning.errors import EngineError, ExportError

NATIVE_TEMPLATES = (0, 30)  # version from which on Ollama uses a GGUF's Jinja template if there is no Go template
BARE_TEMPLATE = "{{ .Prompt }}"  # Ollama's template for a model without one (template.DefaultTemplate)


def spec_for(
    details: ModelDetails,
    base_tag: str,
    artifact: Path,
    mode: Literal["adapter", "merged"],
    ollama_version: str | None = None,
) -> ModelSpec:
    """Return the definition of a fine-tuned model for the engine.

    With an adapter the model is defined on the base's tag and inherits everything from it. A merged
    GGUF inherits nothing, so its definition copies what affects prompts and answers: template,
    system text, parameters, renderer, parser and license.

    Args:
        details: The engine's details of the base.
        base_tag: The tag of the base.
        artifact: The GGUF of the adapter or of the merged model.
        mode: Which of the two `artifact` is.
        ollama_version: The version of Ollama; None for another engine. If the base has no template,
            Ollama uses the one in the GGUF. Before 0.30 Ollama would guess one instead, so for
            these versions the definition of a merged model contains Ollama's default template.

    Raises EngineError if the base is itself an adapter on another model, since the training would
    not include that adapter's weights.
    """
    if details.spec.adapter:
        raise EngineError(
            f"{base_tag} is itself an adapter on another model, which a training would ignore: set training.base_model "
            "to the model that it was made from, or to a version that was made with deployment.mode: merged"
        )
    if mode == "adapter":
        return ModelSpec(from_=base_tag, adapter=artifact)
    template = details.spec.template
    if ollama_version and _version(ollama_version) < NATIVE_TEMPLATES:
        template = template or BARE_TEMPLATE
    return replace(details.spec, from_=artifact, template=template)


def modelfile_text(spec: ModelSpec, folder: Path | None = None) -> str:
    """Return `spec` as a Modelfile for `ollama create -f`.

    `folder` is the folder in which the Modelfile will be written; files in this folder get relative
    paths. Raises ExportError for a text that the format cannot represent, since it has no escapes.
    """
    lines = [f"FROM {_quote('FROM', _source(spec.from_, folder))}"]
    if spec.adapter:
        lines.append(f"ADAPTER {_quote('ADAPTER', _source(spec.adapter, folder))}")
    for name in ("template", "system", "renderer", "parser", "license"):
        if (value := getattr(spec, name)) is not None:
            lines.append(f"{name.upper()} {_quote(name.upper(), value)}")
    for name, value in spec.parameters.items():
        lines += [
            f"PARAMETER {name} {_parameter(name, item)}" for item in (value if isinstance(value, list) else [value])
        ]
    text = "\n".join(lines) + "\n"
    if hidden := {character for character in text if not _is_read(character)}:
        points = ", ".join(f"U+{ord(character):04X}" for character in sorted(hidden))
        text = (
            f"# `ollama create` leaves out {points} when it reads this file; byoai registers the texts "
            f"with them.\n{text}"
        )
    return text


def _source(source: str | Path, folder: Path | None) -> str:
    if isinstance(source, str):
        return source
    if folder and source.is_relative_to(folder):
        source = source.relative_to(folder)
    return str(source) if source.is_absolute() else f"./{source.as_posix()}"


def _parameter(name: str, value: object) -> str:
    return _quote(f"PARAMETER {name}", value) if isinstance(value, str) else json.dumps(value)


def _quote(command: str, text: str) -> str:
    """Return `text` as an argument of `command`, in a form that Ollama's parser reads back unchanged.

    A single line without outer white space stays unquoted; other text is put in one or three double
    quotes on each side. Raises ExportError if a line ends in three quotes, which would end the
    text.
    """
    seen = "".join(character for character in text if _is_read(character))
    if (
        seen
        and text == text.strip()
        and seen == seen.strip()
        and not seen.startswith('"')
        and not re.search(r"[\r\n]", seen)
    ):
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
    """Return whether Ollama's parser keeps the character instead of dropping it.

    The parser keeps tabs, line ends and the characters for which Go's strconv.IsPrint is true;
    Python's isprintable is true for the same ones.
    """
    return character.isprintable() or character in "\t\r\n"


def _version(text: str) -> tuple[int, ...]:
    """Return the numbers of a version of Ollama, such as (0, 32, 15) for "0.32.15-rc1".

    A development build reports 0.0.0; it counts as new enough for NATIVE_TEMPLATES.
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", text)[:3])
    return numbers if any(numbers) else NATIVE_TEMPLATES
