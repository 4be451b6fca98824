"""Parts of a transformer layer as single autograd steps: a LoRA projection, attention, a gated feed-forward, a norm.

A product and its adapter become one output, written twice instead of read and written five times; products that share their input become
one; nothing is saved for the backward pass that is cheap to compute again. Weights are frozen: gradients go to the input and to the
adapters. An adapter (LoRA, arXiv 2106.09685) is A [r, in], B [out, r] and a scale; T is a packed row's number of tokens.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from fine_tuning.training.tree_attention import attend, attend_backward


class Projection(torch.autograd.Function):
    """y = x W^T + bias + scale (x A^T) B^T, for x [..., in]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat, a_, b_ = x.reshape(-1, x.shape[-1]), a.to(x.dtype), b.to(x.dtype)
        y = _product(flat, weight, bias)
        down = _add_adapter(y, flat, a_, b_, scale)
        ctx.save_for_backward(flat, weight, a, b, down)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        x, weight, a, b, down = ctx.saved_tensors
        dy = outer[0].reshape(-1, outer[0].shape[-1])
        inner = (dy @ b.to(dy.dtype)).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy @ weight).addmm_(inner, a.to(dy.dtype)).view(ctx.shape)
        return dx, None, None, (inner.t() @ x).to(a.dtype), _by_b(dy, down, ctx.scale).to(b.dtype), None


