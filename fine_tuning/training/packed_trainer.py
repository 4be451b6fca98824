"""Define the default trainer, which computes one packed row (packing.py) per forward and backward pass.

It overrides the few methods of Transformers' Trainer that are slow for small models.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments

from fine_tuning.config.training import Training
from fine_tuning.training.fast.fused import fuse, outside
from fine_tuning.training.loss import packed_loss, plain_head
from fine_tuning.training.packing import PackedBatch, TokenRow, pack_within
from fine_tuning.training.trainer import ResumableTrainer, arguments, step_flops

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.utils.data import Dataset


class PackedTrainer(ResumableTrainer):
    """Trainer whose batches are packed rows of at most `training.batch_tokens` tokens each."""

    def __init__(
        self,
        model: PreTrainedModel,
        folder: Path,
        settings: Training,
        rows: Sequence[object],
        validation: Sequence[object],
    ) -> None:
        """Prepare the training. `rows` and `validation` hold items that `pack` accepts."""
        self.batch_tokens = settings.batch_tokens
        super().__init__(
            model=model,
            args=TrainingArguments(**arguments(folder, settings, len(rows))),
            train_dataset=cast("Dataset[object]", rows),  # a sequence is all that a sampler needs
            eval_dataset=cast("Dataset[object]", validation),
            data_collator=cast("Callable[[list[object]], dict[str, object]]", self.pack),
        )
        self.adapters = fuse(self.model) if settings.fused else None  # after the Trainer has moved the weights
        self.head = plain_head(self.model)
        of_adapters = [self.adapters.weights] if self.adapters else []
        self.trained = of_adapters + outside(self.model, self.adapters)
        self.kl_weight, self.keep_checkpoints = settings.replay.kl_weight, settings.keep_checkpoints
        self.flops = step_flops(model)

    def pack(self, rows: Sequence[object]) -> list[PackedBatch]:
        """Pack the rows of a batch; return packed rows of at most `batch_tokens` tokens each."""
        return pack_within(cast(Sequence[TokenRow], rows), self.batch_tokens)

    def loss_count(self, batch: PackedBatch) -> int:
        """Return the number of items over which the loss of a packed row is averaged: its supervised tokens."""
        return len(batch["shift_labels"])

    def batch_loss(self, batch: PackedBatch) -> Tensor:
        """Return the mean loss of a packed row; set `accuracy` to the share of its tokens predicted correctly."""
        loss, hits = packed_loss(self.model, batch, self.kl_weight, self.head)
        self.accuracy = int(hits) / max(len(batch["shift_labels"]), 1)
        return loss

    def create_optimizer(self, model: PreTrainedModel | None = None) -> "Optimizer":
        if self.optimizer is None and self.adapters is not None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = kind([{"params": self.trained, "weight_decay": self.args.weight_decay}], **settings)
        optimizer: Optimizer = super().create_optimizer(model)
        return optimizer

    # Transformers' own versions of these methods iterate over a thousand modules in each step.

    def training_step(self, model: nn.Module, inputs: object, num_items_in_batch: object = None) -> Tensor:
        """Compute the gradients of a step, one packed row at a time; return the step's mean loss.

        `inputs` is a list of packed rows. Also set `accuracy` to the accuracy of the whole step.
        """
        if not model.training:
            model.train()
        batches = cast(list[PackedBatch], inputs)
        whole = max(sum(map(self.loss_count, batches)), 1)
        total, right = torch.zeros((), device=self.args.device), 0.0
        for batch in _dropping(batches):
            share = self.loss_count(batch) / whole
            prepared = self._on_device(batch)
            loss = self.batch_loss(prepared) * share
            self._count(prepared)
            self.accelerator.backward(loss)
            total, right = total + loss.detach(), right + share * self.accuracy
        self.accuracy = right
        return total

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        gradients = [each.grad for each in self.trained if each.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        if norm > self.args.max_grad_norm:  # else nothing changes
            nn.utils.clip_grads_with_norm_(self.trained, self.args.max_grad_norm, norm, foreach=True)
        return norm

    def floating_point_ops(self, inputs: Mapping[str, object]) -> int:
        """Return 0, so that Transformers does not count operations; `seen_flops` is a more exact count."""
        return 0

    def _count(self, batch: PackedBatch) -> None:
        """Add a packed row to `seen_tokens` and `seen_flops`."""
        self.seen_tokens += int(batch["tokens"])
        positions = batch["position_ids"]  # a token at position p attends to p others and itself
        scores = int(positions.sum()) + positions.numel()
        self.seen_flops += self.flops.of(positions.numel(), len(batch["shift_labels"]), scores)

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Return the mean loss (nats) over the supervised tokens of the validation rows.

        Also set `validation_accuracy`, the share of these tokens that the model predicted
        correctly.
        """
        self.model.eval()
        total, hits, count = 0.0, 0, 0
        with torch.random.fork_rng():  # validation must not change the training's random numbers
            for batch in chain.from_iterable(map(_dropping, self.get_eval_dataloader())):
                batch = self._on_device(batch)
                loss, likeliest = packed_loss(self.model, batch, head=self.head)
                total += loss.item() * len(batch["shift_labels"])
                hits, count = hits + int(likeliest), count + len(batch["shift_labels"])
        self.model.train()
        self.validation_accuracy = hits / max(count, 1)
        return total / max(count, 1)

    def _on_device(self, batch: PackedBatch) -> PackedBatch:
        return cast(PackedBatch, self._prepare_inputs(cast("dict[str, Tensor]", batch)))


def _dropping(batches: list[PackedBatch]) -> Iterator[PackedBatch]:
    """Yield the batches in order, and remove each from the list before yielding it.

    A batch's layout caches tensors for attention. They are freed before the next batch is computed,
    since the list no longer holds the batch.
    """
    while batches:
        yield batches.pop(0)
