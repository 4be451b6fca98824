"""The reference: TRL's own trainer on the same token rows (`training.backend: trl`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from fine_tuning.config import Training
from fine_tuning.training.packed_trainer import Backend, arguments, step_flops
from fine_tuning.training.packing import Row


class TrlTrainer(Backend, SFTTrainer):
    """TRL's SFTTrainer as it comes, on the same rows. What is replayed is learned like any other row: TRL knows no divergence."""

    def __init__(self, model: Any, folder: Path, settings: Training, rows: Sequence[Row], validation: Sequence[Row]) -> None:
        super().__init__(
            model=model,
            args=SFTConfig(
                **arguments(folder, settings, len(rows)),
                max_length=None,
                gradient_checkpointing=False,  # it saves memory for half the speed
                dataset_kwargs={"skip_prepare_dataset": True},
            ),
            train_dataset=Dataset.from_list([_labelled(row) for row in rows]),
            eval_dataset=Dataset.from_list([_labelled(row) for row in validation]),
            processing_class=_padding_only(),
        )
        self.keep_checkpoints = settings.keep_checkpoints
        self.flops = step_flops(model, settings.frozen_layers)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.model.training:
            targets, (rows, length) = int((inputs["labels"] != -100).sum()), inputs["input_ids"].shape
            self.seen_tokens += int(inputs["attention_mask"].sum())
            self.seen_flops += self.flops.of(rows * length, targets, rows * length * (length + 1) // 2)
            self.accuracy = self._metrics["train"]["mean_token_accuracy"][-1]
        return loss

    def validation_loss(self) -> float:
        """Mean loss (nats) over the validation rows."""
        with torch.random.fork_rng():
            return float(self.evaluate()["eval_loss"])


def _labelled(row: Row) -> dict[str, list[int]]:
    labels = [token if flag and index else -100 for index, (token, flag) in enumerate(zip(row.input_ids, row.trained, strict=True))]
    return {"input_ids": row.input_ids, "labels": labels}


def _padding_only() -> Any:
    """A tokenizer that knows nothing but padding, which is masked: the rows are tokens already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>")), pad_token="<pad>")