class Attention(torch.autograd.Function):
    """o(attend(turn(q(x)), turn(k(x)), v(x))) over a packed row x [1, T, H], each projection with its adapter.

    `weights` [(heads + 2 groups) D, H] holds q's over k's over v's, `bias` likewise or None; `cos` and `sin` [T, 1, D / 2] turn the two
    halves of each query and key (rotary positions, arXiv 2104.09864); `layout` and `window` as in tree_attention.py.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weights: Tensor,
        bias: Tensor | None,
        out: Tensor,
        *rest: Any,  # A and B of q, k, v and o, then what follows
    ) -> Tensor:
        matrices, (scales, cos, sin, (heads, groups), scale, layout, window) = rest[:8], rest[8:]
        adapters = [matrix.to(x.dtype) for matrix in matrices]
        flat = x.reshape(-1, x.shape[-1])
        rows = _product(flat, weights, bias)
        sizes = [len(matrix) for matrix in matrices[1:6:2]]
        lows = [
            _add_adapter(part, flat, adapters[2 * index], adapters[2 * index + 1], scales[index])
            for index, part in enumerate(rows.split(sizes, dim=1))
        ]
        by_head = rows.view(len(rows), heads + 2 * groups, -1)
        _turn(by_head[:, : heads + groups], cos, sin)
        seen = attend(by_head, groups, scale, layout, window)
        y = seen @ out.t()
        lows.append(_add_adapter(y, seen, adapters[6], adapters[7], scales[3]))
        ctx.save_for_backward(flat, weights, out, rows, seen, cos, sin, *lows, *matrices)
        ctx.scales, ctx.heads, ctx.sizes, ctx.about = scales, heads, sizes, (groups, scale, layout, window)
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        x, weights, out, rows, seen, cos, sin, *rest = ctx.saved_tensors
        lows, matrices = rest[:4], rest[4:]
        dy = outer[0].reshape(-1, outer[0].shape[-1])
        adapters = [matrix.to(dy.dtype) for matrix in matrices]
        inner = (dy @ adapters[7]).mul_(ctx.scales[3])
        d_seen = (dy @ out).addmm_(inner, adapters[6])
        by_output = [inner.t() @ seen, _by_b(dy, lows[3], ctx.scales[3])]
        groups = ctx.about[0]
        by_head = rows.view(len(rows), ctx.heads + 2 * groups, -1)
        d_rows = attend_backward(by_head, d_seen, *ctx.about)
        _turn(d_rows[:, : ctx.heads + groups], cos, -sin)
        d_flat = d_rows.view(len(rows), -1)
        parts = d_flat.split(ctx.sizes, dim=1)
        inner = torch.cat([part @ b for part, b in zip(parts, adapters[1:6:2], strict=True)], dim=1)
        ranks = [len(a) for a in adapters[0:6:2]]
        for each, scale in zip(inner.split(ranks, dim=1), ctx.scales, strict=False):
            each.mul_(scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (d_flat @ weights).addmm_(inner, torch.cat(adapters[0:6:2])).view(outer[0].shape)
        by_a = (inner.t() @ x).split(ranks)
        by_b = [_by_b(part, low, scale) for part, low, scale in zip(parts, lows, ctx.scales, strict=False)]
        gradients = [each for pair in zip(by_a, by_b, strict=True) for each in pair] + by_output
        return dx, None, None, None, *(each.to(matrices[0].dtype) for each in gradients), *(None,) * 7


class Gated(torch.autograd.Function):
    """y = down(silu(gate(x)) * up(x)), each projection with its adapter; `both` [2 F, H] holds gate's weight over up's."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        both: Tensor,
        down: Tensor,
        a1: Tensor,
        b1: Tensor,
        a2: Tensor,
        b2: Tensor,
        a3: Tensor,
        b3: Tensor,
        scales: tuple[float, float, float],
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        adapters = [matrix.to(x.dtype) for matrix in (a1, b1, a2, b2, a3, b3)]
        gate_up = flat @ both.t()
        gate, up = gate_up.chunk(2, dim=1)
        low1 = _add_adapter(gate, flat, adapters[0], adapters[1], scales[0])
        low2 = _add_adapter(up, flat, adapters[2], adapters[3], scales[1])
        hidden = silu(gate).mul_(up)
        y = hidden @ down.t()
        low3 = _add_adapter(y, hidden, adapters[4], adapters[5], scales[2])
        ctx.save_for_backward(flat, both, down, a1, b1, a2, b2, a3, b3, gate_up, low1, low2, low3)
        ctx.scales, ctx.shape = scales, x.shape
        return y.view(ctx.shape)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        x, both, down, a1, b1, a2, b2, a3, b3, gate_up, low1, low2, low3 = ctx.saved_tensors
        dy = outer[0].reshape(-1, outer[0].shape[-1])
        adapters = [matrix.to(dy.dtype) for matrix in (a1, b1, a2, b2, a3, b3)]
        gate, up = gate_up.chunk(2, dim=1)
        activated = silu(gate)
        inner3 = (dy @ adapters[5]).mul_(ctx.scales[2])
        da3, db3 = inner3.t() @ (activated * up), _by_b(dy, low3, ctx.scales[2])
        d_hidden = (dy @ down).addmm_(inner3, adapters[4])
        d_both = torch.empty_like(gate_up)
        d_gate, d_up = d_both.chunk(2, dim=1)
        torch.mul(d_hidden, activated, out=d_up)
        torch.ops.aten.silu_backward.grad_input(d_hidden.mul_(up), gate, grad_input=d_gate)
        inner1, inner2 = (d_gate @ adapters[1]).mul_(ctx.scales[0]), (d_up @ adapters[3]).mul_(ctx.scales[1])
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (d_both @ both).addmm_(inner1, adapters[0]).addmm_(inner2, adapters[2]).view(ctx.shape)
        gradients = (
            *(inner1.t() @ x, _by_b(d_gate, low1, ctx.scales[0])),
            *(inner2.t() @ x, _by_b(d_up, low2, ctx.scales[1])),
            *(da3, db3),
        )
        return dx, None, None, *(each.to(a1.dtype) for each in gradients), None


class Norm(torch.autograd.Function):
    """Root-mean-square norm (arXiv 1910.07467) with a frozen weight: saves its input and one number a token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return weight * (wide * inverse).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        x, weight, inverse = ctx.saved_tensors
        dn = (outer[0] * weight).float()
        normed = x.float() * inverse
        along = (dn * normed).mean(-1, keepdim=True)
        return dn.addcmul_(normed, along, value=-1).mul_(inverse).to(x.dtype), None, None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())


def _add_adapter(out: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """out += scale * x @ a.T @ b.T in place; x @ a.T."""
    down = x @ a.t()
    out.addmm_(down, b.t(), alpha=scale)
    return down


def _by_b(dy: Tensor, down: Tensor, scale: float) -> Tensor:
    """scale * dy.T @ down: the gradient by B [out, r]. Taken as its transpose, which MKL makes twice as fast for so few columns."""
    return (down.t() @ dy).mul_(scale).t()


def _turn(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turn the halves of each head [T, n, D] in place by the angles whose `cos` and `sin` [T, 1, D / 2] are given."""
    first, second = heads.chunk(2, dim=-1)
    kept = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(kept)
