"""A training in one call, as the tests want it."""

from collections.abc import Callable
from pathlib import Path

from fine_tuning.config import BaseWeights, Training
from fine_tuning.engines.agreement import Reference
from fine_tuning.events import Step, Watch
from fine_tuning.training.lora_trainer import TrainingResult
from fine_tuning.training.qlora_trainer import trainer_for
from fine_tuning.training.trainer_utils import TrainingRows


def train(
    base: Path,
    rows: Path,
    run: Path,
    settings: Training,
    replay: Path | None = None,
    report: Callable[[Step], None] = lambda step: None,
    cancelled: Callable[[], bool] = lambda: False,
    weights: BaseWeights = "dequantised",
    preferences: Path | None = None,
    served: Reference | None = None,
) -> TrainingResult:
    trainer = trainer_for(base, settings, served, weights)
    return trainer.train(TrainingRows(rows, replay, preferences), run, Watch(report, cancelled))
