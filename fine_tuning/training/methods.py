"""What is trained, by method: one table. Also how that is saved and restored."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from fine_tuning.config import BaseWeights, FineTuningMethod, Preferences, Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Carrier = Literal["adapter", "merged"]  # a GGUF beside the base's, or a whole model's


@dataclass(frozen=True)
class Method:
    """`attach(model, settings)` returns the model with the parameters to train in place and all others frozen."""

    attach: Callable[["PreTrainedModel", Training], "PreTrainedModel"]
    carriers: tuple[Carrier, ...] = ()  # in what a GGUF can carry the result


def _full(model: "PreTrainedModel", settings: Training) -> "PreTrainedModel":
    model.requires_grad_(True)
    return model


def _lora(model: "PreTrainedModel", settings: Training) -> "PreTrainedModel":
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return cast("PreTrainedModel", get_peft_model(model, config))  # it has all that this package asks of a model


def _prefix_tuning(model: "PreTrainedModel", settings: Training) -> "PreTrainedModel":
    from peft import PrefixTuningConfig

    from fine_tuning.training.virtual_tokens import VirtualTokenModel

    # Zeros: a random prefix would drown what the base would answer.
    config = PrefixTuningConfig(num_virtual_tokens=settings.virtual_tokens, init_weights="zero", task_type="CAUSAL_LM")
    return cast("PreTrainedModel", VirtualTokenModel(model, config))


def _prompt_tuning(model: "PreTrainedModel", settings: Training) -> "PreTrainedModel":
    from peft import PromptTuningConfig

    from fine_tuning.training.virtual_tokens import VirtualTokenModel

    config = PromptTuningConfig(
        num_virtual_tokens=settings.virtual_tokens, prompt_tuning_init="SAMPLE_VOCAB", task_type="CAUSAL_LM"
    )
    return cast("PreTrainedModel", VirtualTokenModel(model, config))


METHODS = {
    FineTuningMethod.FULL: Method(_full, ("merged",)),
    FineTuningMethod.LORA: Method(_lora, ("adapter", "merged")),
    FineTuningMethod.QLORA: Method(_lora, ("adapter", "merged")),
    FineTuningMethod.PREFIX_TUNING: Method(_prefix_tuning),
    FineTuningMethod.PROMPT_TUNING: Method(_prompt_tuning),
}


def carrier(settings: Training, wanted: Carrier) -> Carrier | None:
    """Return how the fine-tuned model can be deployed: as `wanted` where that is possible.

    None if no GGUF can carry it.
    """
    carriers: tuple[Carrier, ...] = ("merged",) if settings.use_dora else METHODS[settings.method].carriers
    return wanted if wanted in carriers else next(iter(carriers), None)


def ways_to_hold(settings: Training, on_gpu: bool) -> tuple[BaseWeights, ...]:
    """Return the ways in which the base's matrices may be held, the fastest first.

    The first that fits into the memory is taken. Dequantised is faster, so `auto` keeps the base
    quantised only where nothing else fits. DoRA needs the floats themselves, and the blocks of a
    GGUF have no kernels for GPUs.
    """
    if settings.base_weights in ("quantised", "nf4"):
        return (settings.base_weights,)
    may_stay = settings.method == FineTuningMethod.QLORA and settings.base_weights == "auto"
    return ("dequantised", "quantised") if may_stay and not settings.use_dora and not on_gpu else ("dequantised",)


def save(model: "PreTrainedModel", folder: Path) -> None:
    """Write what was trained, as safetensors only.

    That is an adapter in PEFT's format, or (method full) the whole model in Hugging Face's.
    """
    if _is_peft(model):
        # No method trains embeddings. Without this, PEFT would look for the base's configuration to find out.
        model.save_pretrained(str(folder), save_embedding_layers=False)
    else:
        model.save_pretrained(str(folder), max_shard_size="1000GB")


def restore(model: "PreTrainedModel", folder: Path) -> None:
    """Load what `save` wrote into a model with the method attached."""
    from safetensors.torch import load_file, load_model

    if not _is_peft(model):
        load_model(model, folder / "model.safetensors")  # it restores tied weights, which are saved once
        return
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))


def _is_peft(model: "PreTrainedModel") -> bool:
    from peft import PeftModel

    return isinstance(model, PeftModel)


def choose_preference_method(pairs: int, ratings: int, settings: Preferences) -> Literal["dpo", "kto"] | None:
    """Return how so many pairs and single ratings are learned; None if they are too few, or switched off."""
    if settings.method in ("auto", "dpo") and pairs >= settings.least:
        return "dpo"
    return "kto" if settings.method in ("auto", "kto") and 2 * pairs + ratings >= settings.least else None
