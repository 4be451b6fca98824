"""Keep measurements of this machine's speed for a day, in machine.json in the data folder.

Measuring takes seconds, and is needed for every plan of a retrain.
"""

import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.errors import Busy
from fine_tuning.json_values import parse_json

_KEPT = 24 * 3600.0  # seconds for which a measurement counts
_MOST = 20  # maximum number of stored measurements


def recall(key: str) -> dict[str, Any] | None:
    """Return what `keep` stored under `key` within the last day; None if there is nothing."""
    found = _read().get(key)
    return found["values"] if found else None


def keep(key: str, values: Mapping[str, object]) -> None:
    """Store values that JSON can represent under `key`. If the file cannot be written, nothing is stored."""
    with suppress(OSError, Busy), paths.locked(_file()):
        newest = sorted(_read().items(), key=lambda each: each[1]["time"])[1 - _MOST :]
        paths.write_json(_file(), {**dict(newest), key: {"time": time.time(), "values": dict(values)}})


def of_this_computer() -> tuple[object, ...]:
    """Return what every measurement depends on: the computer's name, its processor, and the cores in use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return os.environ.get("OMP_NUM_THREADS", ""), platform.node(), platform.machine(), cores


def _file() -> Path:
    return paths.home() / "machine.json"


def _read() -> dict[str, dict[str, Any]]:
    """Return the measurements of the last day, by key; {} if the file is missing or damaged."""
    with suppress(OSError, ValueError, AttributeError, KeyError, TypeError):
        kept = parse_json(_file().read_text(encoding="utf-8"))
        return {key: each for key, each in kept.items() if 0 <= time.time() - each["time"] < _KEPT and each["values"]}
    return {}
