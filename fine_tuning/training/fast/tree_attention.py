"""Compute attention over a packed row (packing.py), with only the scores within conversations.

SDPA with a mask computes all T x T scores of a row, most of them between different conversations.
This module splits long conversations into pieces, puts pieces of similar size into one group, pads
them to the longest, and computes each group as one batch: for eight chats a tenth of the scores.
Keys and values that several heads share (grouped queries, arXiv 2305.13245) are not repeated. The
scores of long conversations are not saved but recomputed in the backward pass (arXiv 2205.14135).
Two copies suffice: one puts the row's vectors into the order of the groups, one puts the results
back.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fine_tuning.training.attention import masked_attention, register_as
from fine_tuning.training.autograd import Context, apply

NAME = "byoai_tree"  # under which Transformers knows this attention

_LEAST_PIECE = 64  # minimum tokens of a piece: shorter pieces cost more than they save
_PIECES = 8  # maximum pieces of a conversation: more pieces waste fewer scores, but copy more keys
_GROUP_COST = 2500  # cost of one more group, in scores that take as long (measured on a CPU)


@dataclass(frozen=True)
class _Group:
    """B pieces of similar size (`_pieces`), padded to Q queries and K keys."""

    queries: Tensor  # [B, Q]: indices in the packed row; -1 for padding
    keys: Tensor  # [B, K]: indices in the packed row
    places: Tensor  # [B, Q]: the index of each query among its piece's keys

    def bias(self, window: int | None) -> Tensor:
        """Return the attention bias [B, Q, K] to add to the scores.

        It is minus infinity for keys after the query, and for keys `window` or more tokens before
        it (None: no limit); else 0.
        """
        key, query = torch.arange(self.keys.shape[1]), self.places[:, :, None]
        hidden = key > query
        if window:
            hidden |= key <= query - window
        return torch.zeros(hidden.shape).masked_fill_(hidden, -math.inf)


@dataclass(frozen=True)
class _Order:
    """The indices that put a packed row's vectors [T * (heads + 2 * groups), D] into the groups' order, and back.

    In the groups' order, the queries of all groups (`_Group`) come first, then their keys, then
    their values. In shapes, `groups` is the number of key heads, not of such groups.
    """

    index: Tensor  # for each vector in the groups' order, its index in the row
    sizes: list[int]  # numbers of vectors: each group's queries, each group's keys, each group's values
    places: Tensor  # [T * heads]: index of each token's head among the ordered queries
    # bags (`_sums`): for each ordered query, the index of its token's head in the attention; empty for padding
    askers: tuple[Tensor, Tensor]
    sources: tuple[Tensor, Tensor]  # bags: for each vector of the row, its indices in the groups' order
    biases: list[Tensor]  # attention bias of each group [B * key heads, Q * heads / key heads, K]
    scores: int  # total number of scores

    @property
    def queries(self) -> list[int]:
        """The number of queries of each group of pieces (`_Group`)."""
        return self.sizes[: len(self.biases)]

    def parts(self, ordered: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield each group's queries, keys and values, each [B * key heads, number, D], and its bias.

        `ordered` holds all vectors in the groups' order, each with D numbers.
        """
        pieces, groups = ordered.split_with_sizes(self.sizes), len(self.biases)
        for index, bias in enumerate(self.biases):
            yield *(pieces[index + kind * groups].view(bias.shape[0], -1, ordered.shape[1]) for kind in range(3)), bias


class Layout:
    """The division of a packed row's conversations into groups of pieces."""

    def __init__(self, paths: Sequence[Sequence[int]]) -> None:
        """Divide conversations into groups of pieces.

        paths[r][i] is the index in the packed row of token i of conversation r; the conversations
        are in the order of the prefix tree.
        """
        self.groups = [_group(pieces) for pieces in _alike(_pieces(paths))]
        self.windows: set[int | None] = set()  # the windows that layers have asked for
        self._orders: dict[tuple[int, int, torch.device, torch.dtype, int | None], _Order] = {}
        # cached rotary positions of this row, by the id of the tensor that they derive from (fused.py)
        self.angles: dict[int, tuple[Tensor, object]] = {}
        self.paths = paths

    def order(self, heads: int, groups: int, like: Tensor, window: int | None) -> _Order:
        """Return the order in which a layer's attention processes the row's queries, keys and values.

        `heads` is the number of query heads, `groups` the number of key heads. The result's tensors
        are on the device of `like`, its biases in the dtype of `like`. It is cached for all layers
        with the same arguments.
        """
        self.windows.add(window)
        key = heads, groups, like.device, like.dtype, window
        if key not in self._orders:
            self._orders[key] = _order(self.groups, heads, groups, like, window)
        return self._orders[key]


