"""Define trainer callbacks that end a training early: by the validation loss, or after a number of epochs."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save
from transformers import TrainerCallback

from fine_tuning import paths

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from fine_tuning.training.trainer_utils import TrainerLike

_LEAST = 1e-4  # nats: the smallest decrease of the loss that counts as an improvement


class EarlyStop(TrainerCallback):
    """Ends a training once the validation loss no longer falls, and restores the best weights.

    The loss is computed after each epoch (Prechelt, "Early Stopping - But When?", 1998). Without
    validation rows the training runs to its end. Losses and best weights are saved in `run`/best/,
    so that a resumed run ends after the same epoch as an uninterrupted one.
    """

    def __init__(self, trainer: "TrainerLike", run: Path, patience: int, most: int | None = None) -> None:
        """End after `patience` epochs without a lower validation loss, or after `most` epochs."""
        self.trainer, self.patience, self.most = trainer, patience, most
        self._weights, self._facts = run / "best" / "weights.safetensors", run / "best" / "losses.json"
        known = paths.read_json(self._facts) if self._facts.exists() else {}
        self.losses = {int(step): float(loss) for step, loss in known.items()}  # by optimiser step

    def on_epoch_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: object
    ) -> None:
        epoch = state.epoch or 0.0
        cut = abs(epoch - round(epoch)) > 1e-6  # a cancelled training ends within an epoch
        if cut or not len(self.trainer.validation_rows):
            return
        if self._judge(state.global_step):
            control.should_training_stop = True

    def is_over(self, step: int, epoch: int) -> bool:
        """Return whether the training ends after optimiser step `step`, the last step of epoch `epoch`.

        The model must have the weights of this step, since they may still have to be validated.
        """
        return bool(len(self.trainer.validation_rows)) and self._judge(step)

    def _judge(self, now: int) -> bool:
        """Return whether the training ends after optimiser step `now`.

        Unless the validation loss after this step is already known, compute and save it, and save
        the weights if they are the best so far.
        """
        if now not in self.losses:
            self.losses[now] = self.trainer.validated()
            if self.best_step == now:
                self._keep()
            paths.write_json(self._facts, self.losses)
        until = [step for step in self.losses if step <= now]
        return len(until) == self.most or sum(step > self.best_step for step in until) >= self.patience

    def on_train_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: object
    ) -> None:
        if self._weights.exists():
            self._load()

    @property
    def best_step(self) -> int:
        """The optimiser step with the lowest validation loss so far; 0 before the first validation."""
        best, lowest = 0, float("inf")
        for step, loss in sorted(self.losses.items()):
            if loss < lowest - _LEAST:
                best, lowest = step, loss
        return best

    def _trained(self) -> dict[str, torch.Tensor]:
        return {name: weight for name, weight in self.trainer.model.named_parameters() if weight.requires_grad}

    def _keep(self) -> None:
        self._weights.parent.mkdir(parents=True, exist_ok=True)
        paths.atomic_write(
            self._weights, save({name: weight.detach().cpu().contiguous() for name, weight in self._trained().items()})
        )

    @torch.no_grad()
    def _load(self) -> None:
        best = load_file(self._weights)
        for name, weight in self._trained().items():
            weight.copy_(best[name])


class EndAfter(TrainerCallback):
    """Ends a training after `epochs` epochs, even if its learning-rate schedule covers more."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: object
    ) -> None:
        if (state.epoch or 0.0) > self.epochs - 1e-6:
            control.should_training_stop = True

    def is_over(self, step: int, epoch: int) -> bool:
        return epoch >= self.epochs
