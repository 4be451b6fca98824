"""What "how thorough" means in settings: one source for pages and programs.

The passes are reckoned for this machine where it was found out what there is to learn (a job of the kind
`plan`); else only the factors count.
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
    """One answer to "how thorough"."""

    level: Level
    settings: Mapping[str, object]  # by dotted key, as a job takes them
    takes: Estimate | None = None  # steps and memory; None where it was not found out
    times: Times | None = None


def presets(start: FineTuningConfig, found: Forecast | None) -> tuple[Preset, ...]:
    """Return what each level comes to. `start`: the settings before any; all levels name the same keys."""
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
