"""Define the sections `training` and `sweep` of the configuration."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fine_tuning import paths
from fine_tuning.config.types import BaseName, Count, Name, Positive, Rate, Seed, Share, lies_in_home
from fine_tuning.config.types import Section as _Section
from fine_tuning.errors import ConfigError


class FineTuningMethod(StrEnum):
    """The fine-tuning method.

    Sources: LoRA arXiv 2106.09685; QLoRA 2305.14314; prefix tuning 2101.00190; prompt tuning
    2104.08691. `full` trains all weights.
    """

    FULL = "full"
    LORA = "lora"
    QLORA = "qlora"
    PREFIX_TUNING = "prefix_tuning"
    PROMPT_TUNING = "prompt_tuning"


BaseWeights = Literal["dequantised", "quantised", "nf4"]
"""How the base's matrices are held in memory during training: as floats, as the quantised blocks of
the served GGUF, or quantised to NF4 by bitsandbytes.
"""


def runs_dir(name: str) -> Path:
    """Return the folder of the runs, `name` in the data folder.

    Raises ConfigError if it is outside the data folder, or used for something else.
    """
    folder = paths.within_home(paths.home() / name)
    if paths.is_taken(folder):  # pruning and forgetting remove folders in it
        raise ConfigError(f"{folder} contains other things than runs: choose a folder that is only for runs")
    return folder


class Replay(_Section):
    """Replay: general questions and answers, mixed into the training so that the model keeps what it knew.

    On their tokens the loss is the divergence of the model's probabilities from the base's
    (Learning without Forgetting, arXiv 1606.09282).
    """

    share: Annotated[float, Field(ge=0, lt=1)] = 0.3  # of an epoch's conversations; fewer if byoai has too few prompts
    kl_weight: Annotated[float, Field(ge=0)] = 1.0  # weight of this loss relative to that of the chats

    @model_validator(mode="before")
    @classmethod
    def _of_older_files(cls, values: object) -> object:
        """Accept `max_new_tokens`, a setting of older versions of byoai, and ignore it.

        Raises ValueError for the older setting `prompts`, which was replaced by `share`.
        """
        if not isinstance(values, dict):
            return values
        if "prompts" in values:
            raise ValueError(
                "prompts is no longer a setting: write share, the fraction of an epoch that is general prompts (0.3 "
                "for 64 prompts beside 150 chats)"
            )
        return {key: value for key, value in values.items() if key != "max_new_tokens"}


class Preferences(_Section):
    """Training on preferences after the chats.

    An edited answer gives a pair of answers for DPO (arXiv 2305.18290); a thumb is a rating of one
    answer for KTO (2402.01306).
    """

    # auto: dpo if there are enough pairs, else kto on pairs and ratings
    method: Literal["auto", "dpo", "kto", "off"] = "auto"
    least: Annotated[int, Field(ge=2, le=2**31 - 1)] = 8  # with fewer pairs (or ratings) preferences are not trained on
    beta: Annotated[float, Field(gt=0)] = 0.1  # strength of the penalty for deviating from the model before this phase
    learning_rate: Rate = 5e-5
    num_epochs: Positive = 2


class Training(_Section):
    method: FineTuningMethod = FineTuningMethod.QLORA
    base_model: BaseName = "smollm2:135m"  # an Ollama tag, a folder in Hugging Face format, or a Hugging Face id
    output_dir: Annotated[Name, lies_in_home(runs_dir)] = "runs"  # in data/
    lora_r: Positive = 16
    lora_alpha: Positive = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    use_dora: bool = False  # train magnitude and direction separately (arXiv 2402.09353)
    use_rslora: bool = False  # scale by alpha / sqrt(r) (arXiv 2312.03732)
    virtual_tokens: Positive = 20  # for prefix_tuning and prompt_tuning
    batch_size: Positive = 4  # conversations per step
    batch_tokens: Positive = (
        4096  # maximum tokens in one pass; a step with more tokens takes several passes, with the same result
    )
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-4
    num_epochs: Positive = 3
    warmup_ratio: Share = 0.05
    lr_scheduler: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    seed: Seed = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Count = 0  # threads of training on a CPU; 0: whatever a short benchmark finds faster
    # library for float32 matrix products on a CPU; auto: whatever a short benchmark finds faster
    products: Literal["auto", "blas", "onednn"] = "auto"
    # for qlora's base: dequantised is as fast as lora; auto: dequantised if it fits into memory
    base_weights: Literal["auto"] | BaseWeights = "auto"
    # the last two are from bitsandbytes (arXiv 2110.02861)
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    backend: Literal["packed", "trl"] = "packed"  # trl: TRL's trainer, slower, as a reference
    fused: bool = True  # faster modules with the same loss and gradients (training/fast); false: the libraries' modules
    save_steps: Positive = 25
    keep_checkpoints: Positive = 2
    early_stop: Count = 0  # stop after this many epochs without a lower validation loss; 0: never
    folds: Count = 0  # number of parts of the training chats, each held out once to find the number of epochs; 0: off
    min_pairs: Positive = 100  # fewer pairs need --force
    replay: Replay = Replay()
    preferences: Preferences = Preferences()

    @model_validator(mode="before")
    @classmethod
    def _layers_could_be_frozen(cls, values: object) -> object:
        """Accept and ignore the key `frozen_layers` of older configurations if it is 0, else raise ValueError."""
        if isinstance(values, dict) and "frozen_layers" in values:
            if values["frozen_layers"] not in (0, "0", None):
                raise ValueError(
                    "frozen_layers is no longer a setting: all layers are trained now, which learns more. Leave it out"
                )
            values = {key: value for key, value in values.items() if key != "frozen_layers"}
        return values

    @model_validator(mode="after")
    def _options_belong_to_the_method(self) -> "Training":
        flags = [name for name in ("use_dora", "use_rslora") if getattr(self, name)]
        if flags and self.method not in (FineTuningMethod.LORA, FineTuningMethod.QLORA):
            raise ValueError(
                f"{' and '.join(flags)} can be used only with method lora or qlora, not with {self.method}: remove "
                "the setting, or choose one of these methods"
            )
        if self.folds and (self.folds < 2 or not self.early_stop):
            raise ValueError(
                "folds must be at least 2, and needs an early stop, which ends the training of each fold: set "
                "early_stop, for example to 2"
            )
        if self.base_weights in ("quantised", "nf4") and (self.method != FineTuningMethod.QLORA or self.use_dora):
            raise ValueError(
                f"base_weights: {self.base_weights} can be used only with method qlora and without DoRA, which needs "
                "the weights in full precision: leave base_weights out"
            )
        return self


class Sweep(_Section):
    """The search of `byoai sweep`: its limits, the bounds of the learning rate, and the choices for other settings."""

    sampler: Literal["tpe", "grid"] = "tpe"
    trials: Positive = 20
    minutes: Annotated[float, Field(gt=0)] = 60
    seed: Seed = 0
    learning_rate: tuple[Rate, Rate] = (1e-4, 3e-3)
    lora_r: Annotated[tuple[Positive, ...], Field(min_length=1)] = (8, 16, 32)
    lora_alpha: Annotated[tuple[Positive, ...], Field(min_length=1)] = (16, 32, 64)
    lora_dropout: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], Field(min_length=1)] = (0.0, 0.1)
    num_epochs: Annotated[tuple[Positive, ...], Field(min_length=1)] = (2, 3, 5)
    batch_size: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4, 8)

    @model_validator(mode="after")
    def _ranges(self) -> "Sweep":
        low, high = self.learning_rate
        if low > high:
            raise ValueError(f"learning_rate: the lower end must come first, but {low:g} is above {high:g}")
        for key in ("lora_r", "lora_alpha", "lora_dropout", "num_epochs", "batch_size"):
            values = getattr(self, key)
            if len(set(values)) != len(values):
                raise ValueError(f"{key} contains a value twice: {list(values)}. Remove one of the two")
        return self
