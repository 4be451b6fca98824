"""Read and write data/settings.yaml: the settings that were changed through the API and the pages.

They override config/fine_tuning_config.yaml. byoai never changes that file itself: it belongs to
the repository, its comments explain every key, and an update replaces it. data/settings.yaml
contains one line per changed key (`training.num_epochs: 5`), and users may edit or delete it. It is
not used with another configuration file (`--config`).
"""

from collections.abc import Mapping
from pathlib import Path

import yaml

from fine_tuning import paths
from fine_tuning.config import file as config_file
from fine_tuning.errors import ConfigError

_HEAD = (
    "# Changed through the API or the pages; byoai writes this file anew. A key that is left out stands "
    "as in config/.\n"
)


def place() -> Path:
    return paths.home() / "settings.yaml"


def read() -> dict[str, object]:
    """Return the settings in the file by dotted key; {} if there is no file. Raises ConfigError if it is malformed."""
    file = place()
    if not file.exists():
        return {}
    try:
        return _mapping(config_file.read(file))
    except OSError as error:
        raise ConfigError(
            f"cannot read {file}: {error.strerror or error}. Make it readable, or delete it to return to the default "
            "settings"
        ) from error


def as_read(values: Mapping[str, object]) -> dict[str, object]:
    """Return what `read` would return after `write(values)`: the same values, numbers and bools as texts."""
    return _mapping(config_file.parse(_text(values), str(place())))


def write(values: Mapping[str, object]) -> None:
    """Replace all changed settings by these values. Raises OSError if the file cannot be written."""
    paths.atomic_write(place(), _text(values))


def _mapping(value: object) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(
            f"{place()} must hold lines of the form 'key: value' (training.num_epochs: 5): repair it, or delete it"
        )
    return value


def _text(values: Mapping[str, object]) -> str:
    return _HEAD + (yaml.safe_dump(dict(values), default_flow_style=None, width=10_000) if values else "")
