"""Parts of a transformer, each forward and backward: a LoRA projection, attention, a gated feed-forward, a norm, and a layer of them.

A product and its adapter become one output, written twice instead of read and written five times: what the adapter makes comes first, and
the product is added to it before the sum is rounded, since beside a number of eight bits (bfloat16) a young adapter's would be rounded
away. Products that share their input become one; nothing is saved for the backward pass that is cheap to compute again. Weights are frozen:
gradients go to the input, and to the adapters where they lie (adapters.py). T is a packed row's number of tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import silu

from fine_tuning.training.adapters import Adapters
from fine_tuning.training.products import product
from fine_tuning.training.tree_attention import Layout, attend, attend_backward


class Part(Protocol):
    """`about` is what else it is told of the row: the same forward and backward."""

    def forward(self, x: Tensor, *about: Any) -> tuple[Tensor, ...]:
        """For x [T, in]: y [T, out], and what `backward` wants to know."""

    def backward(self, dy: Tensor, kept: Sequence[Tensor], deeper: bool, *about: Any) -> Tensor | None:
        """The gradient by x of that by y, if `deeper`. Adds to the adapters' gradients; does not write to `dy`."""


class Step(torch.autograd.Function):
    """A part as one step of autograd, x [..., in] to [..., out].

    `anchor`, any tensor with a gradient, makes autograd ask for the backward pass of the first layer too, whose input needs none.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor | None, part: Part, *about: Any) -> Tensor:
        y, *kept = part.forward(x.reshape(-1, x.shape[-1]), *about)
        ctx.save_for_backward(*kept)
        ctx.part, ctx.about, ctx.shape = part, about, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        dy = outer[0].reshape(-1, outer[0].shape[-1])
        dx = ctx.part.backward(dy, ctx.saved_tensors, ctx.needs_input_grad[0], *ctx.about)
        return None if dx is None else dx.view(ctx.shape), None, None, *(None for _ in ctx.about)


@dataclass
class Projection:
    """y = x W^T + bias, and the adapter's."""

    weight: Tensor
    bias: Tensor | None
    adapters: Adapters

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        made, low = self.adapters.forward(x)
        return product(x, self.weight, self.bias, made), x, low

    def backward(self, dy: Tensor, kept: Sequence[Tensor], deeper: bool) -> Tensor | None:
        dx = product(dy, self.weight.t()) if deeper else None
        x, low = kept
        self.adapters.backward(dy, x, low, dx)
        return dx


