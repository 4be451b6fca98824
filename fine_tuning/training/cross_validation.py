"""How many epochs few conversations bear: a part of them is held out, then another, until each was (Stone 1974).

Few are too few to lose some for good to validation. With as many parts as there are conversations this is leave-one-out.
"""

import math
import shutil
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fine_tuning import paths
from fine_tuning.config import Training
from fine_tuning.training.early_stop import EarlyStop
from fine_tuning.training.packing import Row

_SPEAKING = 3  # parts from which on their losses tell how far the next need be trained


def best_epochs(
    model: Any, folder: Path, settings: Training, rows: Sequence[Row], backend: Any, give: Callable[[Any, EarlyStop], None]
) -> int:
    """The fewest epochs that foresee the parts of `rows`, each held out, about as well as the best number (`fewest_epochs`).

    `give(trainer, stop)` lets a trainer of `backend` run. `model` is afterwards as it was. What is known lies in `folder`, so that a run
    that was killed trains without the same part once only.
    """
    known = folder / "losses.json"
    found: list[list[float]] = paths.read_json(known) if known.exists() else []
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    at_first = {name: weight.detach().clone() for name, weight in trained.items()}
    parts = [list(rows[part :: settings.folds]) for part in range(min(settings.folds, len(rows)))]
    for part in range(len(found), len(parts)):
        place = folder / str(part)
        others = [row for other, held_out in enumerate(parts) if other != part for row in held_out]
        trainer = backend(model, place / "checkpoints", settings, others, parts[part])
        # What comes later than what the parts before speak for decides nothing any more.
        most = fewest_epochs(found) + settings.early_stop if len(found) >= _SPEAKING else None
        stop = EarlyStop(trainer, place, settings.early_stop, most)
        give(trainer, stop)
        found.append([loss for _, loss in sorted(stop.losses.items())])
        paths.write_json(known, found)
        shutil.rmtree(place)
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(at_first[name])
    return fewest_epochs(found)


def fewest_epochs(losses: Sequence[Sequence[float]]) -> int:
    """From the loss of each part after each epoch, as far as it was trained: the fewest epochs whose mean loss is within one standard error
    of the lowest (Breiman et al. 1984, section 3.4.3). Past that a training learns by heart what it was shown, and costs time.
    """
    length = max(map(len, losses))
    after = [[part[min(epoch, len(part) - 1)] for part in losses] for epoch in range(length)]
    means = [statistics.fmean(each) for each in after]
    best = after[means.index(min(means))]
    error = statistics.stdev(best) / math.sqrt(len(best)) if len(best) > 1 else 0.0
    return 1 + next(epoch for epoch, mean in enumerate(means) if mean <= min(means) + error)
