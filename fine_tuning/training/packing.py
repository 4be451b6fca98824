"""A batch becomes one row: a prefix tree of its conversations, each shared token computed once.

Conversations of one deployment share their head (system prompt, template), those of one session share whole turns. The tree is laid out
depth first in one row; a token sees its ancestors and itself (a boolean mask), and its position is its depth. Attention is then
exactly that of one conversation a row without padding, and so are the loss and its gradients (tests/training/test_packing.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from fine_tuning.training.tree_attention import blocks


@dataclass
class Row:
    """One conversation in tokens. `trained[i]` says whether token i carries loss; token 0 never does (nothing predicts it)."""

    input_ids: list[int]
    trained: list[bool]
    teacher: tuple[Tensor, Tensor] | None = None  # top-k ids and log-probabilities of the base for each trained token: [n, k] each

    def targets(self) -> list[int]:
        """Indices of the tokens that carry loss."""
        return [index for index in range(1, len(self.input_ids)) if self.trained[index]]


@dataclass
class _Tree:
    """The layout while it is built. `paths[r][i]` is where token i of row r lies in the packed row."""

    rows: Sequence[Row]
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)  # the node of each packed token
    parents: list[int] = field(default_factory=list)  # of each node; -1 above a root
    paths: dict[int, list[int]] = field(default_factory=dict)

    def grow(self, members: list[int], depth: int, parent: int, path: list[int]) -> None:
        """Lay out the rows `members`, which agree on their first `depth` tokens, under node `parent`."""
        first, last = self.rows[members[0]].input_ids, self.rows[members[-1]].input_ids
        end = depth  # members are sorted, so what the first and the last share, all share
        while end < len(first) and end < len(last) and first[end] == last[end]:
            end += 1
        node = len(self.parents)
        self.parents.append(parent)
        here = path + list(range(len(self.tokens), len(self.tokens) + end - depth))
        self.tokens += first[depth:end]
        self.positions += range(depth, end)
        self.nodes += [node] * (end - depth)
        self.paths.update({member: here for member in members if len(self.rows[member].input_ids) == end})
        longer = [member for member in members if len(self.rows[member].input_ids) > end]
        for _, branch in groupby(longer, key=lambda member: self.rows[member].input_ids[end]):
            self.grow(list(branch), end, node, here)

    def mask(self) -> Tensor:
        """[T, T], True where the query (row) sees the key (column)."""
        ancestors = torch.eye(len(self.parents), dtype=torch.bool)
        for node, parent in enumerate(self.parents):  # parents come before their children
            if parent >= 0:
                ancestors[node] |= ancestors[parent]
        nodes = torch.tensor(self.nodes)
        return ancestors[nodes][:, nodes].tril()


def pack(rows: Sequence[Row]) -> dict[str, Any]:
    """One packed row from conversations.

    Returns `input_ids`, `position_ids` [1, T], `attention_mask` [1, 1, T, T] (bool), `blocks` (tree_attention.py: the same, for the
    attention that needs no mask), `predictors` [N] (where the logits of each
    supervised token are taken) and `shift_labels` [N] (that token). With replay rows also `replayed` [N] (bool), `teacher_ids` and
    `teacher_logprobs` [M, k] for the M replayed ones, in order. `tokens` (1 number) counts the conversations' tokens before sharing.
    """
    order = sorted(range(len(rows)), key=lambda index: rows[index].input_ids)
    tree = _Tree(rows)
    tree.grow(order, 0, -1, [])
    targets = [(row, tree.paths[index], target) for index, row in enumerate(rows) for target in row.targets()]
    batch = {
        "input_ids": torch.tensor([tree.tokens]),
        "position_ids": torch.tensor([tree.positions]),
        "attention_mask": (mask := tree.mask())[None, None],
        "blocks": blocks([tree.paths[index] for index in order], len(tree.tokens), mask),
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


def supervised_logits(model: torch.nn.Module, batch: dict[str, Any]) -> Tensor:
    """[N, vocabulary] in fp32: logits for the supervised tokens only."""
    output = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=batch["attention_mask"],
        blocks=batch["blocks"],
        logits_to_keep=batch["predictors"],
        use_cache=False,
    )
    return output.logits[0].float()


def packed_loss(model: torch.nn.Module, batch: dict[str, Any], kl_weight: float = 1.0) -> tuple[Tensor, Tensor]:
    """Mean loss over the batch's supervised tokens: cross-entropy for what is learned, divergence from the base for what is kept.

    The divergence is KL(base || model) over the base's k likeliest tokens and one bucket for all the others. Also returns how many of the
    supervised tokens are the model's likeliest (1 number, no gradient).
    """
    replayed = batch.get("replayed", torch.zeros_like(batch["shift_labels"], dtype=torch.bool))
    teacher = (batch.get("teacher_ids"), batch.get("teacher_logprobs"))
    return _Loss.apply(supervised_logits(model, batch), batch["shift_labels"], replayed, *teacher, kl_weight)


class _Loss(torch.autograd.Function):
    """The loss, and its gradient already in the forward pass: of the large [N, vocabulary] tensors only that gradient is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        replayed: Tensor,
        teacher_ids: Tensor | None,
        teacher_logprobs: Tensor | None,
        kl_weight: float,
    ) -> tuple[Tensor, Tensor]:
        count = max(len(labels), 1)
        best = logits.max(dim=-1)
        hits = (best.indices == labels).sum()
        gradient = torch.softmax(logits, dim=-1)
        # The log-sum-exp without another pass: the likeliest token's probability is never too small for its logarithm.
        normaliser = best.values - gradient.gather(1, best.indices[:, None])[:, 0].log()
        entropy = normaliser - logits.gather(1, labels[:, None])[:, 0]
        total = entropy[~replayed].sum()
        gradient[torch.arange(len(labels), device=labels.device), labels] -= (~replayed).to(gradient.dtype)
        if teacher_ids is not None and teacher_logprobs is not None:
            rows = replayed.nonzero()[:, 0]
            divergence, slope = _divergence(gradient[rows], teacher_ids, teacher_logprobs.exp())
            total = total + kl_weight * divergence.sum()
            gradient[rows] = kl_weight * slope
        ctx.save_for_backward(gradient)
        ctx.count = count
        ctx.mark_non_differentiable(hits)
        return total / count, hits

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * (outer[0] / ctx.count), None, None, None, None, None


def _divergence(p: Tensor, ids: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """KL(teacher || p) [M], and its gradient by the logits [M, V], where `p` [M, V] are the model's probabilities and `teacher` [M, k]
    those of the base for the tokens `ids`; what is left of both is one bucket."""
    kept = p.gather(1, ids)
    rest, rest_teacher = ((1 - part.sum(dim=1)).clamp(min=1e-6) for part in (kept, teacher))
    divergence = (teacher * (teacher.clamp(min=1e-12) / kept.clamp(min=1e-12)).log()).sum(dim=1) + rest_teacher * (
        rest_teacher / rest
    ).log()
    # d/dz_j: p_j - t_j for a kept token, p_j - t_rest * p_j / p_rest for any other.
    slope = p * (1 - rest_teacher / rest)[:, None]
    return divergence, slope.scatter(1, ids, kept - teacher)
