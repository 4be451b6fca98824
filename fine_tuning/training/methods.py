"""Define the training methods (`METHODS`): which parameters each trains, and how they are saved and restored."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from fine_tuning.config.training import BaseWeights, FineTuningMethod, Preferences, Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Carrier = Literal["adapter", "merged"]  # a GGUF of the adapter alone, or of the whole merged model


@dataclass(frozen=True)
class Method:
    """One training method.

    `attach(model, settings)` adds the parameters to train, freezes all others, and returns the
    model.
    """

    attach: Callable[["PreTrainedModel", Training], "PreTrainedModel"]
    carriers: tuple[Carrier, ...] = ()  # the kinds of GGUF that the result can be exported as


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
    return cast("PreTrainedModel", get_peft_model(model, config))  # it forwards the attributes that this package uses


def _prefix_tuning(model: "PreTrainedModel", settings: Training) -> "PreTrainedModel":
    from peft import PrefixTuningConfig

    from fine_tuning.training.virtual_tokens import VirtualTokenModel

    # Zeros, since a random prefix would distort the base's answers.
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
    """Return the kind of GGUF to export the trained model as.

    This is `wanted` if the method supports it, else the kind that the method does support. Return
    None if no GGUF can represent the result, as with virtual tokens.
    """
    carriers: tuple[Carrier, ...] = ("merged",) if settings.use_dora else METHODS[settings.method].carriers
    return wanted if wanted in carriers else next(iter(carriers), None)


def ways_to_hold(settings: Training, on_gpu: bool) -> tuple[BaseWeights, ...]:
    """Return the formats in which the base's matrices may be held in memory, the fastest first.

    The caller uses the first format that fits into memory. So with `base_weights: auto` the base
    stays quantised only if the faster dequantised form does not fit. DoRA needs dequantised
    weights, and there are no GPU kernels for a GGUF's blocks.
    """
    if settings.base_weights in ("quantised", "nf4"):
        return (settings.base_weights,)
    may_stay = settings.method == FineTuningMethod.QLORA and settings.base_weights == "auto"
    return ("dequantised", "quantised") if may_stay and not settings.use_dora and not on_gpu else ("dequantised",)


def save(model: "PreTrainedModel", folder: Path) -> None:
    """Write the trained parameters to `folder`, as safetensors.

    They are an adapter in PEFT's format, or, for full fine-tuning, the whole model in Hugging Face
    format.
    """
    if _is_peft(model):
        # No method trains embeddings; by default PEFT would read the base's configuration to find out.
        model.save_pretrained(str(folder), save_embedding_layers=False)
    else:
        model.save_pretrained(str(folder), max_shard_size="1000GB")


def restore(model: "PreTrainedModel", folder: Path) -> None:
    """Load the parameters that `save` wrote to `folder` into `model`, after `Method.attach` has prepared the model."""
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
    """Return the method that learns from `pairs` pairs of answers and `ratings` single ratings.

    A pair counts as two ratings for KTO. Return None if there are fewer pairs or ratings than
    `settings.least`, or if training on preferences is switched off.
    """
    if settings.method in ("auto", "dpo") and pairs >= settings.least:
        return "dpo"
    return "kto" if settings.method in ("auto", "kto") and 2 * pairs + ratings >= settings.least else None
