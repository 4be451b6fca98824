"""What is trained, by method: one table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fine_tuning.config import FineTuningMethod, Training


@dataclass(frozen=True)
class Method:
    """`attach(model, settings)` returns the model with the parameters to train in place and all others frozen."""

    attach: Callable[[Any, Training], Any]
    may_quantise: bool  # whether the frozen base may be held in NF4 when it does not fit otherwise


def _lora(model: Any, settings: Training) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


METHODS = {
    FineTuningMethod.LORA: Method(_lora, may_quantise=False),
    FineTuningMethod.QLORA: Method(_lora, may_quantise=True),
}
