"""Define fused parts of a transformer, each with its own forward and backward pass.

The parts are a LoRA projection, attention, feed-forward, norm, and a whole layer. Projections with
the same input are computed as one product that includes their adapters (adapters.py); the input
needs extra columns as scratch space for it. Values that are cheap to recompute are not saved for
the backward pass. Weights are frozen: only the input and the adapters get gradients. T is the
number of tokens of a packed row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn.functional import silu

from fine_tuning.training.autograd import Context
from fine_tuning.training.fast.adapters import Adapted, split_columns
from fine_tuning.training.fast.tree_attention import Layout, attend, attend_backward


class Angles:
    """The rotary positions (arXiv 2104.09864) of T tokens, as cosines and sines [T, 1, D].

    They rotate the two halves of each query and key; `back` is the sine of the opposite rotation.
    """

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        """Convert `cos` and `sin` from Transformers' form, [1, T, D] with equal halves."""
        half = sin.shape[-1] // 2
        self.cos, self.back = cos[0, :, None], torch.cat([sin[0, :, None, :half], -sin[0, :, None, half:]], dim=-1)
        self.sin = -self.back


@dataclass(frozen=True)
class RowContext:
    """The context that attention needs beside the vectors of a packed row."""

    angles: Angles
    layout: Layout


class Part(Protocol):
    """A part of a transformer that needs only its input."""

    @property
    def extra_columns(self) -> int:
        """Number of scratch columns that `forward` needs beside its input."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return y [T, out] for x [T, in + extra columns], followed by the tensors that `backward` needs."""

    def backward(self, grad_y: Tensor, kept: Sequence[Tensor], deeper: bool) -> Tensor | None:
        """Add to the adapters' gradients, and return the gradient of the input [T, in].

        `grad_y` [T, out] is the gradient of y; `kept` holds the other tensors that `forward`
        returned, and may be overwritten. `deeper`: whether the input needs a gradient; if not,
        return None.
        """


class RowPart(Protocol):
    """Like `Part`, for parts of a transformer that also need the packed row's context (`RowContext`)."""

    @property
    def extra_columns(self) -> int: ...

    def forward(self, x: Tensor, row: RowContext) -> tuple[Tensor, ...]: ...

    def backward(self, grad_y: Tensor, kept: Sequence[Tensor], deeper: bool, row: RowContext) -> Tensor | None: ...


class _PartContext(Context, Protocol):
    part: Part
    shape: torch.Size


class _RowPartContext(Context, Protocol):
    part: RowPart
    row: RowContext
    shape: torch.Size


class PartFunction(torch.autograd.Function):
    """A `Part` as one autograd function, from x [..., in] to y [..., out].

    `anchor` is any tensor that requires a gradient. With it, autograd calls `backward` of the first
    layer too, although that layer's input requires no gradient.
    """

    @staticmethod
    def forward(ctx: _PartContext, x: Tensor, anchor: Tensor | None, part: Part) -> Tensor:
        y, *kept = part.forward(with_columns(x.reshape(-1, x.shape[-1]), part.extra_columns))
        ctx.save_for_backward(*kept)
        ctx.part, ctx.shape = part, x.shape
        return _reshaped(y, x.shape)

    @staticmethod
    def backward(ctx: _PartContext, *outer: Tensor) -> tuple[Tensor | None, None, None]:
        grad_y = outer[0].reshape(-1, outer[0].shape[-1])
        grad_x = ctx.part.backward(grad_y, ctx.saved_tensors, ctx.needs_input_grad[0])
        return None if grad_x is None else grad_x.view(ctx.shape), None, None


class RowPartFunction(torch.autograd.Function):
    """A `RowPart` as one autograd function, like `PartFunction` for a `Part`."""

    @staticmethod
    def forward(ctx: _RowPartContext, x: Tensor, anchor: Tensor | None, part: RowPart, row: RowContext) -> Tensor:
        y, *kept = part.forward(with_columns(x.reshape(-1, x.shape[-1]), part.extra_columns), row)
        ctx.save_for_backward(*kept)
        ctx.part, ctx.row, ctx.shape = part, row, x.shape
        return _reshaped(y, x.shape)

    @staticmethod
    def backward(ctx: _RowPartContext, *outer: Tensor) -> tuple[Tensor | None, None, None, None]:
        grad_y = outer[0].reshape(-1, outer[0].shape[-1])
        grad_x = ctx.part.backward(grad_y, ctx.saved_tensors, ctx.needs_input_grad[0], ctx.row)
        return None if grad_x is None else grad_x.view(ctx.shape), None, None, None


