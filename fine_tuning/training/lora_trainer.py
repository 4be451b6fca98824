"""Train a base model on token rows, with any method and either backend (`training.backend`).

The training reports each step, and can be interrupted and resumed. The method is LoRA (arXiv
2106.09685) unless `training.method` names another: full, prefix and prompt tuning take the same
steps but train other parameters (methods.py), and QLoRA may hold the base in another format
(qlora_trainer.py). Transformers takes seconds to import, so it is imported only when a training
begins.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tuning.config.training import BaseWeights, Training
from fine_tuning.engines.agreement import Reference, Trained, of_format
from fine_tuning.errors import NoConversations
from fine_tuning.events import Watch
from fine_tuning.training import hardware
from fine_tuning.training.fast import matmul
from fine_tuning.training.preferences import read_items
from fine_tuning.training.trainer_utils import TrainingRows, read_rows

if TYPE_CHECKING:
    from fine_tuning.training.network import Network
    from fine_tuning.training.phases import Phases


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training: the adapter, and figures about the steps."""

    adapter: Path
    steps: int
    seconds: float
    tokens: int
    final_loss: float
    memory: int  # peak, bytes
    dtype: str
    threads: int  # 0 for a training on a GPU
    products: matmul.Library  # the library that computed float32 matrix products
    resumed_from: int  # the step of the checkpoint from which the training resumed; 0 for a run from the start
    passed_over: tuple[str, ...] = ()  # messages about damaged checkpoints that were not used
    preference_steps: int = 0  # steps of the preference phase, not counted in `steps`
    agreement: float = 0.0  # share of preferences in the last preference step on which the model agrees with people
    network: Trained | None = field(default=None, repr=False)  # the network's logits, if `served` was given


class LoRATrainer:
    """Trains the parameters of `settings.method`, such as a LoRA adapter, on a base model.

    `base` is a GGUF or a folder in Hugging Face format.
    """

    weights: BaseWeights = "dequantised"  # how the base's matrices are held

    def __init__(self, base: Path, settings: Training, served: Reference | None = None) -> None:
        """Prepare the training.

        `served`: llama.cpp's logits of the base on a few probes; None: do not compare. Training
        starts only if the network to be trained gives the same logits up to rounding
        (served_check.py).
        """
        self.base, self.settings, self.served = base, settings, served

    def train(self, rows: TrainingRows, run: Path, watch: Watch | None = None) -> TrainingResult:
        """Train on `rows`, write the trained parameters to `run`/adapter, and return figures about the training.

        If `run` holds a checkpoint of an interrupted training, resume from it; the result is the
        same as without the interruption. Raises NoConversations if there are no rows; TrainingError
        for a bad base, bad rows, or a loss that is not a number; Cancelled, after saving a
        checkpoint, if `watch.stopping()` returned True.
        """
        from fine_tuning.training.network import prepare
        from fine_tuning.training.phases import Phases
        from fine_tuning.training.served_check import check_served, probe_logits

        started = time.perf_counter()
        learned = read_rows(rows.folder / "train.jsonl")
        if not learned:
            raise NoConversations(f"{rows.folder / 'train.jsonl'} contains no row to learn from: chat more")
        preferences = read_items(rows.preferences, self.settings) if rows.preferences else []
        network = prepare(self.base, self.weights, self.settings, rows.replay, run)
        tolerance = of_format(network.in_bfloat, self.weights)
        name = f"{self.base}'s {network.model.config.model_type}"
        before = check_served(network.model, self.served, tolerance, name) if self.served else []
        phases = Phases(network.model, run, self.settings, hardware.gemm_flops(network.dtype), watch or Watch())
        phases.learn_chats(learned, network.replayed, read_rows(rows.folder / "validation.jsonl"), last=not preferences)
        if preferences:
            phases.learn_preferences(preferences)
        adapter = phases.save(run / "adapter")
        seconds = time.perf_counter() - started
        computed = (
            Trained(before, probe_logits(phases.model, self.served.probes), tolerance, self.served)
            if self.served
            else None
        )
        return _result(phases, network, adapter, seconds, computed)


def _result(
    phases: "Phases", network: "Network", adapter: Path, seconds: float, computed: Trained | None
) -> TrainingResult:
    chats, preferences = phases.last.get("chats"), phases.last.get("preferences")
    return TrainingResult(
        adapter=adapter,
        steps=chats.step if chats else 0,
        seconds=seconds,
        tokens=phases.tokens,
        final_loss=chats.loss if chats else float("nan"),
        memory=hardware.peak_memory(),
        dtype=str(network.dtype).removeprefix("torch."),
        threads=0 if hardware.has_gpu() else network.threads,
        products=matmul.used(),
        resumed_from=phases.resumed_from,
        passed_over=tuple(phases.passed_over),
        preference_steps=preferences.step if preferences else 0,
        agreement=preferences.accuracy if preferences else 0.0,
        network=computed,
    )
