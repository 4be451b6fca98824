"""Define the base class of configuration sections, and the types of their values with their checks."""

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fine_tuning.errors import ConfigError

_PREFIX = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,39}", re.ASCII | re.IGNORECASE)


# ISO 639-1 codes of the languages that py3langid can identify
_CODES = (
    "af am an ar as az ba be bg bn br bs ca cs cy da de dz el en eo es et eu fa fi fo fr fy ga gd gl gu ha he hi "
    "hr ht hu hy id ig is it ja jv ka kk km kn ko ku ky la lb lg ln lo lt lv mg mk ml mn mr ms mt my ne nl nn no "
    "oc om or pa pl ps pt qu ro ru rw sa se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz vi "
    "vo wa xh yo zh zu "
)
LANGUAGES = frozenset(_CODES.split())


class Section(BaseModel):
    """A section of the configuration. Unknown keys are errors; values cannot be changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_means_the_default(cls, values: object) -> object:
        """Drop keys without a value, such as a section or a list whose lines are all commented out."""
        if not isinstance(values, dict):
            return values
        known = cls.model_fields
        return {
            key: value
            for key, value in values.items()
            if value is not None or key not in known or known[key].default is None
        }


def _unicode(text: str) -> str:
    """Return `text` with each surrogate pair, as in JSON escapes, replaced by the character that it encodes.

    Raises ValueError for an unpaired surrogate, which cannot be written to a file.
    """
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"is not valid text, because it contains an incomplete character ({error.reason}): type it again as UTF-8"
        ) from None


def _visible(text: str) -> str:
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text):
        raise ValueError("contains a control character or a line break: remove it")
    return text


def _base_name(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: name a model of the engine, a folder, or a Hugging Face id")
    return text


def _language(value: object) -> str:
    code = "no" if value is False else value  # YAML reads "no", the code of Norwegian, as false
    if not isinstance(code, str) or code.casefold() not in LANGUAGES:
        raise ValueError(f"{value!r} is not a language that can be detected: use two-letter codes such as en, de or pt")
    return code.casefold()


def _own_word(text: str) -> str:
    if not any(character.isalnum() for character in text):
        raise ValueError("contains no letter or digit, so that no search could find it: write a word")
    return text.strip()


def _own_name(text: str) -> str:
    if text and not re.search(r"[a-z0-9]", text, re.ASCII | re.IGNORECASE):
        raise ValueError(
            "needs at least one letter a-z or a digit: the engine accepts no others, so write the name with those"
        )
    return text


def _own_prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text) or ".." in text:
        raise ValueError(
            "must be 1 to 40 of the characters a-z, 0-9, '_', '-' and '.', and begin with a letter, a digit or '_': "
            "byoai recognises the models that it made by this prefix"
        )
    return text


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the range of NumPy's seeds
Text = Annotated[str, AfterValidator(_unicode)]
Name = Annotated[str, AfterValidator(_unicode), AfterValidator(_visible)]
OwnWord = Annotated[Name, Field(max_length=200), AfterValidator(_own_word)]
Language = Annotated[str, BeforeValidator(_language)]
BaseName = Annotated[Name, AfterValidator(_base_name)]
OwnName = Annotated[Name, AfterValidator(_own_name)]
OwnPrefix = Annotated[Name, AfterValidator(_own_prefix)]


def lies_in_home(path_of: Callable[[str], Path]) -> AfterValidator:
    """Return a validator that reports the ConfigError that `path_of` raises for a name.

    `path_of` returns the path of a name, and raises ConfigError if the path is outside the data
    folder. The validator makes this a fault of the setting, reported together with all other
    faults.
    """

    def check(name: str) -> str:
        try:
            path_of(name)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return name

    return AfterValidator(check)


def one_of(*choices: str) -> BeforeValidator:
    """Return a validator that allows only `choices`, the values of some members of an enum."""

    def check(value: object) -> object:
        if value not in choices:
            raise ValueError(f"Input should be {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}")
        return value

    return BeforeValidator(check)
