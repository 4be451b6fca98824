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
from fine_tuning.config.training import Training
from fine_tuning.training.early_stop import EarlyStop
from fine_tuning.training.packing import TokenRow
from fine_tuning.training.trainer import ResumableTrainer, TrainerClass

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ENOUGH = 3  # number of parts after which their losses limit the epochs of the remaining trainings


def best_epochs(
    model: "PreTrainedModel",
    folder: Path,
    settings: Training,
    rows: Sequence[TokenRow],
    trainer_class: TrainerClass,
    run_fold: Callable[[ResumableTrainer, EarlyStop], None],
) -> int:
    """Return the number of epochs for a training on `rows`, found by cross-validation.

    The rows are divided into `settings.folds` parts. For each part, a model is trained on all other
    parts, and its loss on the held-out part is computed after each epoch; `fewest_epochs` chooses
    from these losses.

    Args:
        model: the model before the training; it has the same weights afterwards.
        folder: where the losses are kept, so that a resumed run repeats no finished training.
        run_fold: runs a given trainer's training with a given callback for early stopping.
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
        # Epochs beyond this number could no longer change the choice.
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
    """Divide the rows into at most `count` parts, none of them empty.

    Equal conversations, and variants of the same conversation, are put into the same part.
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

    `losses[part][epoch]` is the loss of a held-out part after that epoch, epoch 0 being the first;
    a part whose training ended early keeps its last loss. Source: the one-standard-error rule,
    Breiman et al. 1984, section 3.4.3.
    """
    length = max(map(len, losses))
    after = [[part[min(epoch, len(part) - 1)] for part in losses] for epoch in range(length)]
    means = [statistics.fmean(each) for each in after]
    best = after[means.index(min(means))]
    error = statistics.stdev(best) / math.sqrt(len(best)) if len(best) > 1 else 0.0
    return 1 + next(epoch for epoch, mean in enumerate(means) if mean <= min(means) + error)