def _reshaped(y: Tensor, shape: torch.Size) -> Tensor:
    """Return y [T, out] with the leading dimensions of the input's `shape`.

    Autograd must not know that the result is a view, since some models (Olmo) write into it.
    """
    made: Tensor = torch.ops.aten._unsafe_view(y, [*shape[:-1], y.shape[-1]])
    return made


@dataclass
class Projection:
    """A single projection with its adapter: y = x W^T + bias + scale x A^T B^T.

    The input is saved as it is, not as a copy with extra columns, so that other autograd functions
    can save the same tensor.
    """

    only: Adapted
    extra_columns = 0

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        wide = with_columns(x, self.only.extra_columns)
        return self.only.forward(wide), x, split_columns(wide, self.only.extra_columns)[1].clone()

    def backward(self, grad_y: Tensor, kept: Sequence[Tensor], deeper: bool) -> Tensor | None:
        x, low = kept
        return _backward(self.only, grad_y, x, low, deeper)


@dataclass
class Attention:
    """Attention with its projections q, k, v and o, each with its adapter, over a packed row x [T, H]."""

    inner: Adapted  # q, k and v, stacked: [(heads + 2 groups) D, H]
    outer: Adapted  # o: [H, heads D]
    heads: int  # number of query heads
    groups: int  # number of key heads
    scale: float  # factor of the scores
    window: int | None  # tokens that a token attends to, itself included; None: all before it

    @property
    def extra_columns(self) -> int:
        return self.inner.extra_columns

    def forward(self, x: Tensor, row: RowContext) -> tuple[Tensor, ...]:
        by_head = self.inner.forward(x).view(x.shape[0], self.heads + 2 * self.groups, -1)
        _turn(by_head.narrow(1, 0, self.heads + self.groups), row.angles.cos, row.angles.sin)
        seen, *attended = attend(by_head, self.groups, self.scale, row.layout, self.window)
        seen = with_columns(seen, self.outer.extra_columns)
        return self.outer.forward(seen), x, seen, *attended

    def backward(self, grad_y: Tensor, kept: Sequence[Tensor], deeper: bool, row: RowContext) -> Tensor | None:
        x, seen, *attended = kept
        grad_seen = self.outer.backward(grad_y, *split_columns(seen, self.outer.extra_columns))
        shape = torch.Size((x.shape[0], self.heads + 2 * self.groups, grad_seen.shape[1] // self.heads))
        grad_by_head = attend_backward(attended, grad_seen, shape, self.groups, self.scale, row.layout, self.window)
        _turn(grad_by_head.narrow(1, 0, self.heads + self.groups), row.angles.cos, row.angles.back)
        return _backward(self.inner, grad_by_head.view(x.shape[0], -1), *split_columns(x, self.extra_columns), deeper)


@dataclass
class Gated:
    """A gated feed-forward, y = down(silu(gate(x)) * up(x)), each projection with its adapter."""

    both: Adapted  # gate and up, stacked: [2 F, H]
    down: Adapted  # [H, F]

    @property
    def extra_columns(self) -> int:
        return self.both.extra_columns

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        gate_up = self.both.forward(x)
        gate, up = gate_up.chunk(2, dim=1)
        hidden = x.new_empty(x.shape[0], gate.shape[1] + self.down.extra_columns)
        own, low = split_columns(hidden, self.down.extra_columns)
        torch.ops.aten.silu.out(gate, out=own).mul_(up)
        return self.down.forward(hidden), x, gate_up, low.clone()

    def backward(self, grad_y: Tensor, kept: Sequence[Tensor], deeper: bool) -> Tensor | None:
        x, gate_up, low = kept
        gate, up = gate_up.chunk(2, dim=1)
        activated = silu(gate)
        hidden = activated * up
        grad_hidden = self.down.backward(grad_y, hidden, low)
        # Each gradient overwrites a value that is no longer needed, since writing to memory outside
        # the cache would cost more than the arithmetic.
        grad_activated = torch.mul(grad_hidden, up, out=hidden)
        torch.mul(grad_hidden, activated, out=up)
        torch.ops.aten.silu_backward.grad_input(grad_activated, gate, grad_input=gate)
        return _backward(self.both, gate_up, *split_columns(x, self.extra_columns), deeper)


@dataclass
class Norm:
    """Root-mean-square norm (arXiv 1910.07467) with a frozen weight. Saves its input and one number per token."""

    weight: Tensor
    epsilon: float
    extra_columns = 0

    def __post_init__(self) -> None:
        self._epsilon = torch.tensor(self.epsilon, device=self.weight.device)

    def forward(self, x: Tensor, free: int = 0) -> tuple[Tensor, ...]:
        """Return y [T, H + free] for x [T, H], followed by the tensors that `backward` needs.

        The `free` extra columns are uninitialised.
        """
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = torch.addcmul(self._epsilon, length, length, value=1 / x.shape[1]).rsqrt_()
        y = x.new_empty(x.shape[0], x.shape[1] + free)
        torch.mul(wide, inverse, out=y.narrow(1, 0, x.shape[1])).mul_(self.weight)
        return y, x, inverse

    def backward(self, grad_y: Tensor, kept: Sequence[Tensor], deeper: bool = True) -> Tensor:
        """Return the gradient of x, whether or not `deeper` asks for it, since there is nothing else to compute."""
        x, inverse = kept
        grad_n, wide = (grad_y * self.weight).float(), x.float()
        along = (grad_n * wide).sum(-1, keepdim=True).mul_(inverse).mul_(inverse)
        return grad_n.addcmul_(wide, along, value=-1 / x.shape[1]).mul_(inverse).to(x.dtype)


@dataclass
class Layer:
    """A whole transformer layer: z = x + attention(norm(x)), y = z + gated(norm(z))."""

    before: Norm
    attention: Attention
    between: Norm
    gated: Gated
    extra_columns = 0

    def forward(self, x: Tensor, row: RowContext) -> tuple[Tensor, ...]:
        normed, *of_before = self.before.forward(x, self.attention.extra_columns)
        middle, *of_attention = self.attention.forward(normed, row)
        middle.add_(x)
        normed, *of_between = self.between.forward(middle, self.gated.extra_columns)
        y, *of_gated = self.gated.forward(normed)
        return y.add_(middle), *of_before, *of_between, *of_gated, *of_attention

    def backward(self, grad_y: Tensor, kept: Sequence[Tensor], deeper: bool, row: RowContext) -> Tensor | None:
        of_before, of_between, of_gated, of_attention = kept[:2], kept[2:4], kept[4:7], kept[7:]
        grad_normed = cast(Tensor, self.gated.backward(grad_y, of_gated, True))
        grad_middle = self.between.backward(grad_normed, of_between).add_(grad_y)
        grad_below = self.attention.backward(grad_middle, of_attention, deeper, row)
        return None if grad_below is None else self.before.backward(grad_below, of_before).add_(grad_middle)


def with_columns(x: Tensor, extra: int) -> Tensor:
    """Return a copy of x [T, n] with `extra` uninitialised columns; x itself if `extra` is 0."""
    if not extra:
        return x
    wide = x.new_empty(x.shape[0], x.shape[1] + extra)
    wide.narrow(1, 0, x.shape[1]).copy_(x)
    return wide


def _backward(layers: Adapted, grad_y: Tensor, x: Tensor, low: Tensor, deeper: bool) -> Tensor | None:
    """Add to the adapters' gradients, and return the gradient of x [T, in].

    Return None instead if `deeper` is false: then x needs no gradient. `low` is as in
    `Adapted.backward`.
    """
    if deeper:
        return layers.backward(grad_y, x, low)
    layers.backward_of_adapters(grad_y, x, low)
    return None


def _turn(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotate the two halves of each head [T, n, D] in place, by the cosines and sines of `Angles`."""
    swapped = heads.roll(heads.shape[2] // 2, dims=2)
    heads.mul_(cos).addcmul_(swapped, sin)
