"""How many epochs few conversations bear: a part of them is held out, then another, until each was (Stone 1974).

Few are too few to lose some for good to validation. With as many parts as there are conversations this is leave-one-out.
"""

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


def best_epochs(
    model: Any, folder: Path, settings: Training, rows: Sequence[Row], backend: Any, give: Callable[[Any, EarlyStop], None]
) -> int:
    """The median, over the parts of `rows`, of the epochs after which a training on the others foresaw the part best.

    `give(trainer, stop)` lets a trainer of `backend` run. `model` is afterwards as it was. What is known lies in `folder`, so that a run
    that was killed trains without the same part once only.
    """
    known = folder / "epochs.json"
    found: list[int] = paths.read_json(known) if known.exists() else []
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    at_first = {name: weight.detach().clone() for name, weight in trained.items()}
    parts = [list(rows[part :: settings.folds]) for part in range(min(settings.folds, len(rows)))]
    for part in range(len(found), len(parts)):
        place = folder / str(part)
        others = [row for other, held_out in enumerate(parts) if other != part for row in held_out]
        trainer = backend(model, place / "checkpoints", settings, others, parts[part])
        stop = EarlyStop(trainer, place, settings.early_stop)
        give(trainer, stop)
        found.append(stop.best_epoch)
        paths.write_json(known, found)
        shutil.rmtree(place)
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(at_first[name])
    return max(1, round(statistics.median(found)))
