"""The same model, with fewer passes over memory: LoRA projections, gated feed-forwards and norms as single autograd steps.

A small model's step on a CPU spends a third of its time between the matrix products. Here a product and its adapter become one output,
written twice instead of read and written five times; products that share their input become one; nothing is saved for the backward pass
that is cheap to compute again. Loss and gradients stay those of PEFT and Transformers (tests/training/test_fused.py).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

_Forward = Callable[..., Tensor]


def fuse(model: nn.Module) -> int:
    """Replace the forward passes that can be fused; how many were. Call it where the weights already are (device, dtype).

    Left alone: LoRA with dropout or DoRA, several adapters at once, quantised weights, and every module that answers a probe otherwise
    than its fused form would.
    """
    done = 0
    for module in model.modules():
        if "forward" not in vars(module) and (fused := _fused(module)) is not None:  # a fused one stays as it is
            module.forward = fused
            done += 1
    return done


@torch.no_grad()
def _fused(module: Any) -> _Forward | None:
    if _plain(module):
        return _projection(module)
    if all(_plain(getattr(module, name, None)) for name in ("gate_proj", "up_proj", "down_proj")):
        return _gated(module)
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon") and not module.weight.requires_grad:
        return _norm(module)
    return None


def _alike(forward: _Forward, fused: _Forward, weight: Tensor) -> bool:
    """Whether both give the same for inputs as wide as `weight`'s last dimension."""
    probe = torch.linspace(-2, 2, 3 * weight.shape[-1], device=weight.device).to(weight.dtype).view(1, 3, -1)
    return torch.allclose(forward(probe), fused(probe), rtol=1e-2, atol=1e-4)


def _plain(module: Any) -> bool:
    """Whether `module` is a frozen linear layer under one LoRA adapter with nothing special about it."""
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or len(module.active_adapters) != 1 or module.merged or module.fan_in_fan_out:
        return False
    (name,) = module.active_adapters
    base = module.get_base_layer()
    return (
        type(base) is nn.Linear
        and not base.weight.requires_grad
        and (base.bias is None or not base.bias.requires_grad)
        and not module.use_dora.get(name, False)
        and isinstance(module.lora_dropout[name], nn.Identity)
        and module.lora_A[name].bias is None
        and module.lora_B[name].bias is None
    )


def _adapter(module: Any) -> tuple[Tensor, Tensor, float]:
    (name,) = module.active_adapters
    return module.lora_A[name].weight, module.lora_B[name].weight, float(module.scaling[name])


def _projection(module: Any) -> _Forward:
    original, base = module.forward, module.get_base_layer()

    def forward(x: Tensor, *arguments: Any, **named: Any) -> Tensor:
        if module.disable_adapters or arguments or named:
            result: Tensor = original(x, *arguments, **named)
            return result
        return _Projection.apply(x, base.weight, base.bias, *_adapter(module))

    return forward


def _gated(module: Any) -> _Forward | None:
    original = module.forward
    layers = [module.gate_proj, module.up_proj, module.down_proj]
    bases = [layer.get_base_layer() for layer in layers]
    if any(base.bias is not None for base in bases):
        return None
    both = torch.cat([base.weight.data for base in bases[:2]])

    def forward(x: Tensor) -> Tensor:
        if layers[0].disable_adapters:
            result: Tensor = original(x)
            return result
        (a1, b1, s1), (a2, b2, s2), (a3, b3, s3) = (_adapter(layer) for layer in layers)
        return _Gated.apply(x, both, bases[2].weight, a1, b1, a2, b2, a3, b3, (s1, s2, s3))

    if not _alike(original, forward, both):
        return None
    for base, part in zip(bases[:2], both.chunk(2), strict=True):
        base.weight.data = part  # a view: no weight is held twice
    return forward


def _norm(module: Any) -> _Forward | None:
    def forward(x: Tensor) -> Tensor:
        return _Norm.apply(x, module.weight, module.variance_epsilon)

    return forward if _alike(module.forward, forward, module.weight) else None


def _add_adapter(out: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """out += scale * x @ a.T @ b.T in place; x @ a.T."""
    down = x @ a.t()
    out.addmm_(down, b.t(), alpha=scale)
    return down


class _Projection(torch.autograd.Function):
    """y = x W^T + bias + scale (x A^T) B^T, for x [..., in]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat, a_, b_ = x.reshape(-1, x.shape[-1]), a.to(x.dtype), b.to(x.dtype)
        y = flat @ weight.t() if bias is None else torch.addmm(bias, flat, weight.t())
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
        return dx, None, None, (inner.t() @ x).to(a.dtype), (dy.t() @ down).mul_(ctx.scale).to(b.dtype), None


class _Gated(torch.autograd.Function):
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
        sigmoid = torch.sigmoid(gate)
        activated = gate * sigmoid
        hidden = activated * up
        inner3 = (dy @ adapters[5]).mul_(ctx.scales[2])
        d_hidden = (dy @ down).addmm_(inner3, adapters[4])
        da3, db3 = inner3.t() @ hidden, (dy.t() @ low3).mul_(ctx.scales[2])
        d_both = torch.empty_like(gate_up)
        d_gate, d_up = d_both.chunk(2, dim=1)
        torch.mul(d_hidden, activated, out=d_up)
        # d silu / d gate = sigmoid + activated * (1 - sigmoid)
        slope = torch.addcmul(sigmoid, activated, 1 - sigmoid)
        torch.mul(d_hidden.mul_(up), slope, out=d_gate)
        inner1, inner2 = (d_gate @ adapters[1]).mul_(ctx.scales[0]), (d_up @ adapters[3]).mul_(ctx.scales[1])
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (d_both @ both).addmm_(inner1, adapters[0]).addmm_(inner2, adapters[2]).view(ctx.shape)
        gradients = (
            *(inner1.t() @ x, (d_gate.t() @ low1).mul_(ctx.scales[0])),
            *(inner2.t() @ x, (d_up.t() @ low2).mul_(ctx.scales[1])),
            *(da3, db3),
        )
        return dx, None, None, *(each.to(a1.dtype) for each in gradients), None


class _Norm(torch.autograd.Function):
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
