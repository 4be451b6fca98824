"""Describe the settings as fields of a form: the key, its label and help, its kind, and its bounds.

Kinds, choices and bounds come from the types of the configuration, labels and help from
setting_words.py, so nothing is written twice.
"""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fine_tuning.config import FineTuningConfig
from fine_tuning.integration.setting_words import words_of

Kind = Literal["switch", "whole", "number", "choice", "text", "lines"]

_SIDES = {"least": "ge", "above": "gt", "most": "le", "below": "lt"}  # pydantic's names


@dataclass(frozen=True)
class Bounds:
    """The bounds of a number in the configuration."""

    whole: bool
    least: float | None = None  # this, or more
    above: float | None = None  # more than this
    most: float | None = None  # this, or less
    below: float | None = None  # less than this


@dataclass(frozen=True)
class Field:
    """A setting as a field of a form."""

    key: str  # dotted, as in the configuration
    kind: Kind
    bounds: Bounds | None = None  # only for a number
    choices: tuple[str, ...] = ()
    optional: bool = False  # whether it may be left empty

    @property
    def label(self) -> str:
        return words_of(self.key).label

    @property
    def help(self) -> str:
        return words_of(self.key).help

    @property
    def section(self) -> str:
        """The heading under which the setting is shown with others."""
        return words_of(self.key).section


def fields(*sections: str) -> tuple[Field, ...]:
    """Return the settings of these sections and their subsections, in the configuration's order.

    Settings with a type that no field can show are left out.
    """
    return tuple(field for section in sections for field in _of_section(section))


@lru_cache(maxsize=32)
def _of_section(section: str) -> tuple[Field, ...]:
    return tuple(_fields_in(_model_of(section), section))


def field(key: str) -> Field:
    """Return the field of a setting. Raises KeyError for an unknown key, or a type that no field can show."""
    found = _field(key, _info(key))
    if found is None:
        raise KeyError(key)
    return found


def bounds(key: str) -> Bounds:
    """Return the bounds of a number in the configuration, by its dotted key."""
    return _bounds(_info(key))


def choices(key: str) -> tuple[str, ...]:
    """Return the allowed values of a setting with a fixed choice, by its dotted key; () for any other setting."""
    return _choices(_without_none(_info(key).annotation)[0])


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
    if allowed is bool:
        return Field(key, "switch")
    if allowed in (int, float):
        return Field(key, "whole" if allowed is int else "number", _bounds(info), optional=optional)
    if chosen := _choices(allowed):
        return Field(key, "choice", choices=chosen, optional=optional)
    if allowed is str:
        return Field(key, "text", optional=optional)
    if get_origin(allowed) is tuple and _plain(get_args(allowed)[0]) is str:
        return Field(key, "lines")
    return None


def _without_none(annotation: object) -> tuple[object, bool]:
    """Return a type without None, and whether None was part of it."""
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
