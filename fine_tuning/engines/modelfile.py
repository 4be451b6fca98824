"""Parse Modelfiles, both users' own and those that Ollama returns for its models.

Source: https://docs.ollama.com/modelfile, and parser/parser.go in Ollama's repository.
"""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from fine_tuning.engines.base import ModelSpec
from fine_tuning.errors import ConfigError
from fine_tuning.json_values import parse_json

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\r\n]*)*")
_COMMAND = re.compile(r"(parameter[ \t]+\w+|[a-z]+)[ \t]", re.IGNORECASE | re.ASCII)
_END = r"[ \t]*(?=[\r\n]|\Z)"
_VALUE = re.compile(rf'[ \t]*+(?:"""(.*?)"""{_END}|"(?!"")(.*?)"{_END}|(?!")([^\r\n]*))', re.DOTALL)


def parse_modelfile(text: str, folder: Path | None = None) -> ModelSpec:
    """Return the definition of a model from the text of a Modelfile.

    Relative paths in it are relative to `folder`; None: to the working directory. Raises
    ConfigError, with the line number, for invalid or unsupported commands.
    """
    values: dict[str, Any] = {"parameters": {}}
    for line, name, argument in commands(text):
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
                raise ConfigError(
                    f"Modelfile, line {line}: {name.upper()} is given a second time, or is unknown to byoai: remove "
                    "the line"
                )
    if "from" not in values:
        raise ConfigError("Modelfile: there is no FROM line. Add one that names a model or the path of a GGUF")
    return ModelSpec(from_=values.pop("from"), **values)


def commands(text: str, before: Collection[str] = ()) -> Iterator[tuple[int, str, str]]:
    """Yield each command of a Modelfile: its line number, its name, and its argument without quotes.

    The name is in lower case and includes the parameter: `parameter stop`. Parsing ends at the
    first command whose first word is in `before`. Raises ConfigError at the first line that is not
    a command, or whose quotes are not closed.
    """
    position = _skip(text, 0)
    while position < len(text):
        line = len(re.findall(r"\r\n|\r|\n", text[:position])) + 1
        command = _COMMAND.match(text, position)
        if command is None:
            raise ConfigError(f"Modelfile, line {line}: expected a command and its value, such as FROM NAME")
        word, *parameter = command[1].split()
        if word.lower() in before:
            return
        value = _VALUE.match(text, command.end())
        if value is None:
            raise ConfigError(
                f"Modelfile, line {line}: the quotes that begin here are never closed at the end of a line: add the "
                "closing quotes"
            )
        argument = next(group for group in value.groups() if group is not None)
        yield line, " ".join([word.lower(), *parameter]), argument.strip() if value[3] is not None else argument
        position = _skip(text, value.end())


def _skip(text: str, position: int) -> int:
    blank = _BLANK.match(text, position)
    return blank.end() if blank else position


def _target(argument: str, folder: Path | None) -> str | Path:
    """Return the argument of FROM: a path in `folder` if it looks like a path, else a tag."""
    is_path = argument.startswith((".", "~")) or Path(argument).is_absolute() or argument.endswith(".gguf")
    return _path(argument, folder) if is_path else argument


def _path(argument: str, folder: Path | None) -> Path:
    path = Path(argument).expanduser()
    return folder / path if folder else path


def _literal(text: str) -> object:
    """Return the number or boolean that `text` represents, else the text itself."""
    try:
        return parse_json(text)
    except ValueError:
        return text