@dataclass
class Attention:
    """o(attend(turn(q(x)), turn(k(x)), v(x))) over a packed row x [T, H], each projection with its adapter."""

    inner: Tensor  # [(heads + 2 groups) D, H]: q's weights over k's over v's
    bias: Tensor | None  # likewise
    outer: Tensor  # o's weights
    heads: int
    groups: int
    scale: float
    window: int | None  # as in tree_attention.py
    of_inner: Adapters
    of_outer: Adapters

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        """`cos` and `sin` [T, 1, D / 2] turn the two halves of each query and key (rotary positions, arXiv 2104.09864)."""
        made, low = self.of_inner.forward(x)
        rows = product(x, self.inner, self.bias, made)
        by_head = rows.view(len(rows), self.heads + 2 * self.groups, -1)
        _turn(by_head[:, : self.heads + self.groups], cos, sin)
        seen, *attended = attend(by_head, self.groups, self.scale, layout, self.window)
        made, low_of_outer = self.of_outer.forward(seen)
        return product(seen, self.outer, None, made), x, low, seen, low_of_outer, *attended

    def backward(self, dy: Tensor, kept: Sequence[Tensor], deeper: bool, cos: Tensor, sin: Tensor, layout: Layout) -> Tensor | None:
        x, low, seen, low_of_outer, *attended = kept
        d_seen = product(dy, self.outer.t())
        self.of_outer.backward(dy, seen, low_of_outer, d_seen)
        shape = torch.Size((len(x), self.heads + 2 * self.groups, seen.shape[1] // self.heads))
        d_by_head = attend_backward(attended, d_seen, shape, self.groups, self.scale, layout, self.window)
        _turn(d_by_head[:, : self.heads + self.groups], cos, -sin)
        d_rows = d_by_head.view(len(x), -1)
        dx = product(d_rows, self.inner.t()) if deeper else None
        self.of_inner.backward(d_rows, x, low, dx)
        return dx


@dataclass
class Gated:
    """y = down(silu(gate(x)) * up(x)), each projection with its adapter."""

    both: Tensor  # [2 F, H]: gate's weights over up's
    down: Tensor
    of_both: Adapters
    of_down: Adapters

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        made, low = self.of_both.forward(x)
        gate_up = product(x, self.both, None, made)
        gate, up = gate_up.chunk(2, dim=1)
        hidden = silu(gate).mul_(up)
        made, low_of_down = self.of_down.forward(hidden)
        return product(hidden, self.down, None, made), x, gate_up, low, low_of_down

    def backward(self, dy: Tensor, kept: Sequence[Tensor], deeper: bool) -> Tensor | None:
        x, gate_up, low, low_of_down = kept
        gate, up = gate_up.chunk(2, dim=1)
        activated = silu(gate)
        d_hidden = product(dy, self.down.t())
        self.of_down.backward(dy, activated * up, low_of_down, d_hidden)
        d_both = torch.empty_like(gate_up)
        d_gate, d_up = d_both.chunk(2, dim=1)
        torch.mul(d_hidden, activated, out=d_up)
        torch.ops.aten.silu_backward.grad_input(d_hidden.mul_(up), gate, grad_input=d_gate)
        dx = product(d_both, self.both.t()) if deeper else None
        self.of_both.backward(d_both, x, low, dx)
        return dx


@dataclass
class Norm:
    """Root-mean-square norm (arXiv 1910.07467) with a frozen weight: keeps its input and one number a token."""

    weight: Tensor
    epsilon: float

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        wide = x.float()
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(self.epsilon).rsqrt_()
        return (wide * inverse).to(x.dtype).mul_(self.weight), x, inverse

    def backward(self, dy: Tensor, kept: Sequence[Tensor], deeper: bool) -> Tensor:
        x, inverse = kept
        dn, wide = (dy * self.weight).float(), x.float()
        along = (dn * wide).mean(-1, keepdim=True).mul_(inverse.pow(3))
        return dn.mul_(inverse).addcmul_(wide, along, value=-1).to(x.dtype)


@dataclass
class Layer:
    """x + attention(norm(x)), and to that its feed-forward likewise."""

    before: Norm
    attention: Attention
    between: Norm
    gated: Gated

    def forward(self, x: Tensor, *about: Any) -> tuple[Tensor, ...]:
        normed, *of_before = self.before.forward(x)
        middle, *of_attention = self.attention.forward(normed, *about)
        middle.add_(x)
        normed, *of_between = self.between.forward(middle)
        y, *of_gated = self.gated.forward(normed)
        return y.add_(middle), *of_before, *of_between, *of_gated, *of_attention

    def backward(self, dy: Tensor, kept: Sequence[Tensor], deeper: bool, *about: Any) -> Tensor | None:
        of_before, of_between, of_gated, of_attention = kept[:2], kept[2:4], kept[4:8], kept[8:]
        d_normed: Any = self.gated.backward(dy, of_gated, True)
        d_middle = self.between.backward(d_normed, of_between, True).add_(dy)
        d_normed = self.attention.backward(d_middle, of_attention, deeper, *about)
        return self.before.backward(d_normed, of_before, True).add_(d_middle) if deeper else None


def _turn(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turn the halves of each head [T, n, D] in place by the angles whose `cos` and `sin` [T, 1, D / 2] are given."""
    first, second = heads.chunk(2, dim=-1)
    kept = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(kept)
