"""Which settings a request may change: nothing that names a file, a server or a program outside of the data folder."""

from collections.abc import Mapping
from typing import Any

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig
from fine_tuning.errors import ConfigError

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


def changed(config: FineTuningConfig, settings: Mapping[str, Any], profile: str | None = None) -> FineTuningConfig:
    """Return the configuration with a profile and other values, by dotted keys. ConfigError for one that a request may not change."""
    if profile:
        config = config.with_profile(paths.safe_name(profile))
    changes = {key: allowed(key, value) for key, value in settings.items()}
    return config.changed(changes) if changes else config


def may_change(key: str) -> bool:
    """Return whether a request may change this key at all."""
    section = key.partition(".")[0]
    return key not in REFUSED and key != section and (section in ALLOWED or key in ALSO)


def allowed(key: str, value: Any) -> Any:
    """Return the value as the configuration takes it; a relative path begins at the data folder. ConfigError if it is not allowed."""
    if not may_change(key):
        why = REFUSED.get(key, "it reaches beyond this work, or takes in a whole section")
        raise ConfigError(f"settings.{key[:80]}: a request may not change it, as {why}: change it in config/fine_tuning_config.yaml")
    if key == "dataset.path" and value is not None:
        return str(paths.within_home(paths.home() / str(value)))
    if key == "dataset.format" and value == "custom":
        raise ConfigError("settings.dataset.format: custom runs code, and only the command line may do so")
    if key == "training.base_model" and isinstance(value, str) and (value.startswith(("/", "~", ".")) or "\\" in value or ":/" in value):
        raise ConfigError("settings.training.base_model: name a model of the engine, and no file")
    return value
