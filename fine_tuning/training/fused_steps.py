"""Parts of a transformer, each forward and backward: a LoRA projection, attention, a gated feed-forward, a norm, and a layer of them.

Products that share their input become one, and their adapters a part of it (adapters.py), for which whoever makes the input leaves some
columns free beside it. Nothing is saved for the backward pass that is cheap to compute again. Weights are frozen: gradients go to the
input, and to the adapters where they lie. T is a packed row's number of tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import silu

from fine_tuning.training.adapters import Adapted, apart
from fine_tuning.training.tree_attention import Layout, attend, attend_backward


class Part(Protocol):
    """`about` is what else it is told of the row: the same forward and backward."""

    @property
    def room(self) -> int:
        """How many columns `forward` wants beside its input, to write in."""

    def forward(self, x: Tensor, *about: Any) -> tuple[Tensor, ...]:
        """For x [T, in + room]: y [T, out], and what `backward` wants to know."""

    def backward(self, dy: Tensor, kept: Sequence[Tensor], deeper: bool, *about: Any) -> Tensor | None:
        """The gradient by x of that by y, if `deeper`. Adds to the adapters' gradients; writes over what was kept, never to `dy`."""


class Step(torch.autograd.Function):
    """A part as one step of autograd, x [..., in] to [..., out].

    `anchor`, any tensor with a gradient, makes autograd ask for the backward pass of the first layer too, whose input needs none.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor | None, part: Part, *about: Any) -> Tensor:
        y, *kept = part.forward(_with_room(x.reshape(-1, x.shape[-1]), part.room), *about)
        ctx.save_for_backward(*kept)
        ctx.part, ctx.about, ctx.shape = part, about, x.shape
        made: Tensor = torch.ops.aten._unsafe_view(y, [*x.shape[:-1], y.shape[-1]])  # no view: some models write over it (Olmo)
        return made

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        dy = outer[0].reshape(-1, outer[0].shape[-1])
        dx = ctx.part.backward(dy, ctx.saved_tensors, ctx.needs_input_grad[0], *ctx.about)
        return None if dx is None else dx.view(ctx.shape), None, None, *(None for _ in ctx.about)


class Angles:
    """By which the two halves of each query and key are turned (rotary positions, arXiv 2104.09864): [T, 1, D] each."""

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        """As Transformers gives them [1, T, D], both halves alike."""
        half = sin.shape[-1] // 2
        self.cos, self.back = cos[0, :, None], torch.cat([sin[0, :, None, :half], -sin[0, :, None, half:]], dim=-1)
        self.sin = -self.back


@dataclass
class Projection:
    """y = x W^T + bias, and the adapter's. Keeps its input as it is, which others may keep too."""

    only: Adapted
    room = 0

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        wide = _with_room(x, self.only.room)
        return self.only.forward(wide), x, apart(wide, self.only.room)[1].clone()

    def backward(self, dy: Tensor, kept: Sequence[Tensor], deeper: bool) -> Tensor | None:
        x, low = kept
        return self.only.backward(dy, x, low, deeper)


