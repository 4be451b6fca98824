"""The settings as a form shows them: each key with what it means, what it takes, and between which bounds.

Nothing is listed here twice: kinds, choices and bounds are those of the configuration's own types,
meanings the comments in config/fine_tuning_config.yaml.
"""

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig

Kind = Literal["switch", "whole", "number", "choice", "text", "lines"]

_SIDES = {"least": "ge", "above": "gt", "most": "le", "below": "lt"}  # pydantic's names of them
_LINE = re.compile(r"(?P<indent> *)(?P<key>[\w\"]+):(?P<value>[^#]*)(?:#\s*(?P<said>.*))?$")
_MORE = re.compile(r" {20,}#\s*(?P<said>.*)$")  # a comment that goes on in the next line


@dataclass(frozen=True)
class Bounds:
    """Which numbers the configuration takes."""

    whole: bool
    least: float | None = None  # this, or more
    above: float | None = None  # more than this
    most: float | None = None  # this, or less
    below: float | None = None  # less than this


@dataclass(frozen=True)
class Field:
    """A setting as a form asks for it."""

    key: str  # dotted, as in the configuration
    kind: Kind
    meaning: str  # "" where the file says nothing of it
    bounds: Bounds | None = None  # of a number
    choices: tuple[str, ...] = ()
    optional: bool = False  # it may be left empty

    @property
    def label(self) -> str:
        """Return the key as words: `Warmup ratio`."""
        return self.key.rpartition(".")[2].replace("_", " ").capitalize()

    @property
    def section(self) -> str:
        return self.key.rpartition(".")[0]


def fields(*sections: str) -> tuple[Field, ...]:
    """Return the settings of some sections, with those inside them, in the configuration's order;
    what no form can ask is left out.
    """
    return tuple(field for section in sections for field in _of_section(section))


@lru_cache(maxsize=32)
def _of_section(section: str) -> tuple[Field, ...]:
    return tuple(_fields_in(_model_of(section), section))


def field(key: str) -> Field:
    """Return one setting. KeyError for a key that is none, or that no form can ask."""
    found = _field(key, _info(key))
    if found is None:
        raise KeyError(key)
    return found


def bounds(key: str) -> Bounds:
    """Return the bounds of a number of the configuration, by its dotted key."""
    return _bounds(_info(key))


def meaning(key: str) -> str:
    """Return the comment on a key in the configuration file; "" if it has none."""
    return _meanings().get(key, "")


def _info(key: str) -> FieldInfo:
    section, _, name = key.rpartition(".")
    return _model_of(section).model_fields[name]


def _model_of(section: str) -> type[BaseModel]:
    model: type[BaseModel] = FineTuningConfig
    for name in section.split("."):
        model = model.model_fields[name].annotation  # type: ignore[assignment]
    return model


def _fields_in(model: type[BaseModel], section: str) -> Iterator[Field]:
    for name, info in model.model_fields.items():
        key = f"{section}.{name}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _fields_in(info.annotation, key)
        elif (found := _field(key, info)) is not None:
            yield found


def _field(key: str, info: FieldInfo) -> Field | None:
    allowed, optional = _without_none(info.annotation)
    said = meaning(key)
    if allowed is bool:
        return Field(key, "switch", said)
    if allowed in (int, float):
        return Field(key, "whole" if allowed is int else "number", said, _bounds(info), optional=optional)
    if choices := _choices(allowed):
        return Field(key, "choice", said, choices=choices, optional=optional)
    if allowed is str:
        return Field(key, "text", said, optional=optional)
    if get_origin(allowed) is tuple and _plain(get_args(allowed)[0]) is str:
        return Field(key, "lines", said)
    return None


def _without_none(annotation: object) -> tuple[object, bool]:
    """Return what a value may be beside None, and whether it may be None."""
    if get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation):
        (other,) = (each for each in get_args(annotation) if each is not type(None))
        return _plain(other), True
    return _plain(annotation), False


def _plain(annotation: object) -> object:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _choices(annotation: object) -> tuple[str, ...]:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return tuple(each.value for each in annotation)
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    if all(get_origin(part) is Literal for part in parts):
        return tuple(choice for part in parts for choice in get_args(part))
    return ()


def _bounds(info: FieldInfo) -> Bounds:
    found: dict[str, Any] = {}
    for rule in info.metadata:
        found |= {side: getattr(rule, name) for side, name in _SIDES.items() if hasattr(rule, name)}
    return Bounds(_without_none(info.annotation)[0] is int, **found)


@lru_cache(maxsize=1)
def _meanings() -> Mapping[str, str]:
    """Return the comments of config/fine_tuning_config.yaml by dotted key."""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []  # the sections around a line, by their indent
    key = ""
    for line in paths.DEFAULT_CONFIG.read_text(encoding="utf-8").splitlines():
        if key and (more := _MORE.match(line)):
            found[key] = f"{found.get(key, '')} {more['said']}".strip()
        elif told := _LINE.match(line):
            indent = len(told["indent"])
            above = [each for each in above if each[0] < indent]
            key = ".".join([*(name for _, name in above), told["key"].strip('"')])
            if told["said"]:
                found[key] = told["said"].strip()
            if not told["value"].strip():
                above.append((indent, told["key"]))
    return found
