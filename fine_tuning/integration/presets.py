"""Define the presets Quick, Balanced and Thorough of a training as settings, for pages and programs.

If a job of the kind `plan` has measured this machine and the data, the number of epochs depends on
how long an epoch takes; otherwise the configured number is changed by a fixed factor.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fine_tuning.config import FineTuningConfig
from fine_tuning.durations import Times
from fine_tuning.integration import tuning
from fine_tuning.integration.tuning import Forecast, Level
from fine_tuning.training.estimate import Estimate


@dataclass(frozen=True)
class Preset:
    """The settings of a preset, and the memory and time that a training with them takes."""

    level: Level
    settings: Mapping[str, object]  # by dotted key, as a job takes them
    takes: Estimate | None = None  # steps and memory; None if there was no plan
    times: Times | None = None


def presets(start: FineTuningConfig, found: Forecast | None, levels: Iterable[Level]) -> tuple[Preset, ...]:
    """Return all presets. `start` holds the settings without a preset, `found` the result of a plan.

    The `settings` of all presets have the same keys.
    """
    basis = found.basis if found else None
    changes = {level: tuning.preset(start, level, basis) for level in levels}
    keys = dict.fromkeys(key for each in changes.values() for key in each)
    made = []
    for level, changed in changes.items():
        settings = start.changed(changed) if changed else start
        values = {key: tuning.value_of(settings, key) for key in keys}
        made.append(
            Preset(level, values, found.at(settings) if found else None, found.times(settings) if found else None)
        )
    return tuple(made)
