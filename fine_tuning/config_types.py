"""What a section of the configuration is, and what a value in it may be: texts, names, numbers, and places in the data folder."""

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fine_tuning.errors import ConfigError

_PREFIX = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,39}", re.ASCII | re.IGNORECASE)


class Section(BaseModel):
    """A section of the configuration: unknown keys are faults, and nothing is changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_means_the_default(cls, values: Any) -> Any:
        """Leave out what has a key and no value, as a section or a list in which every line is commented out."""
        if not isinstance(values, dict):
            return values
        known = cls.model_fields
        return {key: value for key, value in values.items() if value is not None or key not in known or known[key].default is None}


def _unicode(text: str) -> str:
    """Return `text` with surrogate pairs joined (JSON escapes write them so). ValueError for a single one, which no file can hold."""
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise ValueError(f"is no text: half of a surrogate pair ({error.reason})") from None


def _visible(text: str) -> str:
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text):
        raise ValueError("holds a control character, or a line's end")
    return text


def _base_name(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: name a model of the engine, a folder, or a Hugging Face id")
    return text


def _own_name(text: str) -> str:
    if text and not re.search(r"[a-z0-9]", text, re.ASCII | re.IGNORECASE):
        raise ValueError("needs at least one letter of a-z, or a digit: the engine takes no others, and all else becomes '-'")
    return text


def _own_prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text) or ".." in text:
        raise ValueError(
            "must be 1 to 40 letters (a-z), digits, '_', '-' and '.', a letter, digit or '_' first: "
            "by it byoai tells the models that it made from all others"
        )
    return text


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # as NumPy takes one
Text = Annotated[str, AfterValidator(_unicode)]
Name = Annotated[str, AfterValidator(_unicode), AfterValidator(_visible)]
BaseName = Annotated[Name, AfterValidator(_base_name)]
OwnName = Annotated[Name, AfterValidator(_own_name)]
OwnPrefix = Annotated[Name, AfterValidator(_own_prefix)]


def lies_in_home(path_of: Callable[[str], Path]) -> AfterValidator:
    """Checks where a name leads together with all else that is checked of a configuration."""

    def check(name: str) -> str:
        try:
            path_of(name)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return name

    return AfterValidator(check)


def one_of(*choices: str) -> BeforeValidator:
    """Checks that a text is one of those that make sense here, of more that there are."""

    def check(value: Any) -> Any:
        if value not in choices:
            raise ValueError(f"Input should be {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}")
        return value

    return BeforeValidator(check)
