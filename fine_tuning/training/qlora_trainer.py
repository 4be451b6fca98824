"""Train with QLoRA (arXiv 2305.14314): LoRA on a base whose matrices may stay quantised.

`methods.ways_to_hold` decides when they stay quantised.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from fine_tuning.config.training import BaseWeights, FineTuningMethod, Training
from fine_tuning.training.lora_trainer import LoRATrainer

if TYPE_CHECKING:
    from fine_tuning.engines.agreement import Reference


class QLoRATrainer(LoRATrainer):
    """Trains LoRA adapters on a base whose matrices are held in the format `weights`.

    `dequantised`: floats, as fast as LoRA. `quantised`: the blocks of the served GGUF, a quarter of
    the memory, dequantised for each pass. `nf4`: quantised again by bitsandbytes, as in the paper,
    for GPUs.
    """

    def __init__(
        self, base: Path, settings: Training, served: "Reference | None" = None, weights: BaseWeights = "dequantised"
    ) -> None:
        """Prepare the training.

        `weights`: one of `methods.ways_to_hold`; if `training.base_weights` is `auto`, the one that
        the forecast (estimate.py) chose. `served`: as in LoRATrainer.
        """
        super().__init__(base, settings, served)
        self.weights = weights


def trainer_for(
    base: Path, settings: Training, served: "Reference | None" = None, weights: BaseWeights = "dequantised"
) -> LoRATrainer:
    """Return the trainer for `settings.method`. `weights` is used for QLoRA only."""
    if settings.method == FineTuningMethod.QLORA:
        return QLoRATrainer(base, settings, served, weights)
    return LoRATrainer(base, settings, served)
