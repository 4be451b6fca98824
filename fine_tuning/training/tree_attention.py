"""Attention over a packed row (packing.py): each conversation's own tokens against the path that leads to them, and nothing else.

SDPA with a mask multiplies all T x T scores of a row, of which most belong to other conversations. Here the B conversations lie side by
side, padded to the longest: B x (own tokens) x (path), which for eight chats is a tenth of it. Keys and values of heads that share them
(grouped queries, arXiv 2305.13245) are not repeated, and the scores are computed again in the backward pass instead of kept (arXiv
2205.14135). Vectors go to their places and back in one copy each. Where rows are so unlike that the padding would be more than T x T, one
block holds them all.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

NAME = "byoai_tree"  # the attention's, in Transformers


def blocks(paths: Sequence[Sequence[int]], tokens: int, mask: Tensor) -> dict[str, Tensor]:
    """How a packed row of `tokens` is laid side by side, from the conversations' paths, in the tree's order; `mask` [T, T]: who sees whom.

    Returns `queries` [B, Q] and `keys` [B, K]: places in the row; `hidden` [B, Q, K]: True where a query must not see a key; `places` [T]:
    where each token lies among the B * Q queries. Padding points to place 0, and is never looked at.
    """
    found: list[tuple[int, Sequence[int]]] = []  # how much of a path others own, and the path
    seen = 0
    for path in paths:
        start = next((index for index, place in enumerate(path) if place >= seen), len(path))
        if start < len(path):
            found.append((start, path))
            seen = path[-1] + 1
    most_own, longest = max(len(path) - start for start, path in found), max(len(path) for _, path in found)
    if len(found) * most_own * longest >= tokens**2:
        row = torch.arange(tokens)
        return {"queries": row[None], "keys": row[None], "hidden": ~mask[None], "places": row}
    queries, keys = torch.zeros(len(found), most_own, dtype=torch.long), torch.zeros(len(found), longest, dtype=torch.long)
    places = torch.zeros(tokens, dtype=torch.long)
    for index, (start, path) in enumerate(found):
        own = torch.tensor(path[start:])
        queries[index, : len(own)], keys[index, : len(path)] = own, torch.tensor(path)
        places[own] = index * most_own + torch.arange(len(own))
    starts = torch.tensor([start for start, _ in found])
    hidden = torch.arange(longest)[None, None] > (starts[:, None] + torch.arange(most_own))[:, :, None]
    return {"queries": queries, "keys": keys, "hidden": hidden, "places": places}


def register() -> str:
    """Make the attention known to Transformers; its name. Without `blocks` it is SDPA."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, tree_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def tree_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    blocks: dict[str, Tensor] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface: `query` [1, heads, T, D], `key` and `value` [1, fewer heads, T, D]; returns [1, T, heads, D]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if blocks is None or dropout or kwargs.get("softcap") is not None or value.shape[-1] != query.shape[-1]:
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return result
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    rows = torch.cat([each[0].transpose(0, 1) for each in (query, key, value)], dim=1)
    return _TreeAttention.apply(rows, key.shape[1], scale, blocks).view(1, rows.shape[0], -1, rows.shape[2]), None


class _TreeAttention(torch.autograd.Function):
    """`attend` for models whose attention is not fused."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, groups: int, scale: float, blocks: dict[str, Tensor]) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.about = groups, scale, blocks
        return attend(rows, groups, scale, blocks)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return attend_backward(ctx.saved_tensors[0], outer[0], *ctx.about), None, None, None


def attend(rows: Tensor, groups: int, scale: float, blocks: dict[str, Tensor]) -> Tensor:
    """[T, heads * D] of `rows` [T, heads + 2 * groups, D]: each token's queries, keys and values; heads / groups queries share a key."""
    heads = rows.shape[1] - 2 * groups
    queries, keys, values, places = _order(blocks, heads, groups)
    flat = rows.view(-1, rows.shape[2])
    weights = _weights(_take(flat, queries), _take(flat, keys), scale, blocks["hidden"])
    found = torch.bmm(weights, _take(flat, values))
    return found.view(-1, rows.shape[2]).index_select(0, places).view(len(rows), -1)


def attend_backward(rows: Tensor, d_out: Tensor, groups: int, scale: float, blocks: dict[str, Tensor]) -> Tensor:
    """The gradient by `rows`, of the gradient `d_out` [T, heads * D] by what `attend` gave."""
    heads, size = rows.shape[1] - 2 * groups, rows.shape[2]
    queries, keys, values, places = _order(blocks, heads, groups)
    flat = rows.view(-1, size)
    q, k, v = (_take(flat, each) for each in (queries, keys, values))
    weights = _weights(q, k, scale, blocks["hidden"])
    d_found = flat.new_zeros(queries.numel(), size).index_copy_(0, places, d_out.reshape(-1, size)).view(q.shape)
    d_scores = torch._softmax_backward_data(torch.bmm(d_found, v.transpose(1, 2)), weights, -1, weights.dtype).mul_(scale)
    d_rows = torch.empty_like(rows)
    d_rows[:, :heads] = torch.bmm(d_scores, k).view(-1, size).index_select(0, places).view(len(rows), heads, size)
    order = (blocks["keys"][:, None] * groups + torch.arange(groups, device=rows.device)[:, None]).view(-1)
    for part, each, other in ((slice(heads, heads + groups), d_scores, q), (slice(heads + groups, None), weights, d_found)):
        summed = torch.bmm(each.transpose(1, 2), other).view(-1, size)
        # Index by index the fastest sum that there is on a CPU.
        d_rows[:, part] = torch.ops.aten.embedding_dense_backward(summed, order, len(rows) * groups, -1, False).view(-1, groups, size)
    return d_rows


def _order(blocks: dict[str, Tensor], heads: int, groups: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where queries [B, groups, Q, heads / groups], keys and values [B, groups, K] lie among the T * (heads + 2 * groups) vectors of a
    packed row, and [T * heads] where among the queries each token's are."""
    device, width, shared = blocks["queries"].device, heads + 2 * groups, heads // groups
    group, each = torch.arange(groups, device=device), torch.arange(shared, device=device)
    queries = (blocks["queries"] * width)[:, None, :, None] + (group[:, None, None] * shared + each)
    keys = (blocks["keys"] * width)[:, None] + (heads + group[:, None])
    count = blocks["queries"].shape[1]
    block, place = blocks["places"].div(count, rounding_mode="floor"), blocks["places"] % count
    places = ((block[:, None] * groups + group) * count + place[:, None])[:, :, None] * shared + each
    return queries, keys, keys + groups, places.view(-1)


def _take(flat: Tensor, order: Tensor) -> Tensor:
    """[B * groups, what remains, D]: of `flat` [n, D] those in `order` [B, groups, ...]."""
    return flat.index_select(0, order.view(-1)).view(order.shape[0] * order.shape[1], -1, flat.shape[1])


def _weights(q: Tensor, k: Tensor, scale: float, hidden: Tensor) -> Tensor:
    """softmax(scale q k^T) [B * groups, Q * R, K], nothing where a key is hidden [B, Q, K]."""
    scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scale)
    batch, queries, keys = hidden.shape
    scores.view(batch, -1, queries, q.shape[1] // queries, keys).masked_fill_(hidden[:, None, :, None], float("-inf"))
    return torch.softmax(scores, dim=-1)
