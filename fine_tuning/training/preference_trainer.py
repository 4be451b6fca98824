"""The second part of a curriculum: after the chats, what people preferred among answers (preferences.py)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from fine_tuning.config import Training
from fine_tuning.training.packed_trainer import PackedTrainer
from fine_tuning.training.preferences import Preference, pack_preferences_within, preference_loss


class PreferenceTrainer(PackedTrainer):
    """Trainer with one packed row a batch, of pairs or of ratings. Its accuracy: the share that the model now prefers as people did."""

    def __init__(self, model: Any, folder: Path, settings: Training, items: Sequence[Preference]) -> None:
        """`items` with their reference (`with_reference`). Each is two rows, so a batch holds half as many of them as of chats."""
        wanted = settings.preferences
        changes = {"learning_rate": wanted.learning_rate, "num_epochs": wanted.num_epochs, "batch_size": -(-settings.batch_size // 2)}
        super().__init__(model, folder, settings.model_copy(update=changes), items, [])
        self.data_collator, self.beta = partial(pack_preferences_within, tokens=settings.batch_tokens), wanted.beta

    def tokens_of(self, rows: Sequence[Any]) -> int:
        return sum(len(row.input_ids) for item in rows for row in item.rows())

    def weight(self, part: dict[str, Tensor]) -> int:
        return len(part["reference"])

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None) -> Tensor:
        loss, rewards = preference_loss(model, inputs, self.beta, self.head)
        self.count(inputs)
        as_wanted = rewards[0::2] > rewards[1::2] if "wanted" not in inputs else (rewards[0::2] > 0) == inputs["wanted"]
        self.accuracy = as_wanted.float().mean().item()
        return loss
