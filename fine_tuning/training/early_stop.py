"""End a training: when the held-out conversations are no longer learned better, keeping the best weights, or after so many epochs."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from transformers import TrainerCallback

from fine_tuning import paths

_LEAST = 1e-4  # nats: less is no improvement


class EarlyStop(TrainerCallback):
    """Validates after each epoch (Prechelt, "Early Stopping - But When?", 1998). Does nothing where there are no validation rows.

    What it knows lies in `run`/best/, so that a run that was killed goes on to the same end.
    """

    def __init__(self, trainer: Any, run: Path, patience: int, most: int | None = None) -> None:
        """`patience`: epochs without a lower validation loss after which the training ends; or after `most` epochs."""
        self.trainer, self.patience, self.most = trainer, patience, most
        self._weights, self._facts = run / "best" / "weights.safetensors", run / "best" / "losses.json"
        known = paths.read_json(self._facts) if self._facts.exists() else {}
        self.losses = {int(step): float(loss) for step, loss in known.items()}  # by the step after which they were measured

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        cut = abs(state.epoch - round(state.epoch)) > 1e-6  # a cancelled training ends its epoch too
        if cut or not len(self.trainer.eval_dataset):
            return
        if self._judge(state.global_step):
            control.should_training_stop = True

    def is_over(self, step: int, epoch: int) -> bool:
        """The same of a checkpoint that was saved at the end of an epoch, which is now in the model."""
        return bool(len(self.trainer.eval_dataset)) and self._judge(step)

    def _judge(self, now: int) -> bool:
        if now not in self.losses:
            self.losses[now] = self.trainer.validated()
            if self.best_step == now:
                self._keep()
            paths.write_json(self._facts, self.losses)
        until = [step for step in self.losses if step <= now]
        return len(until) == self.most or sum(step > self.best_step for step in until) >= self.patience

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._weights.exists():
            self._load()

    @property
    def best_step(self) -> int:
        """The last step that improved on all before it; 0 before the first."""
        best, lowest = 0, float("inf")
        for step, loss in sorted(self.losses.items()):
            if loss < lowest - _LEAST:
                best, lowest = step, loss
        return best

    def _trained(self) -> dict[str, torch.Tensor]:
        return {name: weight for name, weight in self.trainer.model.named_parameters() if weight.requires_grad}

    def _keep(self) -> None:
        self._weights.parent.mkdir(parents=True, exist_ok=True)
        paths.atomic_write(self._weights, save({name: weight.detach().cpu().contiguous() for name, weight in self._trained().items()}))

    @torch.no_grad()
    def _load(self) -> None:
        best = load_file(self._weights)
        for name, weight in self._trained().items():
            weight.copy_(best[name])


class EndAfter(TrainerCallback):
    """Ends the training after `epochs`, with the learning rate still on its way to more of them."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.epoch > self.epochs - 1e-6:
            control.should_training_stop = True

    def is_over(self, step: int, epoch: int) -> bool:
        return epoch >= self.epochs
