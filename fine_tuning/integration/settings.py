"""Give pages and programs access to the settings: values, where each comes from, and which may be changed.

Settings that name a file, a server or a program outside of the data folder cannot be changed by a
request; the page Settings alone changes the address of the engine (`change_engine`).
Changes are written to data/settings.yaml (config/overlay.py), all of them or none.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.config import file as config_file
from fine_tuning.config import overlay as config_overlay
from fine_tuning.config.flat import dotted
from fine_tuning.engines.base import known_tag
from fine_tuning.engines.connect import connect
from fine_tuning.errors import Busy, ConfigError
from fine_tuning.integration.service import Service
from fine_tuning.integration.setting_words import words_of
from fine_tuning.planning import clean_settings
from fine_tuning.profiles import for_documents

# these are whole sections
ALLOWED = frozenset({"data_preparation", "augmentation", "training", "sweep", "evaluation", "gate", "schedule"})
ALSO = frozenset(
    {
        "dataset.path",
        "dataset.format",
        "chat.theme",
        "chat.titles",
        "data_collection.min_conversation_length",
        "data_collection.max_conversation_length",
        "data_collection.learn_own_answers",
        "data_collection.drop_refusals",
        "data_collection.drop_polite_only",
        "data_collection.drop_gibberish",
        "data_collection.scrub_names",
        "data_collection.languages",
        "data_collection.conflicts",
        "data_collection.auto_export",
        "data_collection.export_interval",
        "data_collection.record",
        "mix.shares",
        "mix.repeats",
        "mix.temperature",
        "mix.largest_share",
        "mix.topic_temperature",
        "mix.most_repeats",
        "deployment.auto_deploy",
        "deployment.model_name",
        "deployment.mode",
        "deployment.quantization",
    }
)
REFUSED = {
    "training.output_dir": "it names a folder",
    "evaluation.metrics": "a metric is code",
}
_ENGINE = "deployment.ollama_base_url"
FIXED = "this server was started with settings of its own: change them where it was started, and start it again"


class Setting(BaseModel):
    key: str  # dotted: training.num_epochs
    label: str  # in plain words
    help: str  # what it does, and which value is sensible
    section: str  # what it is about, in plain words
    value: object
    default: object
    source: str | None  # the file that sets it; None for the built-in default or the command line
    changeable: bool  # whether a request may change it


class Settings(BaseModel):
    file: str  # path of the configuration file, which explains every key
    own_file: str  # path of the file with the changes made through the pages and the API
    fixed: bool  # whether the server was started with its own settings, so that nothing can be changed
    items: list[Setting]


def show(service: Service) -> Settings:
    """Return all current settings with their origin, without secrets."""
    file, own = paths.DEFAULT_CONFIG, config_overlay.place()
    sources: dict[str, str] = {}
    if not service.fixed:
        for place, keys in ((file, dict(dotted(config_file.read(file) or {}))), (own, config_overlay.read())):
            sources |= dict.fromkeys(keys, str(place))
    defaults = dict(dotted(FineTuningConfig().model_dump(mode="json")))
    items = [
        Setting(
            key=key,
            **words_of(key)._asdict(),
            value=value,
            default=defaults.get(key),
            source=_source(key, sources),
            changeable=may_change(key),
        )
        for key, value in _without_secrets(dict(dotted(service.config.model_dump(mode="json")))).items()
    ]
    return Settings(file=str(file), own_file=str(own), fixed=service.fixed is not None, items=items)


def change(service: Service, settings: Mapping[str, object]) -> None:
    """Change these settings, given by dotted key; None restores the value of the default file.

    All are changed, or none if one is invalid.

    Raises:
        ConfigError: A value is invalid; the message lists every fault. Also if names are to be replaced
            and no recogniser is installed.
        Busy: The server has fixed settings, or another program is changing them.
    """
    if service.fixed:
        raise Busy(FIXED)
    _write(allowed(service, settings))


def why_engine_is_fixed(service: Service) -> str:
    """Return why the address of Ollama cannot be changed here; "" if it can.

    A page shows the sentence beside the field, and `change_engine` refuses with it.
    """
    if service.fixed:
        return FIXED
    variable = next((f"the variable {name}" for name in ("OLLAMA_HOST", "BYOAI_ENGINE") if os.environ.get(name)), "")
    if decides := "the option --ollama-url" if service.ollama_url else variable:
        return f"{decides} decides where the engine is: start byoai without it to choose the address here"
    return ""


def change_engine(service: Service, url: str) -> None:
    """Save where Ollama answers, and connect to it; "" restores the address in the default file.

    Raises EngineError for an invalid address, or one where no Ollama that is new enough answers, and
    Busy if something else than the settings decides where the engine is. Nothing is changed then.
    """
    if why := why_engine_is_fixed(service):
        raise Busy(why)
    if url:
        connect(url)
    _write({_ENGINE: url.strip() or None})
    service.connect_again()


def _write(changes: Mapping[str, object]) -> None:
    """Store changes in the file of changed settings, if the configuration is valid with them."""
    with paths.locked(config_overlay.place()):
        values = {key: value for key, value in {**config_overlay.read(), **changes}.items() if value is not None}
        clean_settings(load_config(paths.DEFAULT_CONFIG, overrides=config_overlay.as_read(values)))
        config_overlay.write(values)


def fault(error: ConfigError, key: str) -> str:
    """Return the error about the value of `key` without its location, to be shown beside the field."""
    lines = [line.strip() for line in str(error).splitlines()]
    section = key.partition(".")[0]
    own = [line.partition(": ")[2] for line in lines if line.startswith((f"{key}:", f"{key}.", f"{section}:"))]
    return "; ".join(own) or str(error)


def changed(
    service: Service, settings: Mapping[str, object], profile: str | None = None, *, of_log: bool = False
) -> FineTuningConfig:
    """Return the current configuration, changed by a profile and then by `settings`, given by dotted key.

    `of_log`: the training is on the log; if `profile` is not set, the profile for documents is used
    where most of the log was made from documents. Raises ConfigError for a key that a request may
    not change.
    """
    config = service.config
    if profile:
        config = config.with_profile(paths.safe_name(profile))
    elif of_log:
        config = for_documents(config)
    changes = allowed(service, settings)
    return config.changed(changes) if changes else config


def allowed(service: Service, settings: Mapping[str, object]) -> dict[str, object]:
    """Check the settings of a request; return them with the path of a dataset made absolute.

    Relative paths are relative to the data folder. Raises ConfigError for a key or value that a
    request may not set.
    """
    return {key: _allowed(service, key, value) for key, value in settings.items()}


def may_change(key: str) -> bool:
    """Return whether a request may change the setting `key`, whatever the value."""
    section = key.partition(".")[0]
    return key not in REFUSED and key != section and (section in ALLOWED or key in ALSO)


def _allowed(service: Service, key: str, value: object) -> object:
    if not may_change(key):
        why = REFUSED.get(key, "GET /api/settings does not list it as changeable")
        raise ConfigError(
            f"settings.{key[:80]}: a request may not change it, because {why}. Change it in "
            "config/fine_tuning_config.yaml"
        )
    if key == "dataset.path" and value is not None:
        return str(_dataset(str(value)))
    if key == "dataset.format" and value == "custom":
        raise ConfigError(
            "settings.dataset.format: the format custom runs code, which is allowed on the command line only: choose "
            "another format"
        )
    if key == "training.base_model" and value is not None and not _is_of_engine(service, str(value)):
        raise ConfigError(
            f"settings.{key}: the engine has no model {str(value)[:80]!r}: fetch it first (a job of the kind pull)"
        )
    return value


def _dataset(name: str) -> Path:
    """Return the path of a dataset. Raises ConfigError unless it is in a folder of uploads or datasets.

    A request must not make byoai learn from any other file.
    """
    path = paths.within_home(paths.home() / name)
    if not any(
        path.is_relative_to(folder) for folder in (paths.uploads_dir(), paths.datasets_dir(), paths.prepared_dir())
    ):
        raise ConfigError(
            f"settings.dataset.path: {name[:80]!r} is not a dataset: name one that GET /api/datasets lists"
        )
    return path


def _is_of_engine(service: Service, name: str) -> bool:
    """Return whether a request may name this base model: the engine has it, or `name` is a plain model name.

    A plain name, such as `qwen3:0.6b`, may be of a model that is downloaded later. The names of files
    and folders are not allowed.
    """
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(:[A-Za-z0-9._-]+)?", name)
    if plain and not Path(name).exists():
        return True
    return known_tag(name, [model.tag for model in service.engine().list_models()]) is not None


def _without_secrets(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with URLs cut to their host, and a command cut to its program.

    What is cut may contain a password or a secret path.
    """
    shown = dict(values)
    for key in ("deployment.ollama_base_url", "notify.url"):
        if values[key]:
            parts = urlsplit(values[key])
            shown[key] = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    program = values["notify.command"]
    shown["notify.command"] = [*program[:1], *(["…"] if len(program) > 1 else [])]
    return shown


def _source(key: str, sources: dict[str, str]) -> str | None:
    """Return the file that sets `key`, by itself or as a part of a section; None if no file does."""
    whole = [key, *(key.rsplit(".", count)[0] for count in range(1, key.count(".")))]
    return next((sources[each] for each in whole if each in sources), None)
