"""Which settings a request may change: nothing that names a file, a server or a program outside of the data folder."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig
from fine_tuning.engines.base import known_tag
from fine_tuning.errors import ConfigError
from fine_tuning.integration.service import Service

ALLOWED = frozenset({"data_preparation", "training", "sweep", "evaluation", "gate", "schedule"})  # whole sections
ALSO = frozenset(
    {
        "dataset.path",
        "dataset.format",
        "data_collection.min_conversation_length",
        "data_collection.max_conversation_length",
        "data_collection.learn_own_answers",
        "data_collection.auto_export",
        "data_collection.export_interval",
        "data_collection.record",
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


def changed(service: Service, settings: Mapping[str, Any], profile: str | None = None) -> FineTuningConfig:
    """Return the configuration with a profile and other values, by dotted keys. ConfigError for one that a request may not change."""
    config = service.config
    if profile:
        config = config.with_profile(paths.safe_name(profile))
    changes = allowed(service, settings)
    return config.changed(changes) if changes else config


def allowed(service: Service, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as the configuration takes them; a relative path begins at the data folder. ConfigError for one not allowed."""
    return {key: _allowed(service, key, value) for key, value in settings.items()}


def may_change(key: str) -> bool:
    """Return whether a request may change this key at all."""
    section = key.partition(".")[0]
    return key not in REFUSED and key != section and (section in ALLOWED or key in ALSO)


def _allowed(service: Service, key: str, value: Any) -> Any:
    if not may_change(key):
        why = REFUSED.get(key, "it reaches beyond this work, or takes in a whole section")
        raise ConfigError(f"settings.{key[:80]}: a request may not change it, as {why}: change it in config/fine_tuning_config.yaml")
    if key == "dataset.path" and value is not None:
        return str(_dataset(str(value)))
    if key == "dataset.format" and value == "custom":
        raise ConfigError("settings.dataset.format: custom runs code, and only the command line may do so")
    if key == "training.base_model" and value is not None and not _is_of_engine(service, str(value)):
        raise ConfigError(f"settings.{key}: the engine has no model {str(value)[:80]!r}: fetch it first (a job of the kind pull)")
    return value


def _dataset(name: str) -> Path:
    """Return the file of a dataset. ConfigError if it is none that was uploaded or made: byoai's own files are no dataset."""
    path = paths.within_home(paths.home() / name)
    if not any(path.is_relative_to(folder) for folder in (paths.uploads_dir(), paths.datasets_dir(), paths.prepared_dir())):
        raise ConfigError(f"settings.dataset.path: {name[:80]!r} is no dataset: name one that GET /api/datasets lists")
    return path


def _is_of_engine(service: Service, name: str) -> bool:
    """Return whether a base is a model of the engine, and no folder and nothing of the network; a plain name may be fetched later."""
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(:[A-Za-z0-9._-]+)?", name)
    if plain and not Path(name).exists():
        return True
    return known_tag(name, [model.tag for model in service.engine().list_models()]) is not None
