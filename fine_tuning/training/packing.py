"""Pack a batch into one row: the prefix tree of its conversations, where shared tokens are computed once.

Conversations of one deployment begin with the same tokens (system prompt, template), and
conversations of one session share whole turns. The tree is laid out depth first in one row. A token
attends to its ancestors and itself (a boolean mask), and its position is its depth. Attention, loss
and gradients are then exactly the same as with separate rows, one for each conversation, without
padding (tests/training/test_packing.py). Tokens that no loss depends on are left out: at least the
last of each conversation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from fine_tuning.training.fast.tree_attention import Layout
from fine_tuning.training.prefix_tree import PrefixTree, divide


@dataclass
class TokenRow:
    """One tokenized conversation, or a variant of one, as the trainers use it.

    `trained[i]` says whether token i counts in the loss; token 0 never does, since nothing
    predicts it.
    """

    input_ids: list[int]
    trained: list[bool]
    # for replay rows: the base's k likeliest tokens and their log-probabilities, each [n, k] for n trained tokens
    teacher: tuple[Tensor, Tensor] | None = None
    origin: str = ""  # id of the conversation that the row comes from, also for a variant; "" if unknown

    def targets(self) -> list[int]:
        """Return the indices of the tokens that count in the loss."""
        return [index for index in range(1, len(self.input_ids)) if self.trained[index]]

    def computed(self) -> list[int]:
        """Return the tokens on which the loss depends: all before the last one that counts in it."""
        return self.input_ids[: max(self.targets(), default=1)]


class PackedBatch(TypedDict):
    """One packed row of T tokens, and the N supervised tokens that it predicts."""

    input_ids: Tensor  # [1, T]
    position_ids: Tensor  # [1, T]
    attention_mask: Tensor  # [1, 1, T, T], True where the query (row) attends to the key (column)
    layout: Layout  # the same information as the mask, for tree attention
    predictors: Tensor  # [N]: index of the token whose logits predict each supervised token
    shift_labels: Tensor  # [N]: the supervised tokens
    tokens: Tensor  # a single number: the tokens of all conversations, before sharing
    replayed: NotRequired[Tensor]  # [N], bool: whether a token belongs to a replay row; M of them do
    teacher_ids: NotRequired[Tensor]  # [M, k]: the base's most likely tokens
    teacher_logprobs: NotRequired[Tensor]  # [M, k]: their log-probabilities
    # The rest is for preferences only (preferences.py).
    answers: NotRequired[Tensor]  # [N]: index of the answer that each supervised token belongs to
    reference: NotRequired[Tensor]  # [R]: log-probability of each answer under the reference model
    wanted: NotRequired[Tensor]  # [R / 2], bool: whether people liked the answer; single ratings only


def pack_within(rows: Sequence[TokenRow], tokens: int) -> list[PackedBatch]:
    """Return packed rows of at most `tokens` tokens each; a longer conversation gets a packed row of its own.

    `rows` are sorted by their tokens first, so that rows with a common beginning are packed
    together.
    """
    ordered = sorted(rows, key=lambda row: row.computed())
    return [pack(ordered[part]) for part in divide([row.computed() for row in ordered], tokens)]


def pack(rows: Sequence[TokenRow]) -> PackedBatch:
    """Return one packed row of all `rows`, in which tokens that they share at their beginning occur once."""
    tree = PrefixTree.lay_out([row.computed() for row in rows])
    targets = [(row, tree.paths[index], target) for index, row in enumerate(rows) for target in row.targets()]
    batch = PackedBatch(
        input_ids=torch.tensor([tree.tokens]),
        position_ids=torch.tensor([tree.positions]),
        attention_mask=_mask(tree)[None, None],
        layout=Layout([tree.paths[index] for index in tree.order]),
        predictors=torch.tensor([path[target - 1] for _, path, target in targets], dtype=torch.long),
        shift_labels=torch.tensor([row.input_ids[target] for row, _, target in targets], dtype=torch.long),
        tokens=torch.tensor(sum(len(row.input_ids) for row in rows)),
    )
    teachers = [row.teacher for row in rows if row.teacher is not None]
    if teachers:
        batch["replayed"] = torch.tensor([row.teacher is not None for row, _, _ in targets])
        batch["teacher_ids"] = torch.cat([ids for ids, _ in teachers])
        batch["teacher_logprobs"] = torch.cat([logprobs for _, logprobs in teachers])
    return batch


def _mask(tree: PrefixTree) -> Tensor:
    """Return the attention mask [T, T], True where the query (row) attends to the key (column)."""
    ancestors = torch.eye(len(tree.parents), dtype=torch.bool)
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            ancestors[node] |= ancestors[parent]
    nodes = torch.tensor(tree.nodes)
    return ancestors[nodes][:, nodes].tril()