@dataclass
class Attention:
    """o(attend(turn(q(x)), turn(k(x)), v(x))) over a packed row x [T, H], each projection with its adapter."""

    inner: Adapted  # [(heads + 2 groups) D, H]: q over k over v
    outer: Adapted  # o
    heads: int
    groups: int
    scale: float
    window: int | None  # as in tree_attention.py

    @property
    def room(self) -> int:
        return self.inner.room

    def forward(self, x: Tensor, angles: Angles, layout: Layout) -> tuple[Tensor, ...]:
        by_head = self.inner.forward(x).view(x.shape[0], self.heads + 2 * self.groups, -1)
        _turn(by_head.narrow(1, 0, self.heads + self.groups), angles.cos, angles.sin)
        seen, *attended = attend(by_head, self.groups, self.scale, layout, self.window)
        seen = _with_room(seen, self.outer.room)
        return self.outer.forward(seen), x, seen, *attended

    def backward(self, dy: Tensor, kept: Sequence[Tensor], deeper: bool, angles: Angles, layout: Layout) -> Tensor | None:
        x, seen, *attended = kept
        d_seen: Any = self.outer.backward(dy, *apart(seen, self.outer.room))
        shape = torch.Size((x.shape[0], self.heads + 2 * self.groups, d_seen.shape[1] // self.heads))
        d_by_head = attend_backward(attended, d_seen, shape, self.groups, self.scale, layout, self.window)
        _turn(d_by_head.narrow(1, 0, self.heads + self.groups), angles.cos, angles.back)
        return self.inner.backward(d_by_head.view(x.shape[0], -1), *apart(x, self.room), deeper)


@dataclass
class Gated:
    """y = down(silu(gate(x)) * up(x)), each projection with its adapter."""

    both: Adapted  # [2 F, H]: gate over up
    down: Adapted

    @property
    def room(self) -> int:
        return self.both.room

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        gate_up = self.both.forward(x)
        gate, up = gate_up.chunk(2, dim=1)
        hidden = x.new_empty(x.shape[0], gate.shape[1] + self.down.room)
        own, low = apart(hidden, self.down.room)
        torch.ops.aten.silu.out(gate, out=own).mul_(up)
        return self.down.forward(hidden), x, gate_up, low.clone()

    def backward(self, dy: Tensor, kept: Sequence[Tensor], deeper: bool) -> Tensor | None:
        x, gate_up, low = kept
        gate, up = gate_up.chunk(2, dim=1)
        activated = silu(gate)
        hidden = activated * up
        d_hidden: Any = self.down.backward(dy, hidden, low)
        # Each gradient takes the place of what it is the gradient by: memory that is not in the cache costs more than the sums.
        d_activated = torch.mul(d_hidden, up, out=hidden)
        torch.mul(d_hidden, activated, out=up)
        torch.ops.aten.silu_backward.grad_input(d_activated, gate, grad_input=gate)
        return self.both.backward(gate_up, *apart(x, self.room), deeper)


@dataclass
class Norm:
    """Root-mean-square norm (arXiv 1910.07467) with a frozen weight: keeps its input and one number a token."""

    weight: Tensor
    epsilon: float
    room = 0

    def __post_init__(self) -> None:
        self._epsilon = torch.tensor(self.epsilon, device=self.weight.device)

    def forward(self, x: Tensor, room: int = 0) -> tuple[Tensor, ...]:
        """`room`: how many columns to leave free beside y."""
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = torch.addcmul(self._epsilon, length, length, value=1 / x.shape[1]).rsqrt_()
        y = x.new_empty(x.shape[0], x.shape[1] + room)
        torch.mul(wide, inverse, out=y.narrow(1, 0, x.shape[1])).mul_(self.weight)
        return y, x, inverse

    def backward(self, dy: Tensor, kept: Sequence[Tensor], deeper: bool) -> Tensor:
        x, inverse = kept
        dn, wide = (dy * self.weight).float(), x.float()
        along = (dn * wide).sum(-1, keepdim=True).mul_(inverse).mul_(inverse)
        return dn.addcmul_(wide, along, value=-1 / x.shape[1]).mul_(inverse).to(x.dtype)


@dataclass
class Layer:
    """x + attention(norm(x)), and to that its feed-forward likewise."""

    before: Norm
    attention: Attention
    between: Norm
    gated: Gated
    room = 0

    def forward(self, x: Tensor, *about: Any) -> tuple[Tensor, ...]:
        normed, *of_before = self.before.forward(x, self.attention.room)
        middle, *of_attention = self.attention.forward(normed, *about)
        middle.add_(x)
        normed, *of_between = self.between.forward(middle, self.gated.room)
        y, *of_gated = self.gated.forward(normed)
        return y.add_(middle), *of_before, *of_between, *of_gated, *of_attention

    def backward(self, dy: Tensor, kept: Sequence[Tensor], deeper: bool, *about: Any) -> Tensor | None:
        of_before, of_between, of_gated, of_attention = kept[:2], kept[2:4], kept[4:7], kept[7:]
        d_normed: Any = self.gated.backward(dy, of_gated, True)
        d_middle = self.between.backward(d_normed, of_between, True).add_(dy)
        d_normed = self.attention.backward(d_middle, of_attention, deeper, *about)
        return self.before.backward(d_normed, of_before, True).add_(d_middle) if deeper else None


def _with_room(x: Tensor, room: int) -> Tensor:
    """A copy of x [T, n] with so many columns more, not yet written; x itself if there are none."""
    if not room:
        return x
    wide = x.new_empty(x.shape[0], x.shape[1] + room)
    wide.narrow(1, 0, x.shape[1]).copy_(x)
    return wide


def _turn(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turn the halves of each head [T, n, D] in place, by `Angles`."""
    swapped = heads.roll(heads.shape[2] // 2, dims=2)
    heads.mul_(cos).addcmul_(swapped, sin)
