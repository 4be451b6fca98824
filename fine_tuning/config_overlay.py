"""data/settings.yaml: what was changed through the API and the pages, laid over config/fine_tuning_config.yaml.

No program writes into that file: it belongs to the repository, its comments explain every key, and
an update replaces it. This one holds a line for each changed key, dotted (`training.num_epochs:
5`), and may be edited or deleted. A file that is named instead of the default one (`--config`)
stands for itself: nothing is laid over it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import filelock
import yaml

from fine_tuning import config_file, paths
from fine_tuning.errors import Busy, ConfigError

_PATIENCE = 10.0  # seconds
_HEAD = (
    "# Changed through the API or the pages; byoai writes this file anew. A key that is left out stands "
    "as in config/.\n"
)


def place() -> Path:
    return paths.home() / "settings.yaml"


def read() -> dict[str, object]:
    """Return the changed values by dotted key; none without the file. ConfigError if it holds anything else."""
    file = place()
    if not file.exists():
        return {}
    try:
        return _mapping(config_file.read(file))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror or error}") from error


def as_read(values: Mapping[str, object]) -> dict[str, object]:
    """Return what `read` would return after `write`."""
    return _mapping(config_file.parse(_text(values), str(place())))


def write(values: Mapping[str, object]) -> None:
    """Put these values in place of all that were changed before. OSError as the disk raises it."""
    paths.atomic_write(place(), _text(values))


@contextmanager
def locked() -> Iterator[None]:
    """Keep other changes out between reading and writing, in this process and any other.

    Busy if that takes too long.
    """
    file = place()
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(file.with_name(f"{file.name}.lock"), timeout=_PATIENCE):
            yield
    except filelock.Timeout as error:
        raise Busy(f"{file} is being changed by another program: try again") from error


def _mapping(value: object) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(
            f"{place()} must hold lines of the form 'key: value' (training.num_epochs: 5): mend it, or delete it"
        )
    return value


def _text(values: Mapping[str, object]) -> str:
    return _HEAD + (yaml.safe_dump(dict(values), default_flow_style=None, width=10_000) if values else "")
