"""Choose the number of epochs for a small set of conversations by cross-validation (Stone 1974).

A small set cannot spare conversations for a fixed validation split, so each part of it is held out
once. With as many parts as conversations this is leave-one-out cross-validation.
"""

import math
import shutil
import statistics
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fine_tuning import paths
from fine_tuning.config_training import Training
from fine_tuning.training.early_stop import EarlyStop
from fine_tuning.training.packing import TokenRow
from fine_tuning.training.trainer import ResumableTrainer, TrainerClass

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ENOUGH = 3  # after so many parts, their losses limit the epochs of the next ones


def best_epochs(
    model: "PreTrainedModel",
    folder: Path,
    settings: Training,
    rows: Sequence[TokenRow],
    trainer_class: TrainerClass,
    run_fold: Callable[[ResumableTrainer, EarlyStop], None],
) -> int:
    """Return the number of epochs for `rows`, found by trainings that each hold out one part.

    There are `settings.folds` parts, and `fewest_epochs` chooses from their losses.
    `run_fold(trainer, stop)` runs one training. `model` is unchanged afterwards. Losses are kept in
    `folder`, so a resumed run repeats no training.
    """
    known = folder / "losses.json"
    losses: list[list[float]] = paths.read_json(known) if known.exists() else []
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    at_first = {name: weight.detach().clone() for name, weight in trained.items()}
    parts = _parts(rows, settings.folds)
    for part in range(len(losses), len(parts)):
        place = folder / str(part)
        others = [row for other, held_out in enumerate(parts) if other != part for row in held_out]
        trainer = trainer_class(model, place / "checkpoints", settings, others, parts[part])
        # Later epochs could no longer change the choice.
        most = fewest_epochs(losses) + settings.early_stop if len(losses) >= _ENOUGH else None
        stop = EarlyStop(trainer, place, settings.early_stop, most)
        run_fold(trainer, stop)
        losses.append([loss for _, loss in sorted(stop.losses.items())])
        paths.write_json(known, losses)
        shutil.rmtree(place)
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(at_first[name])
    return fewest_epochs(losses)


def _parts(rows: Sequence[TokenRow], count: int) -> list[list[TokenRow]]:
    """Divide the rows into `count` parts; equal conversations and variants of one stay together.

    Otherwise the model would be trained on a conversation that is also held out.
    """
    numbers: dict[Hashable, int] = {}
    parts: list[list[TokenRow]] = [[] for _ in range(count)]
    different = 0
    for row in rows:
        keys = [tuple(row.input_ids), *filter(None, [row.origin])]
        number = next((numbers[key] for key in keys if key in numbers), different)
        different += number == different
        numbers |= dict.fromkeys(keys, number)
        parts[number % count].append(row)
    return [part for part in parts if part]


def fewest_epochs(losses: Sequence[Sequence[float]]) -> int:
    """Return the fewest epochs whose held-out loss is within one standard error of the best.

    `losses[part][epoch]` is the loss of a held-out part after that epoch. Further epochs would cost
    time and overfit. Source: Breiman et al. 1984, section 3.4.3.
    """
    length = max(map(len, losses))
    after = [[part[min(epoch, len(part) - 1)] for part in losses] for epoch in range(length)]
    means = [statistics.fmean(each) for each in after]
    best = after[means.index(min(means))]
    error = statistics.stdev(best) / math.sqrt(len(best)) if len(best) > 1 else 0.0
    return 1 + next(epoch for epoch, mean in enumerate(means) if mean <= min(means) + error)
