"""QLoRA (arXiv 2305.14314): LoRA beside a base whose matrices may stay quantised.

`methods.ways_to_hold` says when they do.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from fine_tuning.config import BaseWeights, FineTuningMethod, Training
from fine_tuning.training.lora_trainer import LoRATrainer

if TYPE_CHECKING:
    from fine_tuning.engines.agreement import Reference


class QLoRATrainer(LoRATrainer):
    """Trains LoRA adapters beside a base that is held as `weights` says.

    `dequantised`: as floats, as fast as LoRA. `quantised`: as the blocks of the served GGUF, in a
    quarter of the memory; they are dequantised for each pass. `nf4`: quantised once more as the
    paper does it, by bitsandbytes, for GPUs.
    """

    def __init__(
        self, base: Path, settings: Training, served: "Reference | None" = None, weights: BaseWeights = "dequantised"
    ) -> None:
        """Prepare the training.

        `weights`: one of `methods.ways_to_hold`, for `auto` the one that the forecast chose
        (estimate.py).
        """
        super().__init__(base, settings, served)
        self.weights = weights


def trainer_for(
    base: Path, settings: Training, served: "Reference | None" = None, weights: BaseWeights = "dequantised"
) -> LoRATrainer:
    """Return the trainer of `settings.method`."""
    if settings.method == FineTuningMethod.QLORA:
        return QLoRATrainer(base, settings, served, weights)
    return LoRATrainer(base, settings, served)
