"""Attention over a packed row (packing.py): each conversation's own tokens against the path that leads to them, and nothing else.

SDPA with a mask multiplies all T x T scores of a row, of which most belong to other conversations. Here conversations lie side by side,
long ones in pieces, those of like size in one group, padded to its longest: for eight chats a tenth of it. Keys and values of heads that
share them (grouped queries, arXiv 2305.13245) are not repeated, and the scores of long ones are computed again in the backward pass instead
of kept (arXiv 2205.14135). Vectors go to their places and back in one copy each.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fine_tuning.errors import TrainingError

NAME = "byoai_tree"  # the attention's, in Transformers

_LEAST_PIECE = 64  # tokens: shorter pieces of a conversation save less than they cost
_PIECES = 8  # of a long one: keys are gathered for each, scores above the diagonal are wasted in each
_GROUP_COST = 2500  # scores that take as long as another group's calls (measured on a CPU)


@dataclass(frozen=True)
class _Group:
    """Pieces of about one size: where in the packed row their queries [B, Q] and keys [B, K] are (queries that only pad: -1), and which of
    its keys each query itself is [B, Q]."""

    queries: Tensor
    keys: Tensor
    places: Tensor

    def bias(self, window: int | None) -> Tensor:
        """[B, Q, K]: what a score gains, minus infinity where a query must not see a key: a later one, or `window` or more before it."""
        key, query = torch.arange(self.keys.shape[1]), self.places[:, :, None]
        hidden = key > query
        if window:
            hidden |= key <= query - window
        return torch.zeros(hidden.shape).masked_fill_(hidden, -math.inf)


@dataclass(frozen=True)
class _Order:
    """A packed row's vectors [T * (heads + 2 * groups), D] in the order of the groups, all one after the other."""

    index: Tensor  # where in the row the queries of all groups are, then their keys, then their values
    sizes: list[int]  # of these: for each group [B, key heads, Q, heads / key heads], then twice for each [B, key heads, K]
    places: Tensor  # [T * heads]: which of the queries each token's are
    askers: tuple[Tensor, Tensor]  # for each of the queries whose it is, T * heads of them; no one's if it only pads (`_sums`)
    sources: tuple[Tensor, Tensor]  # for each of the row's vectors where it went
    biases: list[Tensor]  # of each group [B * key heads, Q * heads / key heads, K]
    scores: int  # numbers in all of them

    @property
    def queries(self) -> list[int]:
        """Of these the sizes of the queries."""
        return self.sizes[: len(self.biases)]

    def parts(self, ordered: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The queries, keys and values [B * key heads, n of each, D] of each group, of all in order [n, D]; and the bias."""
        pieces, groups = ordered.split_with_sizes(self.sizes), len(self.biases)
        for index, bias in enumerate(self.biases):
            yield *(pieces[index + kind * groups].view(bias.shape[0], -1, ordered.shape[1]) for kind in range(3)), bias


class Layout:
    """How a packed row is laid side by side, from the conversations' paths, in the tree's order (packing.py)."""

    def __init__(self, paths: Sequence[Sequence[int]]) -> None:
        self.groups = [_group(pieces) for pieces in _alike(_pieces(paths))]
        self.windows: set[int | None] = set()  # that were asked for
        self._orders: dict[Any, _Order] = {}
        self.angles: dict[int, Any] = {}  # that were made for this row, by the id of what they were made of (fused.py)
        self.paths = paths

    def order(self, heads: int, groups: int, like: Tensor, window: int | None) -> _Order:
        """For a model's heads, on the device and in the number format of `like`; made once for all layers of one `window`."""
        self.windows.add(window)
        key = heads, groups, like.device, like.dtype, window
        if key not in self._orders:
            self._orders[key] = _order(self.groups, heads, groups, like, window)
        return self._orders[key]

    def near(self, window: int) -> Tensor:
        """[T, T]: whether the key (column) is less than `window` before the query (row), if both are on one path."""
        depths = torch.zeros(1 + max(path[-1] for path in self.paths), dtype=torch.long)
        for path in self.paths:
            depths[torch.tensor(path)] = torch.arange(len(path))
        return depths[:, None] - depths < window


def _pieces(paths: Sequence[Sequence[int]]) -> list[tuple[int, Sequence[int]]]:
    """Each token once: pieces of conversations, as how much of a path others own, and the path."""
    found: list[tuple[int, Sequence[int]]] = []
    seen = 0
    for path in paths:
        start = next((index for index, place in enumerate(path) if place >= seen), len(path))
        step = max(_LEAST_PIECE, -(-(len(path) - start) // _PIECES))
        found += [(begin, path[: begin + step]) for begin in range(start, len(path), step)]
        seen = max(seen, path[-1] + 1)
    return found


def _alike(pieces: Sequence[tuple[int, Sequence[int]]]) -> list[list[tuple[int, Sequence[int]]]]:
    """The pieces in groups, so that padding and the groups' own calls cost least together: the shortest way over the sorted pieces."""
    ordered = sorted(pieces, key=lambda piece: (len(piece[1]) - piece[0], len(piece[1])))
    best, begin = [0.0], [0]
    for end in range(1, len(ordered) + 1):
        most_own, longest, found = len(ordered[end - 1][1]) - ordered[end - 1][0], 0, []
        for start in range(end - 1, -1, -1):
            longest = max(longest, len(ordered[start][1]))
            found.append((best[start] + (end - start) * most_own * longest + _GROUP_COST, start))
        cost, start = min(found)
        best.append(cost)
        begin.append(start)
    groups, end = [], len(ordered)
    while end:
        groups.append(ordered[begin[end] : end])
        end = begin[end]
    return groups[::-1]


def _group(pieces: Sequence[tuple[int, Sequence[int]]]) -> _Group:
    most_own, longest = max(len(path) - start for start, path in pieces), max(len(path) for _, path in pieces)
    queries, keys = torch.full((len(pieces), most_own), -1), torch.zeros(len(pieces), longest, dtype=torch.long)
    for index, (start, path) in enumerate(pieces):
        queries[index, : len(path) - start], keys[index, : len(path)] = torch.tensor(path[start:]), torch.tensor(path)
    starts = torch.tensor([start for start, _ in pieces])
    places = (starts[:, None] + torch.arange(most_own)).clamp(max=longest - 1)  # also what only pads must see a key
    return _Group(queries, keys, places)


def _order(laid: Sequence[_Group], heads: int, groups: int, like: Tensor, window: int | None) -> _Order:
    width, shared = heads + 2 * groups, heads // groups
    group, each = torch.arange(groups), torch.arange(shared)
    queries, tokens, keys, biases = [], [], [], []
    for one in laid:
        (batch, count), length = one.queries.shape, one.keys.shape[1]
        head = (group[:, None, None] * shared + each).expand(batch, groups, count, shared)
        token = one.queries[:, None, :, None].expand_as(head)
        queries.append((token.clamp(min=0) * width + head).flatten())
        tokens.append(torch.where(token < 0, -1, token * heads + head).flatten())
        keys.append((one.keys[:, None] * width + heads + group[:, None]).flatten())
        bias = one.bias(window)[:, None, :, None].expand(batch, groups, count, shared, length)
        biases.append(bias.reshape(batch * groups, count * shared, length).to(like))
    real = (token := torch.cat(tokens)) >= 0
    places = torch.empty(int(real.sum()), dtype=torch.long)
    places[token[real]] = real.nonzero()[:, 0]
    pieces = [*queries, *keys, *(each + groups for each in keys)]  # a token's values lie behind its keys
    index, used = torch.cat(pieces), torch.ones(sum(map(len, pieces)), dtype=torch.bool)
    used[: len(token)] = real
    here = used.nonzero()[:, 0]
    wanted, by_vector = index[here].sort(stable=True)  # every vector of the row is among them
    device = like.device
    return _Order(
        index=index.to(device),
        sizes=[len(piece) for piece in pieces],
        places=places.to(device),
        askers=(token[real].to(device), _starts(real.long()).to(device)),
        sources=(here[by_vector].to(device), _starts(torch.bincount(wanted)).to(device)),
        biases=biases,
        scores=sum(bias.numel() for bias in biases),
    )


def _starts(counts: Tensor) -> Tensor:
    """Where each begins, if so many of each lie one after the other; and where the last ends."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def register() -> str:
    """Make the attention known to Transformers; its name. Without a layout it is SDPA."""
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
    layout: Layout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface: `query` [1, heads, T, D], `key` and `value` [1, fewer heads, T, D]; returns [1, T, heads, D].

    `sliding_window`: a token sees itself and those less than so many before it (arXiv 2004.05150). `softcap`: see `_capped_attention`.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if kwargs.get("s_aux") is not None:
        raise TrainingError(
            "this base's attention has sinks, which cannot be trained yet: choose a base of another family (llama, qwen, ...)"
        )
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    if layout is None or dropout or softcap is not None or value.shape[-1] != query.shape[-1]:
        if layout is not None and sliding_window and attention_mask is not None:
            attention_mask = attention_mask & layout.near(sliding_window).to(attention_mask.device)
        if softcap is not None:
            return _capped_attention(query, key, value, attention_mask, scale, dropout, softcap), None
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scale, **kwargs
        )
        return result
    rows = torch.cat([each[0].transpose(0, 1) for each in (query, key, value)], dim=1)
    return _TreeAttention.apply(rows, key.shape[1], scale, layout, sliding_window).view(1, rows.shape[0], -1, rows.shape[2]), None


def _capped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float, cap: float) -> Tensor:
    """Attention whose scores are bent to stay between -`cap` and `cap` (Gemma 2: arXiv 2408.00118, section 2), which SDPA cannot."""
    key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], dim=1) for each in (key, value))
    scores = cap * torch.tanh(query @ key.transpose(2, 3) * (scale / cap))
    if mask is None:  # Transformers leaves out what is only causal
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril(scores.shape[3] - scores.shape[2])
    weights = torch.softmax(scores.masked_fill(~mask, -math.inf), dim=-1, dtype=torch.float32).to(value.dtype)
    return (torch.dropout(weights, dropout, dropout > 0) @ value).transpose(1, 2).contiguous()


class _TreeAttention(torch.autograd.Function):
    """`attend` for models whose attention is not fused."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, groups: int, scale: float, layout: Layout, window: int | None) -> Tensor:
        ctx.about = groups, scale, layout, window
        seen, *kept = attend(rows, *ctx.about)
        ctx.save_for_backward(*kept)
        ctx.shape = rows.shape
        return seen

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return attend_backward(ctx.saved_tensors, outer[0], ctx.shape, *ctx.about), None, None, None, None


def attend(rows: Tensor, groups: int, scale: float, layout: Layout, window: int | None = None) -> list[Tensor]:
    """[T, heads * D] of `rows` [T, heads + 2 * groups, D]: each token's queries, keys and values; heads / groups queries share a key.

    Also what `attend_backward` wants: the rows; or, of conversations so short that this is little more, the rows in order and the weights.
    """
    order = layout.order(rows.shape[1] - 2 * groups, groups, rows, window)
    ordered = _in_order(rows, order)
    small = order.scores <= rows.numel()
    found, kept = ordered.new_empty(sum(order.queries), ordered.shape[1]), [ordered if small else rows]
    for (q, k, v, bias), result in zip(order.parts(ordered), found.split_with_sizes(order.queries), strict=True):
        weights = _weights(q, k, scale, bias)
        torch.bmm(weights, v, out=result.view_as(q))
        if small:
            kept.append(weights)
    return [found.index_select(0, order.places).view(rows.shape[0], -1), *kept]


def attend_backward(
    kept: Sequence[Tensor], d_out: Tensor, shape: torch.Size, groups: int, scale: float, layout: Layout, window: int | None = None
) -> Tensor:
    """The gradient by `rows` of that `shape`, of the gradient `d_out` [T, heads * D] by what `attend` gave; writes over what it kept."""
    first, *known = kept
    order = layout.order(shape[1] - 2 * groups, groups, first, window)
    ordered = first if known else _in_order(first, order)
    d_founds = _sums(d_out.reshape(-1, shape[2]), order.askers).split_with_sizes(order.queries)
    for index, (q, k, v, bias) in enumerate(order.parts(ordered)):
        d = d_founds[index].view_as(q)
        weights = known[index] if known else _weights(q, k, scale, bias)
        d_scores = torch._softmax_backward_data(torch.bmm(d, v.transpose(1, 2)), weights, -1, weights.dtype)
        # Each gradient takes the place of what it is the gradient by, once that is no longer needed.
        torch.bmm(weights.transpose(1, 2), d, out=v)
        d_k = torch.baddbmm(k, d_scores.transpose(1, 2), q, beta=0, alpha=scale)
        torch.baddbmm(q, d_scores, k, beta=0, alpha=scale, out=q)
        k.copy_(d_k)
    return _sums(ordered, order.sources).view(shape)


def _sums(vectors: Tensor, bags: tuple[Tensor, Tensor]) -> Tensor:
    """For each bag the sum of its `vectors` [n, D]: `bags` are their indices, and where each bag begins among them. Of all that torch has
    the fastest by far, and as fast as a copy where a bag has one vector."""
    indices, starts = bags
    return torch.embedding_bag(vectors, indices, starts, include_last_offset=True)[0]


def _in_order(rows: Tensor, order: _Order) -> Tensor:
    """The queries, keys and values of the groups [n + 2 m, D], a copy."""
    return rows.view(-1, rows.shape[2]).index_select(0, order.index)


def _weights(q: Tensor, k: Tensor, scale: float, bias: Tensor) -> Tensor:
    """softmax(scale q k^T + bias) [B * key heads, Q * R, K]."""
    return torch.softmax(torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale), dim=-1)
