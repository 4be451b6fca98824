"""A batch becomes one row: a prefix tree of its conversations, each shared token computed once.

Conversations of one deployment share their head (system prompt, template), those of one session share whole turns. The tree is laid out
depth first in one row; a token sees its ancestors and itself (a boolean mask), and its position is its depth. Attention is then
exactly that of one conversation a row without padding, and so are the loss and its gradients (tests/training/test_packing.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor


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


def pack(rows: Sequence[Row]) -> dict[str, Tensor]:
    """One packed row from conversations.

    Returns `input_ids`, `position_ids` [1, T], `attention_mask` [1, 1, T, T] (bool), `predictors` [N] (where the logits of each
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
        "attention_mask": tree.mask()[None, None],
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


def supervised_logits(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """[N, vocabulary] in fp32: logits for the supervised tokens only."""
    output = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=batch["attention_mask"],
        logits_to_keep=batch["predictors"],
        use_cache=False,
    )
    return output.logits[0].float()


def packed_loss(model: torch.nn.Module, batch: dict[str, Tensor], kl_weight: float = 1.0) -> Tensor:
    """Mean loss over the batch's supervised tokens: cross-entropy for what is learned, divergence from the base for what is kept."""
    logprobs = torch.log_softmax(supervised_logits(model, batch), dim=-1)
    gathered = -logprobs.gather(1, batch["shift_labels"][:, None])[:, 0]
    if "replayed" not in batch:
        return gathered.mean()
    replayed = batch["replayed"]
    divergence = kl_weight * _divergence(logprobs[replayed], batch["teacher_ids"], batch["teacher_logprobs"])
    return (gathered[~replayed].sum() + divergence.sum()) / len(gathered)


def _divergence(logprobs: Tensor, ids: Tensor, teacher: Tensor) -> Tensor:
    """KL(base || model) [M], over the base's k likeliest tokens and one bucket for all the others."""
    kept = logprobs.gather(1, ids)
    rest = [torch.log1p(-part.exp().sum(dim=1).clamp(max=1 - 1e-6)) for part in (teacher, kept)]
    return (teacher.exp() * (teacher - kept)).sum(dim=1) + rest[0].exp() * (rest[0] - rest[1])
