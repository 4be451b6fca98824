"""Attention over a packed row (packing.py): each conversation's own tokens against the path that leads to them, and nothing else.

SDPA with a mask multiplies all T x T scores of a row, of which most belong to other conversations. Here the B conversations lie side by
side, padded to the longest: B x (own tokens) x (path), which for eight chats is a tenth of it. Keys and values of heads that share them
(grouped queries, arXiv 2305.13245) are not repeated, and the scores are computed again in the backward pass instead of kept (arXiv
2205.14135). Where rows are so unlike that the padding would be more than T x T, one block holds them all.
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

    if blocks is None or dropout or kwargs.get("softcap") is not None:
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return result
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    rows = (each[0].transpose(0, 1) for each in (query, key, value))
    order = (blocks[name] for name in ("queries", "keys", "hidden", "places"))
    return _TreeAttention.apply(*rows, scale, *order)[None], None


class _TreeAttention(torch.autograd.Function):
    """[T, H, D] of `query` [T, H, D], `key` and `value` [T, G, D], where H / G queries share a key."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, queries: Tensor, keys: Tensor, hidden: Tensor, places: Tensor
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, queries, keys, hidden, places)
        ctx.scale = scale
        groups = key.shape[1]
        weights = _weights(_take(query, queries, groups), _take(key, keys, groups), scale, hidden)
        return _give(torch.bmm(weights, _take(value, keys, groups)), len(queries), query.shape)[places]

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, queries, keys, hidden, places = ctx.saved_tensors
        groups, batch = key.shape[1], len(queries)
        q, k, v = _take(query, queries, groups), _take(key, keys, groups), _take(value, keys, groups)
        weights = _weights(q, k, ctx.scale, hidden)
        padded = outer[0].new_zeros(queries.numel(), *query.shape[1:]).index_copy_(0, places, outer[0])
        d_out = _side_by_side(padded, batch, groups)
        d_scores = torch._softmax_backward_data(torch.bmm(d_out, v.transpose(1, 2)), weights, -1, weights.dtype).mul_(ctx.scale)
        d_query = _give(torch.bmm(d_scores, k), batch, query.shape)[places]
        d_key, d_value = (
            _sum(_give(torch.bmm(each.transpose(1, 2), other), batch, key.shape), keys, len(key))
            for each, other in ((d_scores, q), (weights, d_out))
        )
        return d_query, d_key, d_value, None, None, None, None, None


def _take(rows: Tensor, places: Tensor, groups: int) -> Tensor:
    """[B * groups, L * R, D]: of `rows` [T, groups * R, D] those at `places` [B, L]."""
    return _side_by_side(rows[places.reshape(-1)], len(places), groups)


def _side_by_side(rows: Tensor, batch: int, groups: int) -> Tensor:
    """[batch * groups, L * R, D] of `rows` [batch * L, groups * R, D]."""
    count, _, size = rows.shape
    return rows.view(batch, count // batch, groups, -1, size).transpose(1, 2).reshape(batch * groups, -1, size)


def _give(blocks: Tensor, batch: int, shape: torch.Size) -> Tensor:
    """The other way: rows [batch * L, H, D] of `blocks` [batch * G, L * R, D], for heads and size as in `shape` [T, H, D]."""
    groups = len(blocks) // batch
    return blocks.view(batch, groups, -1, shape[1] // groups * shape[2]).transpose(1, 2).reshape(-1, *shape[1:])


def _weights(q: Tensor, k: Tensor, scale: float, hidden: Tensor) -> Tensor:
    """softmax(scale q k^T) [B * G, Q * R, K], nothing where a key is hidden [B, Q, K]."""
    scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)
    batch, queries, keys = hidden.shape
    scores.view(batch, -1, queries, q.shape[1] // queries, keys).masked_fill_(hidden[:, None, :, None], float("-inf"))
    return torch.softmax(scores, dim=-1)


def _sum(rows: Tensor, places: Tensor, tokens: int) -> Tensor:
    """[tokens, G, D]: for each token the sum of the `rows` [B * K, G, D] that are at its place."""
    flat = rows.reshape(len(rows), -1)
    return torch.ops.aten.embedding_dense_backward(flat, places.reshape(-1), tokens, -1, False).view(tokens, *rows.shape[1:])
