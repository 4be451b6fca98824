"""Prepare the network for training.

Load the base, attach the parameters to train, and move both to the run's device and number format.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import set_seed

from fine_tuning import paths
from fine_tuning.config.training import BaseWeights, Training
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
    """A model that is ready for training, and the replay rows with the untrained model's probabilities."""

    model: "PreTrainedModel"
    replayed: list[TokenRow]
    dtype: torch.dtype
    threads: int

    @property
    def in_bfloat(self) -> bool:
        return self.dtype == torch.bfloat16


def prepare(base: Path, weights: BaseWeights, settings: Training, replay: Path | None, run: Path) -> Network:
    """Load `base`, attach the parameters that `settings.method` trains, and return the network.

    This also sets the process's threads, random seed and matrix library.

    Args:
        weights: the format in which the base's matrices are held.
        replay: a file of replay rows (teacher.py); None: no replay.
        run: the run's folder, for temporary files and the choices that a resumed run must repeat.

    Raises TrainingError if the base cannot be loaded.
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
            fuse(model)  # fusing makes views of the weights, so they must be on their device already
    return Network(model, replayed, dtype, threads)


def _chosen(run: Path, settings: Training) -> tuple[torch.dtype, int]:
    """Return the run's number format and number of threads, and switch to its matrix library.

    All three are chosen once per run and saved in chosen.json. If a resumed run chose anew, it
    might choose differently and compute slightly different numbers.
    """
    file = run / "chosen.json"
    if not file.exists():
        library = matmul.choose(settings)
        matmul.use(library)  # first, since the other probes multiply matrices with it
        dtype = str(choose_dtype(settings, library)).removeprefix("torch.")
        paths.write_json(file, {"dtype": dtype, "threads": choose_threads(settings), "products": library})
    chosen = paths.read_json(file)
    matmul.use(chosen.get("products", "blas"))  # runs of older byoai versions saved no library, and used BLAS
    return torch.float32 if chosen["dtype"] == "float32" else torch.bfloat16, int(chosen["threads"])
