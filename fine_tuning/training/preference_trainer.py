"""Define the trainer of the last training phase, which learns people's preferences (preferences.py)."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel

from fine_tuning.config.training import Training
from fine_tuning.training.packed_trainer import PackedTrainer
from fine_tuning.training.packing import PackedBatch
from fine_tuning.training.preferences import ReferencedAnswers, pack_preferences_within, preference_loss


class PreferenceTrainer(PackedTrainer):
    """Trainer whose packed rows hold pairs of answers (DPO), or rated answers (KTO).

    Its `accuracy` is the share of items on which the model agrees with people: the chosen answer of
    a pair has the higher reward, or a rated answer has a positive reward only if people liked it.
    """

    def __init__(
        self, model: PreTrainedModel, folder: Path, settings: Training, items: Sequence[ReferencedAnswers]
    ) -> None:
        """Prepare the training. `items` must have their reference log-probabilities (`with_reference`).

        Each item is two rows, so a batch has half as many items as a batch of chats has rows.
        """
        preferences = settings.preferences
        batch_size = -(-settings.batch_size // 2)
        changes = {
            "learning_rate": preferences.learning_rate,
            "num_epochs": preferences.num_epochs,
            "batch_size": batch_size,
        }
        super().__init__(model, folder, settings.model_copy(update=changes), items, [])
        self.beta = preferences.beta

    def pack(self, rows: Sequence[object]) -> list[PackedBatch]:
        return pack_preferences_within(cast(Sequence[ReferencedAnswers], rows), self.batch_tokens)

    def loss_count(self, batch: PackedBatch) -> int:
        """Return the number of items over which the loss of a packed row is averaged: its answers."""
        return len(batch["reference"])

    def batch_loss(self, batch: PackedBatch) -> Tensor:
        loss, rewards = preference_loss(self.model, batch, self.beta, self.head)
        as_wanted = rewards[0::2] > rewards[1::2] if "wanted" not in batch else (rewards[0::2] > 0) == batch["wanted"]
        self.accuracy = as_wanted.float().mean().item()
        return loss
