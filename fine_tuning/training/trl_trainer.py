"""Train with TRL's trainer on the same token rows, as a reference for PackedTrainer (`training.backend: trl`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from fine_tuning.config.training import Training
from fine_tuning.training.packing import TokenRow
from fine_tuning.training.trainer import ResumableTrainer, arguments, step_flops


class TrlTrainer(ResumableTrainer, SFTTrainer):
    """TRL's SFTTrainer with its own loss, on token rows.

    Replay rows are learned like all other rows, since TRL's loss does not support the divergence
    from the base (loss.py).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        folder: Path,
        settings: Training,
        rows: Sequence[TokenRow],
        validation: Sequence[TokenRow],
    ) -> None:
        super().__init__(
            model=model,
            args=SFTConfig(
                **arguments(folder, settings, len(rows)),
                max_length=None,
                gradient_checkpointing=False,  # would save memory but halve the speed
                dataset_kwargs={"skip_prepare_dataset": True},
            ),
            train_dataset=Dataset.from_list([_labelled(row) for row in rows]),
            eval_dataset=Dataset.from_list([_labelled(row) for row in validation]),
            processing_class=_padding_only(),
        )
        self.keep_checkpoints = settings.keep_checkpoints
        self.flops = step_flops(model)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: object = None,
    ) -> "Tensor | tuple[Tensor, Any]":
        loss: Tensor = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[no-untyped-call]
        if self.model.training:
            targets, (rows, length) = int((inputs["labels"] != -100).sum()), inputs["input_ids"].shape
            self.seen_tokens += int(inputs["attention_mask"].sum())
            self.seen_flops += self.flops.of(rows * length, targets, rows * length * (length + 1) // 2)
            self.accuracy = self._metrics["train"]["mean_token_accuracy"][-1]
        return loss

    def validation_loss(self) -> float:
        """Return the loss (nats) over the validation rows, as TRL averages it."""
        with torch.random.fork_rng():
            return float(self.evaluate()["eval_loss"])


def _labelled(row: TokenRow) -> dict[str, list[int]]:
    """Return the row in TRL's format; the label -100 marks a token without loss."""
    labels = [
        token if flag and index else -100
        for index, (token, flag) in enumerate(zip(row.input_ids, row.trained, strict=True))
    ]
    return {"input_ids": row.input_ids, "labels": labels}


def _padding_only() -> PreTrainedTokenizerFast:
    """Return a tokenizer that only pads, since the rows are already tokens."""
    from tokenizers import Tokenizer, models

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>")), pad_token="<pad>"
    )
