"""Define the settings of a chat: its system prompt, and the options for sampling the answers.

The settings are logged with each turn, and can be saved as presets in data/presets.json:
{"presets": {name: settings}}.
"""

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fine_tuning import paths
from fine_tuning.branches import system_of
from fine_tuning.conversation import Text, Turn
from fine_tuning.engines.base import ChatOptions
from fine_tuning.errors import ByoaiError, DataError

SYSTEM_LIMIT = 20_000  # characters of a system prompt
_NAME_LIMIT = 60
_MOST = 100  # presets


class ChatSettings(BaseModel):
    """The settings that the user chose for a chat. None means the model's own setting."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    system: Annotated[Text, Field(max_length=SYSTEM_LIMIT)] = ""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=131_072)] | None = None
    context: Annotated[int, Field(ge=256, le=1_048_576)] | None = None  # tokens
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None

    def options(self, limit: int | None = None) -> ChatOptions:
        """Return the options for the engine.

        `limit` is the maximum number of tokens of an answer if neither these settings nor the model limit it.
        """
        return ChatOptions(**self.chosen(), default_max_tokens=limit)

    def chosen(self) -> dict[str, Any]:
        """Return the values that are set, without the system prompt."""
        return self.model_dump(exclude={"system"}, exclude_none=True)

    def facts(self) -> dict[str, Any]:
        """Return the metadata that a turn gets from these settings."""
        told = {"system": self.system if self.system.strip() else "", "options": self.chosen()}
        return {name: fact for name, fact in told.items() if fact}


def settings_of(turn: Turn) -> ChatSettings:
    """Return the settings with which a turn was answered. Invalid values in its metadata are ignored."""
    told = turn.metadata.get("options")
    found = {"system": system_of(turn), **(told if isinstance(told, dict) else {})}
    kept = {name: value for name, value in found.items() if name in ChatSettings.model_fields and _can_be(name, value)}
    return ChatSettings(**kept)


def _can_be(name: str, value: object) -> bool:
    try:
        ChatSettings.model_validate({name: value})
    except ValidationError:
        return False
    return True


def presets() -> dict[str, ChatSettings]:
    """Return the saved presets by name, sorted. Raises ByoaiError if their file cannot be read."""
    return dict(sorted(_read().items(), key=lambda preset: preset[0].casefold()))


def save_preset(name: str, settings: ChatSettings) -> str:
    """Save settings as the preset `name`, replacing an earlier preset of this name; return the name as saved.

    Raises DataError for an invalid name or too many presets, and Busy if another process keeps the
    presets locked.
    """
    name = _checked(name)

    def add(known: dict[str, ChatSettings]) -> None:
        if name not in known and len(known) >= _MOST:
            raise DataError(f"there are {_MOST} presets already: delete one first")
        known[name] = settings

    _change(add)
    return name


def delete_preset(name: str) -> None:
    """Delete a preset, if it exists."""
    _change(lambda known: known.pop(name, None))


def _checked(name: str) -> str:
    name = unicodedata.normalize("NFC", name).strip()
    if not name or len(name) > _NAME_LIMIT:
        raise DataError(f"a preset's name must have 1 to {_NAME_LIMIT} characters: choose another name")
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in name):
        raise DataError("a preset's name must be one line of visible characters: choose another name")
    return name


def _file() -> Path:
    return paths.home() / "presets.json"


def _read() -> dict[str, ChatSettings]:
    if not _file().exists():
        return {}
    told = paths.read_json(_file())
    try:
        return {str(name): ChatSettings.model_validate(settings) for name, settings in told["presets"].items()}
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise ByoaiError(f"{_file()} does not hold presets: repair or delete it") from error


def _change(change: Callable[[dict[str, ChatSettings]], object]) -> None:
    with paths.locked(_file()):
        known = _read()
        change(known)
        paths.write_json(
            _file(), {"presets": {name: settings.model_dump(exclude_none=True) for name, settings in known.items()}}
        )
