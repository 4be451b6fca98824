"""Products of packed rows with a layer's weights, by whichever of torch's two libraries is faster on this processor.

For float32 torch asks its BLAS (MKL, mostly), for bfloat16 oneDNN. On AMD processors oneDNN's float32 is more than twice as fast as MKL's,
with the weights as they lie (benchmarks/README.md); so it is asked there too, through the operator that `torch.compile` uses for it.
"""

import os
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fine_tuning.config import Training
from fine_tuning.errors import TrainingError

Library = Literal["blas", "onednn"]
"""Of float32 products on a CPU; there is no choice elsewhere."""

CLEARLY = 0.9  # of the other's time
PROBED = (256, 768, 3072)  # tokens, width, width: a small model's
ENOUGH, _ROUNDS = 0.2, 3  # seconds, and rounds, of a probe at least
_WIDE = 1024  # numbers: a narrower product with few rows gains less than it costs to make oneDNN's kernel for it

# oneDNN makes a kernel for each shape, half a megabyte, and keeps 1024 of them; but hardly two packed rows have as many tokens. A step has
# up to some thirty shapes; if fewer are kept, all are made anew in each layer. It asks for these numbers when it multiplies first, also in
# bfloat16.
_KERNEL_CACHES, _KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"), 64

_library: Library = "blas"


def choose(settings: Training) -> Library:
    """`training.products`; for `auto` the faster one. TRL's own trainer asks torch's BLAS, whatever is chosen."""
    if settings.backend == "trl":
        return "blas"
    _keep_few_kernels()
    return _faster() if settings.products == "auto" else settings.products


def use(library: Library) -> None:
    """From now on, in this process. TrainingError if this torch does not have it."""
    global _library
    if library == "onednn" and not _has_onednn():
        raise TrainingError("training.products is onednn, which this torch does not have: set it to blas or auto")
    _keep_few_kernels()
    _library = library


def used() -> Library:
    return _library


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias [..., out] for `x` [..., in] and `weight` [out, in], which may be another's transpose. Autograd does not see it."""
    return _by_onednn(x, weight, bias) if _for_onednn(x, weight) else _by_blas(x, weight, bias)


def add_products(totals: Sequence[Tensor], one: Tensor, other: Tensor, scale: float = 1.0) -> None:
    """total [n, r] += scale one^T other for each of `totals`, from its own columns of `one` [T, all n] and of `other` [T, all r], in the
    totals' number format. All r are small."""
    if one.shape[1] >= _WIDE and _for_onednn(other, one):
        made = _by_onednn(other.t(), one.t(), None).t()  # all at once, though what is of one's and another's columns is not wanted
        for index, (total, rows) in enumerate(zip(totals, _shared_out(made, totals, 0), strict=True)):
            total.add_(_shared_out(rows, totals, 1)[index], alpha=scale)
        return
    for total, left, right in zip(totals, _shared_out(one.t(), totals, 0), _shared_out(other, totals, 1), strict=True):
        if total.dtype == left.dtype:
            total.addmm_(left, right, alpha=scale)
        else:
            total.add_(left @ right, alpha=scale)


def _shared_out(matrix: Tensor, totals: Sequence[Tensor], side: int) -> Sequence[Tensor]:
    """Its rows (`side` 0) or columns (1) for each of `totals`, as many as each has. Even views take their time: none for one total."""
    return matrix.split_with_sizes([total.shape[side] for total in totals], dim=side) if len(totals) > 1 else (matrix,)


def relay(model: nn.Module) -> None:
    """Let the model's linear layers multiply by the library that is used, if it is not torch's own way; what they answer is the same."""
    for module in model.modules() if _library == "onednn" else ():
        if type(module) is nn.Linear:
            vars(module)["forward"] = partial(_linear, module)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    y: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), layer.weight, layer.bias)
    return y.view(*x.shape[:-1], layer.out_features)


class _Linear(torch.autograd.Function):
    """`product` with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (dy,), (for_x, for_weight, for_bias) = outer, ctx.needs_input_grad
        dx = product(dy, weight.t()) if for_x else None
        return dx, product(dy.t(), x.t()) if for_weight else None, dy.sum(0) if for_bias else None


def least_seconds(enough: float, *ways: Callable[[], Any]) -> list[float]:
    """The least that each of `ways` takes, each three times at least and for `enough` seconds in all. In turns, since what else runs on
    this machine comes and goes."""
    best, start, rounds = [float("inf")] * len(ways), time.perf_counter(), 0
    while rounds < _ROUNDS or time.perf_counter() - start < enough:
        for index, way in enumerate(ways):
            began = time.perf_counter()
            way()
            best[index] = min(best[index], time.perf_counter() - began)
        rounds += 1
    return best


@cache
def _faster() -> Library:
    """Of a step's products, forward and backward (probed in less than half a second); BLAS unless oneDNN is there and clearly faster."""
    if torch.cuda.is_available() or not _has_onednn():
        return "blas"
    tokens, width, wide = PROBED
    x, y, weight = torch.randn(tokens, width), torch.randn(tokens, wide), torch.randn(wide, width)
    blas, onednn = least_seconds(ENOUGH, *(lambda by=by: (by(x, weight, None), by(y, weight.t(), None)) for by in (_by_blas, _by_onednn)))
    return "onednn" if onednn < CLEARLY * blas else "blas"


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _keep_few_kernels() -> None:
    for name in _KERNEL_CACHES:
        os.environ.setdefault(name, str(_KERNELS))


def _for_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN multiplies. Not where `weight` is a part of a matrix: it has no kernel for that, and takes a second."""
    if _library != "onednn" or not (x.is_cpu and x.dtype == weight.dtype == torch.float32):
        return False
    rows, columns = weight.shape
    return weight.stride() in ((columns, 1), (1, rows))


def _by_blas(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return nn.functional.linear(x, weight, bias)


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made
