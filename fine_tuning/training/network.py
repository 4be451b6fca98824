"""Prepares the network that is trained.

The base is loaded, what is trained is attached, and both are moved to the device and the number
format of the run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import set_seed

from fine_tuning import paths
from fine_tuning.config import BaseWeights, Training
from fine_tuning.training import methods
from fine_tuning.training.base_model import load_base
from fine_tuning.training.fast import matmul
from fine_tuning.training.fast.fused import fuse
from fine_tuning.training.hardware import choose_dtype, choose_threads, has_gpu, keep_freed_memory
from fine_tuning.training.packing import TokenRow
from fine_tuning.training.teacher import replay_rows
from fine_tuning.training.trainer_utils import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Network:
    """A model that is ready to be trained, and the replay rows with what it says of them before."""

    model: "PreTrainedModel"
    replayed: list[TokenRow]
    dtype: torch.dtype
    threads: int

    @property
    def in_bfloat(self) -> bool:
        return self.dtype == torch.bfloat16


def prepare(base: Path, weights: BaseWeights, settings: Training, replay: Path | None, run: Path) -> Network:
    """Load `base`, and attach what `settings.method` trains.

    From now on, this process has the run's threads, seed and library. `weights` says how the base
    is held, `replay` is a file of token rows that the base answered. TrainingError if it cannot be
    loaded.
    """
    keep_freed_memory()
    dtype, threads = _chosen(run, settings)
    torch.set_num_threads(threads)
    set_seed(settings.seed)
    packed = settings.backend == "packed"
    with quiet():
        model = load_base(base, dtype, run / "base", weights, settings.fused)
        if packed:
            matmul.relay(model)
        replayed = replay_rows(model, replay, base) if replay else []
        model = methods.METHODS[settings.method].attach(model, settings)
        model = torch.nn.Module.to(model, "cuda" if has_gpu() else "cpu")
        if packed and settings.fused:
            fuse(model)  # now that the weights are where they stay
    return Network(model, replayed, dtype, threads)


def _chosen(run: Path, settings: Training) -> tuple[torch.dtype, int]:
    """Return the run's number format and threads, and use its library of matrix products.

    They are chosen once for a run: another probe might choose differently, and the sums would differ.
    """
    file = run / "chosen.json"
    if not file.exists():
        library = matmul.choose(settings)
        matmul.use(library)  # before the other probes, which multiply
        dtype = str(choose_dtype(settings, library)).removeprefix("torch.")
        paths.write_json(file, {"dtype": dtype, "threads": choose_threads(settings), "products": library})
    chosen = paths.read_json(file)
    matmul.use(chosen.get("products", "blas"))  # runs of older versions have none
    return torch.float32 if chosen["dtype"] == "float32" else torch.bfloat16, int(chosen["threads"])
