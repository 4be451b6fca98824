"""What is trained, by method: one table. Also how it is saved, and put back."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fine_tuning.config import FineTuningMethod, Training

Carrier = Literal["adapter", "merged"]  # a GGUF beside the base's, or a whole model's


@dataclass(frozen=True)
class Method:
    """`attach(model, settings)` returns the model with the parameters to train in place and all others frozen."""

    attach: Callable[[Any, Training], Any]
    carriers: tuple[Carrier, ...] = ()  # what a GGUF can carry it in


def _full(model: Any, settings: Training) -> Any:
    return model.requires_grad_(True)


def _lora(model: Any, settings: Training) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
        target_modules="all-linear",
        exclude_modules=_frozen(model, settings) if settings.frozen_layers else None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _frozen(model: Any, settings: Training) -> str:
    """A pattern of the names of all that is in the model's frozen layers."""
    from fine_tuning.training.lower_layers import decoder_layers
    from fine_tuning.training.memory import trained_layers

    name, layers = decoder_layers(model)
    frozen = len(layers) - trained_layers(len(layers), settings)
    return rf"{re.escape(name)}\.({'|'.join(map(str, range(frozen)))})\..*"


def _prefix_tuning(model: Any, settings: Training) -> Any:
    from peft import PrefixTuningConfig

    from fine_tuning.training.virtual_tokens import VirtualTokenModel

    # Zeros: a random prefix would drown what the base has to say.
    config = PrefixTuningConfig(num_virtual_tokens=settings.virtual_tokens, init_weights="zero", task_type="CAUSAL_LM")
    return VirtualTokenModel(model, config)


def _prompt_tuning(model: Any, settings: Training) -> Any:
    from peft import PromptTuningConfig

    from fine_tuning.training.virtual_tokens import VirtualTokenModel

    config = PromptTuningConfig(num_virtual_tokens=settings.virtual_tokens, prompt_tuning_init="SAMPLE_VOCAB", task_type="CAUSAL_LM")
    return VirtualTokenModel(model, config)


METHODS = {
    FineTuningMethod.FULL: Method(_full, ("merged",)),
    FineTuningMethod.LORA: Method(_lora, ("adapter", "merged")),
    FineTuningMethod.QLORA: Method(_lora, ("adapter", "merged")),
    FineTuningMethod.PREFIX_TUNING: Method(_prefix_tuning),
    FineTuningMethod.PROMPT_TUNING: Method(_prompt_tuning),
}


def carrier(settings: Training, wanted: Carrier) -> Carrier | None:
    """What the fine-tuned model can be deployed as: `wanted` where that is possible. None if no GGUF can carry it."""
    carriers: tuple[Carrier, ...] = ("merged",) if settings.use_dora else METHODS[settings.method].carriers
    return wanted if wanted in carriers else next(iter(carriers), None)


def save(model: Any, folder: Path) -> None:
    """Write what was trained: an adapter as PEFT does it, or (full) the whole model in Hugging Face's format; safetensors only."""
    # No method trains embeddings; else PEFT would look for the base's configuration, to find out whether one did.
    model.save_pretrained(str(folder), **({"save_embedding_layers": False} if _is_peft(model) else {"max_shard_size": "1000GB"}))


def restore(model: Any, folder: Path) -> None:
    """Put back into an attached model what `save` wrote."""
    from safetensors.torch import load_file, load_model

    if not _is_peft(model):
        load_model(model, folder / "model.safetensors")  # knows of tied weights, which are saved once
        return
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))


def _is_peft(model: Any) -> bool:
    from peft import PeftModel

    return isinstance(model, PeftModel)
