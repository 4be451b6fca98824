"""Extend Transformers' Trainer with checkpoints without pickles, and with figures for the reports."""

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer

from fine_tuning.config.training import Training
from fine_tuning.training import checkpoints, methods
from fine_tuning.training.packing import TokenRow

if TYPE_CHECKING:
    from optuna.trial import Trial
    from transformers import TrainerState, TrainingArguments


class ResumableTrainer(Trainer):
    """Base class of the trainers: collects figures for the reports, and writes sealed checkpoints without pickles.

    It resumes only from folders that pass `checkpoints.check`.
    """

    if TYPE_CHECKING:
        model: PreTrainedModel
        args: TrainingArguments
        state: TrainerState

    keep_checkpoints = 2
    seen_tokens = 0  # tokens of conversations, without padding
    seen_flops = 0.0  # floating-point operations of matrix products
    accuracy = 0.0  # share of tokens predicted correctly in the last step
    validation_accuracy: float | None = None  # the same in the last validation; None: not counted
    _validated: tuple[int, float] | None = None  # the step of the last validation, and its loss

    @property
    def rows(self) -> Sized:
        """The rows to train on."""
        return cast(Sized, self.train_dataset)

    @property
    def validation_rows(self) -> Sized:
        return cast(Sized, self.eval_dataset)

    def validation_loss(self) -> float:
        """Return the mean loss (nats) over the supervised tokens of the validation rows."""
        raise NotImplementedError

    def validated(self) -> float:
        """Return the validation loss (nats) after the current step.

        The value is cached, since both the step report and the early stop ask for it.
        """
        if self._validated is None or self._validated[0] != self.state.global_step:
            self._validated = self.state.global_step, self.validation_loss()
        return self._validated[1]

    # Transformers calls these methods to save and restore checkpoints.

    def _save_checkpoint(self, model: nn.Module, trial: "Trial | dict[str, Any] | None") -> None:
        super()._save_checkpoint(model, trial)
        root = Path(str(self.args.output_dir))
        checkpoints.seal(root / f"checkpoint-{self.state.global_step}")
        checkpoints.keep_newest(root, self.keep_checkpoints)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, object] | None = None) -> None:
        methods.save(self.model, Path(str(output_dir or self.args.output_dir)))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        checkpoints.save_state(Path(output_dir), self.optimizer, self.lr_scheduler)

    def _save_rng_state(self, output_dir: str) -> None:
        """Save nothing, since `checkpoints.save_state` also saves the random states."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        methods.restore(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint:
            checkpoints.load_optimizer(Path(checkpoint), self.optimizer, self.lr_scheduler)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint:
            checkpoints.load_random(Path(checkpoint))


TrainerClass = Callable[[PreTrainedModel, Path, Training, Sequence[TokenRow], Sequence[TokenRow]], ResumableTrainer]
"""Creates a trainer from a model, a checkpoint folder, settings, training rows and validation rows."""


class Arguments(TypedDict, total=False):
    """The TrainingArguments that byoai sets."""

    output_dir: str
    per_device_train_batch_size: int
    per_device_eval_batch_size: int
    num_train_epochs: float
    learning_rate: float
    lr_scheduler_type: str
    warmup_steps: float
    weight_decay: float
    optim: str
    max_grad_norm: float
    seed: int
    use_cpu: bool
    bf16: bool
    logging_steps: float
    logging_nan_inf_filter: bool
    save_strategy: str
    save_steps: float
    report_to: list[str]
    disable_tqdm: bool
    remove_unused_columns: bool
    dataloader_pin_memory: bool


def arguments(folder: Path, settings: Training, rows: int) -> Arguments:
    """Return the keyword arguments of TrainingArguments for a training on `rows` rows per epoch.

    `folder`: where checkpoints are written.
    """
    steps = -(-rows // settings.batch_size) * settings.num_epochs
    found = Arguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        num_train_epochs=settings.num_epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=round(settings.warmup_ratio * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,  # the model's own dtype decides; the adapter stays in fp32
        logging_steps=1,
        logging_nan_inf_filter=False,  # the filter would hide a loss that is not a number
        save_strategy="steps",
        save_steps=settings.save_steps,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    if settings.optimizer != "adamw":
        found["optim"] = settings.optimizer
    return found


@dataclass(frozen=True)
class StepFlops:
    """The floating-point operations of a training step: for each token, each target and each attention score."""

    token: float  # for each token that is computed
    target: float  # for each token that counts in the loss
    score: float  # for each key that a query attends to

    def of(self, tokens: int, targets: int, scores: int) -> float:
        return self.token * tokens + self.target * targets + self.score * scores


def step_flops(model: PreTrainedModel) -> StepFlops:
    """Return the floating-point operations of a training step of `model`.

    Each weight costs two operations per token forward, two for the input's gradient, and two more
    if it is trained (arXiv 2001.08361, section 2.1); attention costs two products forward and four
    backward (arXiv 2204.02311, appendix B). Values that are computed again in the backward pass
    count once.
    """
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    heads: int = getattr(config, "num_attention_heads", 0)
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1))
    return StepFlops(
        token=sum(map(_flops, linear)),
        target=_flops(head) if isinstance(head, nn.Linear) else 0.0,
        score=12.0 * config.num_hidden_layers * width,
    )


def _flops(layer: nn.Linear) -> float:
    # Computed from the layer's dimensions, since the tensor of a quantised weight has another size.
    return float(layer.in_features * layer.out_features * (6 if layer.weight.requires_grad else 4))