def _pieces(paths: Sequence[Sequence[int]]) -> list[tuple[int, Sequence[int]]]:
    """Split conversations into pieces, so that each token of the row is a query of exactly one piece.

    A piece is (start, path): all tokens of `path` are keys, and those from `start` on are queries
    too. The queries of the first `start` tokens belong to earlier pieces.
    """
    found: list[tuple[int, Sequence[int]]] = []
    seen = 0
    for path in paths:
        start = next((index for index, place in enumerate(path) if place >= seen), len(path))
        step = max(_LEAST_PIECE, -(-(len(path) - start) // _PIECES))
        found += [(begin, path[: begin + step]) for begin in range(start, len(path), step)]
        seen = max(seen, path[-1] + 1)
    return found


def _alike(pieces: Sequence[tuple[int, Sequence[int]]]) -> list[list[tuple[int, Sequence[int]]]]:
    """Return the pieces in groups of similar size, so that computing the attention of all groups costs least.

    A group costs its scores, including those of padding, and a fixed cost. The pieces are sorted by
    size; dynamic programming finds where best to divide this sequence.
    """
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
    places = (starts[:, None] + torch.arange(most_own)).clamp(max=longest - 1)  # padding must see a key, too
    return _Group(queries, keys, places)


def _order(laid: Sequence[_Group], heads: int, groups: int, like: Tensor, window: int | None) -> _Order:
    """Return the indices that order a packed row's vectors by the groups `laid`; for the others see `Layout.order`.

    A group of B pieces has Q queries and K keys (`_Group`). Its queries are ordered as [B, key
    heads, Q, heads / key heads], its keys and values as [B, key heads, K].
    """
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
    pieces = [*queries, *keys, *(each + groups for each in keys)]  # a token's values follow its keys
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
    """Return where each of several consecutive runs starts, and where the last one ends, from their lengths `counts`.

    These are the cumulative sums of the lengths, beginning with 0.
    """
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def register() -> str:
    """Register `tree_attention` in Transformers; return the name under which models can select it."""
    return register_as(NAME, tree_attention)


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Return the same as `masked_attention`, computed without the mask if the arguments allow it."""
    special = (
        dropout
        or softcap is not None
        or s_aux is not None
        or position_bias is not None
        or value.shape[-1] != query.shape[-1]
    )
    if layout is None or special:
        return masked_attention(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling,
            dropout,
            layout,
            sliding_window,
            softcap,
            s_aux,
            is_causal,
            position_bias,
        )
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    rows = torch.cat([each[0].transpose(0, 1) for each in (query, key, value)], dim=1)
    seen = apply(_TreeAttention, rows, key.shape[1], scale, layout, sliding_window)
    return seen.view(1, rows.shape[0], -1, rows.shape[2]), None


class _TreeContext(Context, Protocol):
    arguments: tuple[int, float, Layout, int | None]
    shape: torch.Size


class _TreeAttention(torch.autograd.Function):
    """`attend` as an autograd function, for models whose attention is not fused."""

    @staticmethod
    def forward(
        ctx: _TreeContext, rows: Tensor, groups: int, scale: float, layout: Layout, window: int | None
    ) -> Tensor:
        ctx.arguments = groups, scale, layout, window
        seen, *kept = attend(rows, *ctx.arguments)
        ctx.save_for_backward(*kept)
        ctx.shape = rows.shape
        return seen

    @staticmethod
    def backward(ctx: _TreeContext, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return attend_backward(ctx.saved_tensors, outer[0], ctx.shape, *ctx.arguments), None, None, None, None


def attend(rows: Tensor, groups: int, scale: float, layout: Layout, window: int | None = None) -> list[Tensor]:
    """Return attention [T, heads * D] for `rows` [T, heads + 2 * groups, D], followed by tensors for `attend_backward`.

    `rows` holds each token's queries, keys and values; heads / groups queries share a key. If there
    are more scores than numbers in `rows` (long conversations), the other tensors are just `rows`.
    Otherwise they are the ordered vectors and each group's attention weights, so that
    `attend_backward` need not recompute them.
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
    kept: Sequence[Tensor],
    grad_out: Tensor,
    shape: torch.Size,
    groups: int,
    scale: float,
    layout: Layout,
    window: int | None = None,
) -> Tensor:
    """Return the gradient of `rows` (of this `shape`) for `grad_out` [T, heads * D], the gradient of the attention.

    `kept` holds the other tensors that `attend` returned, and may be overwritten. The remaining
    arguments are those of `attend`.
    """
    first, *known = kept
    order = layout.order(shape[1] - 2 * groups, groups, first, window)
    ordered = first if known else _in_order(first, order)
    grads = _sums(grad_out.reshape(-1, shape[2]), order.askers).split_with_sizes(order.queries)
    for index, (q, k, v, bias) in enumerate(order.parts(ordered)):
        grad = grads[index].view_as(q)
        weights = known[index] if known else _weights(q, k, scale, bias)
        grad_scores = torch._softmax_backward_data(torch.bmm(grad, v.transpose(1, 2)), weights, -1, weights.dtype)
        # Each gradient overwrites its value once the value is no longer needed.
        torch.bmm(weights.transpose(1, 2), grad, out=v)
        grad_k = torch.baddbmm(k, grad_scores.transpose(1, 2), q, beta=0, alpha=scale)
        torch.baddbmm(q, grad_scores, k, beta=0, alpha=scale, out=q)
        k.copy_(grad_k)
    return _sums(ordered, order.sources).view(shape)


def _sums(vectors: Tensor, bags: tuple[Tensor, Tensor]) -> Tensor:
    """Return the sum of the vectors in each bag, [number of bags, D].

    A bag is a set of vectors. `bags` holds the indices into `vectors` [n, D] of one bag after the
    other, and the position where each bag starts among them, followed by the end of the last bag.
    `embedding_bag` is by far torch's fastest operation for this, and as fast as a copy for bags of
    one vector.
    """
    indices, starts = bags
    return torch.embedding_bag(vectors, indices, starts, include_last_offset=True)[0]


def _in_order(rows: Tensor, order: _Order) -> Tensor:
    """Return a copy of the vectors of a packed row in the order `order`, [n, D]."""
    return rows.view(-1, rows.shape[2]).index_select(0, order.index)


def _weights(q: Tensor, k: Tensor, scale: float, bias: Tensor) -> Tensor:
    """Return the attention weights softmax(scale q k^T + bias) [B * key heads, Q * heads / key heads, K]."""
    return torch.softmax(torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale), dim=-1)
