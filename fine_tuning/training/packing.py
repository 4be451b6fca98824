"""A batch becomes one row: a prefix tree of its conversations, each shared token computed once.

Conversations of one deployment share their head (system prompt, template), those of one session share whole turns. The tree is laid out
depth first in one row; a token sees its ancestors and itself (a boolean mask), and its position is its depth. Attention is then
exactly that of one conversation a row without padding, and so are the loss and its gradients (tests/training/test_packing.py).
Tokens that no loss depends on, a row's last one at least, are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from fine_tuning.training.memory import divide
from fine_tuning.training.tree_attention import Layout


@dataclass
class Row:
    """One conversation in tokens. `trained[i]` says whether token i carries loss; token 0 never does (nothing predicts it)."""

    input_ids: list[int]
    trained: list[bool]
    teacher: tuple[Tensor, Tensor] | None = None  # top-k ids and log-probabilities of the base for each trained token: [n, k] each

    def targets(self) -> list[int]:
        """Indices of the tokens that carry loss."""
        return [index for index in range(1, len(self.input_ids)) if self.trained[index]]

    def computed(self) -> list[int]:
        """The tokens that a loss depends on: those before the last that carries it."""
        return self.input_ids[: max(self.targets(), default=1)]


@dataclass
class _Tree:
    """The layout while it is built. `paths[r][i]` is where token i of row r lies in the packed row."""

    rows: Sequence[list[int]]
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)  # the node of each packed token
    parents: list[int] = field(default_factory=list)  # of each node; -1 above a root
    paths: dict[int, list[int]] = field(default_factory=dict)

    def grow(self, members: list[int], depth: int, parent: int, path: list[int]) -> None:
        """Lay out the rows `members`, which agree on their first `depth` tokens, under node `parent`."""
        first, last = self.rows[members[0]], self.rows[members[-1]]
        end = depth  # members are sorted, so what the first and the last share, all share
        while end < len(first) and end < len(last) and first[end] == last[end]:
            end += 1
        node = len(self.parents)
        self.parents.append(parent)
        here = path + list(range(len(self.tokens), len(self.tokens) + end - depth))
        self.tokens += first[depth:end]
        self.positions += range(depth, end)
        self.nodes += [node] * (end - depth)
        self.paths.update({member: here for member in members if len(self.rows[member]) == end})
        longer = [member for member in members if len(self.rows[member]) > end]
        for _, branch in groupby(longer, key=lambda member: self.rows[member][end]):
            self.grow(list(branch), end, node, here)

    def mask(self) -> Tensor:
        """[T, T], True where the query (row) sees the key (column)."""
        ancestors = torch.eye(len(self.parents), dtype=torch.bool)
        for node, parent in enumerate(self.parents):  # parents come before their children
            if parent >= 0:
                ancestors[node] |= ancestors[parent]
        nodes = torch.tensor(self.nodes)
        return ancestors[nodes][:, nodes].tril()


def pack_within(rows: Sequence[Row], tokens: int) -> list[dict[str, Any]]:
    """Packed rows of at most `tokens` tokens each; a longer conversation is one alone. What shares its head stays together."""
    ordered = sorted(rows, key=lambda row: row.computed())
    return [pack(ordered[part]) for part in divide([row.computed() for row in ordered], tokens)]


def pack(rows: Sequence[Row]) -> dict[str, Any]:
    """One packed row from conversations.

    Returns `input_ids`, `position_ids` [1, T], `attention_mask` [1, 1, T, T] (bool), `layout` (the same, for the attention that needs no
    mask), `predictors` [N] (where the logits of each supervised token are taken) and `shift_labels` [N] (that token). With replay rows
    also `replayed` [N] (bool), `teacher_ids` and `teacher_logprobs` [M, k] for the M replayed ones, in order. `tokens` (1 number) counts
    the conversations' tokens before sharing.
    """
    tree = _Tree([row.computed() for row in rows])
    order = sorted(range(len(rows)), key=lambda index: tree.rows[index])
    tree.grow(order, 0, -1, [])
    targets = [(row, tree.paths[index], target) for index, row in enumerate(rows) for target in row.targets()]
    batch = {
        "input_ids": torch.tensor([tree.tokens]),
        "position_ids": torch.tensor([tree.positions]),
        "attention_mask": tree.mask()[None, None],
        "layout": Layout([tree.paths[index] for index in order]),
        "predictors": torch.tensor([path[target - 1] for _, path, target in targets], dtype=torch.long),
        "shift_labels": torch.tensor([row.input_ids[target] for row, _, target in targets], dtype=torch.long),
        "tokens": torch.tensor(sum(len(row.input_ids) for row in rows)),
    }
    teachers = [row.teacher for row in rows if row.teacher is not None]
    if teachers:
        batch["replayed"] = torch.tensor([row.teacher is not None for row, _, _ in targets])
        batch["teacher_ids"] = torch.cat([ids for ids, _ in teachers])
        batch["teacher_logprobs"] = torch.cat([logprobs for _, logprobs in teachers])
    return batch
