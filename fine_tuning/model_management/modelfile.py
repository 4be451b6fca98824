"""Write Modelfiles, the text form of a tag's definition; engines/modelfile.py parses them.

A model created from a bare GGUF inherits nothing from its base, so `spec_for` copies everything
that affects prompts and answers.
"""

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
    """Return the definition of a fine-tuned model.

    `details`: the base; `artifact`: the GGUF of the adapter or of the merged model.

    An adapter on the base's tag inherits everything. A merged GGUF gets the base's template, system
    text, parameters, renderer, parser and license. If the base has no template, none is written, so
    that Ollama uses the GGUF's, as for the base. Ollama before 0.30 would instead guess a template,
    so it gets the bare one; pass `ollama_version` for this.

    Raises EngineError if the base is itself an adapter on another model, since training would not
    include that adapter's weights.
    """
    if details.spec.adapter:
        raise EngineError(
            f"{base_tag} is itself an adapter on another model, and a training would ignore this adapter: set "
            "training.base_model to the model that it was made from, or to a version that was made with "
            "deployment.mode: merged"
        )
    if mode == "adapter":
        return ModelSpec(from_=base_tag, adapter=artifact)
    template = details.spec.template
    if ollama_version and _version(ollama_version) < NATIVE_TEMPLATES:
        template = template or BARE_TEMPLATE
    return replace(details.spec, from_=artifact, template=template)


def modelfile_text(spec: ModelSpec, folder: Path | None = None) -> str:
    """Return `spec` as a Modelfile for `ollama create -f`.

    `folder`: where the Modelfile will be written; files in it get relative paths. Raises
    ExportError for a text that the format, which has no escapes, cannot represent.
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
    """Return `text` in a form that Ollama's parser reads back: bare if it is one line, else quoted.

    Raises ExportError for a line that ends in three quotes, which would end the text.
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
    """Return whether Ollama's parser keeps the character.

    It keeps white space and the characters of Go's strconv.IsPrint, which matches Python's isprintable.
    """
    return character.isprintable() or character in "\t\r\n"


def _version(text: str) -> tuple[int, ...]:
    """Return the numbers of a version, such as (0, 32, 15) for "0.32.15-rc1".

    A build without a version reports 0.0.0 and counts as new.
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", text)[:3])
    return numbers if any(numbers) else NATIVE_TEMPLATES
