"""Settings: what they are, where each comes from, and changes of those that reach nothing outside."""

from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter
from pydantic import BaseModel, Field

from fine_tuning import config_file, config_overlay, paths
from fine_tuning.api import overrides
from fine_tuning.api.dependencies import Asked, Serving
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.config_flat import dotted
from fine_tuning.errors import Busy

router = APIRouter(prefix="/api/settings", tags=["settings"])


class Setting(BaseModel):
    key: str  # dotted: training.num_epochs
    value: Any
    default: Any
    source: str | None  # the file that says so; None: the built-in default, or what the command line said
    changeable: bool  # whether a request may change it


class Settings(BaseModel):
    file: str  # every key, with its meaning
    own_file: str  # what was changed here
    fixed: bool  # the server was started with settings of its own, and nothing can be changed
    items: list[Setting]


class Changes(Asked):
    settings: Annotated[
        dict[Annotated[str, Field(max_length=200)], Any],
        Field(min_length=1, max_length=200, description='by dotted key, {"training.num_epochs": 5}; null: as the file has it'),
    ]


@router.get("")
def show_settings(service: Serving) -> Settings:
    """Show all settings in force."""
    return _settings(service)


@router.put("")
def change_settings(asked: Changes, service: Serving) -> Settings:
    """Change some settings: all of them, or none if one is wrong."""
    if service.fixed:
        raise Busy("this server was started with settings of its own: change them where it was started, and start it again")
    changes = overrides.allowed(service, asked.settings)
    with config_overlay.locked():
        values = {key: value for key, value in {**config_overlay.read(), **changes}.items() if value is not None}
        load_config(paths.DEFAULT_CONFIG, overrides=config_overlay.as_read(values))
        config_overlay.write(values)
    return _settings(service)


def _settings(service: Serving) -> Settings:
    file, own = paths.DEFAULT_CONFIG, config_overlay.place()
    sources: dict[str, str] = {}
    if not service.fixed:
        for place, keys in ((file, dict(dotted(config_file.read(file) or {}))), (own, config_overlay.read())):
            sources |= dict.fromkeys(keys, str(place))
    defaults = dict(dotted(FineTuningConfig().model_dump(mode="json")))
    items = [
        Setting(key=key, value=value, default=defaults[key], source=_source(key, sources), changeable=overrides.may_change(key))
        for key, value in _without_secrets(dict(dotted(service.config.model_dump(mode="json")))).items()
    ]
    return Settings(file=str(file), own_file=str(own), fixed=service.fixed is not None, items=items)


def _without_secrets(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with addresses cut to their host, and a command to its program: the rest may be a password, or a secret path."""
    shown = dict(values)
    for key in ("deployment.ollama_base_url", "notify.url"):
        if values[key]:
            parts = urlsplit(values[key])
            shown[key] = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    program = values["notify.command"]
    shown["notify.command"] = [*program[:1], *(["…"] if len(program) > 1 else [])]
    return shown


def _source(key: str, sources: dict[str, str]) -> str | None:
    """Return the file that says what `key` is, by itself or as a part of a whole section."""
    whole = [key, *(key.rsplit(".", count)[0] for count in range(1, key.count(".")))]
    return next((sources[each] for each in whole if each in sources), None)
