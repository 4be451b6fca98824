"""Define the levels of "how thorough" as settings, for pages and programs.

The number of passes depends on this machine if a job of the kind `plan` has found out what there is
to learn; otherwise only the factors count.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fine_tuning.config import FineTuningConfig
from fine_tuning.durations import Times
from fine_tuning.integration import tuning
from fine_tuning.integration.tuning import LEVELS, Forecast, Level
from fine_tuning.training.estimate import Estimate


@dataclass(frozen=True)
class Preset:
    """A level of "how thorough"."""

    level: Level
    settings: Mapping[str, object]  # by dotted key, as a job takes them
    takes: Estimate | None = None  # steps and memory; None if there was no plan
    times: Times | None = None


def presets(start: FineTuningConfig, found: Forecast | None) -> tuple[Preset, ...]:
    """Return the settings of each level. `start`: the settings without a level. All levels have the
    same keys.
    """
    basis = found.basis if found else None
    changes = {level: tuning.preset(start, level, basis) for level in LEVELS}
    keys = dict.fromkeys(key for each in changes.values() for key in each)
    made = []
    for level, changed in changes.items():
        settings = start.changed(changed) if changed else start
        values = {key: tuning.value_of(settings, key) for key in keys}
        made.append(
            Preset(level, values, found.at(settings) if found else None, found.times(settings) if found else None)
        )
    return tuple(made)
