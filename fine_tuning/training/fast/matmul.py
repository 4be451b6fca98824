"""Compute matrix products with the faster of torch's two CPU libraries, BLAS and oneDNN.

Torch computes float32 products with its BLAS (mostly MKL) and bfloat16 products with oneDNN. On AMD
processors oneDNN is more than twice as fast as MKL for float32 too (benchmarks/README.md). This
module calls oneDNN through the operator that `torch.compile` uses.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor, nn

from fine_tuning.config.training import Training
from fine_tuning.errors import TrainingError
from fine_tuning.training.autograd import Context, apply

Library = Literal["blas", "onednn"]
"""The library that computes float32 products on a CPU. For other products torch offers no choice."""

CLEARLY = 0.9  # an alternative counts as clearly faster if it takes less than this share of the time
PROBED = (256, 768, 3072)  # tokens, inputs and outputs of a probed product, as in a small model
ENOUGH, _ROUNDS = 0.2, 3  # minimum seconds and minimum rounds of a comparison of speeds
_WIDE = 1024  # minimum width for oneDNN: for narrower products, building its kernel costs more than it gains

# oneDNN builds a kernel of half a megabyte for each shape and by default caches 1024, although
# packed rows hardly ever have the same number of tokens. A step has about thirty shapes, so with
# fewer cached kernels each layer would rebuild them. oneDNN reads these variables at its first
# product.
_KERNEL_CACHES, _KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"), 64

_library: Library = "blas"


def choose(settings: Training) -> Library:
    """Return the library that `training.products` names, or for `auto` the faster one.

    Without `training.fused`, and with TRL's trainer, return BLAS, torch's default. The library that
    `product` uses is not changed; `use` does that.
    """
    if settings.backend == "trl" or not settings.fused:
        return "blas"
    if settings.products != "auto":
        return settings.products
    with few_kernels():
        return _faster()


def use(library: Library) -> None:
    """Set the library that `product` uses in this process. Raises TrainingError if torch lacks it."""
    global _library
    if library == "onednn" and not _has_onednn():
        raise TrainingError(
            "training.products is onednn, but the installed PyTorch has no oneDNN: set it to blas or auto"
        )
    for name in _KERNEL_CACHES:
        os.environ.setdefault(name, str(_KERNELS))
    _library = library


def used() -> Library:
    """Return the library that computes matrix products in this process (`product`)."""
    return _library


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, library: Library | None = None) -> Tensor:
    """Return x W^T + bias [..., out] for `x` [..., in] and `weight` W [out, in].

    `weight` may be a transposed view. Use this where autograd records nothing, as in custom
    autograd functions: with oneDNN the product has no gradient. `library`: None means the library
    that was set by `use`.
    """
    return _by_onednn(x, weight, bias) if _for_onednn(x, weight, library or _library) else _by_blas(x, weight, bias)


def add_products(totals: Sequence[Tensor], one: Tensor, other: Tensor, scale: float = 1.0) -> None:
    """Add scale * left^T right to each matrix [n, r] of `totals`, in that matrix's number format.

    `left` and `right` are the columns of `one` [T, sum of n] and of `other` [T, sum of r] that
    belong to the matrix; they are in the order of `totals`. All r are small.
    """
    if one.shape[1] >= _WIDE and _for_onednn(other, one, _library):
        # One product for all totals, although only the blocks on its diagonal are needed.
        made = _by_onednn(other.t(), one.t(), None).t()
        for index, (total, rows) in enumerate(zip(totals, _shares(made, totals, 0), strict=True)):
            total.add_(_shares(rows, totals, 1)[index], alpha=scale)
        return
    for total, left, right in zip(totals, _shares(one.t(), totals, 0), _shares(other, totals, 1), strict=True):
        if total.dtype == left.dtype:
            total.addmm_(left, right, alpha=scale)
        else:
            total.add_(left @ right, alpha=scale)


def _shares(matrix: Tensor, totals: Sequence[Tensor], side: int) -> Sequence[Tensor]:
    """Return for each total the rows (`side` 0) or columns (`side` 1) of `matrix` that belong to it.

    A single total gets the matrix itself, since creating a view takes time too.
    """
    return matrix.split_with_sizes([total.shape[side] for total in totals], dim=side) if len(totals) > 1 else (matrix,)


def relay(model: nn.Module) -> None:
    """Make the model's linear layers use oneDNN, if that is the library in use; else do nothing.

    Their results are the same up to rounding.
    """
    for module in model.modules() if _library == "onednn" else ():
        if type(module) is nn.Linear:
            vars(module)["forward"] = partial(_linear, module)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    y = apply(_Linear, x.reshape(-1, x.shape[-1]), layer.weight, layer.bias)
    return y.view(*x.shape[:-1], layer.out_features)


class _Linear(torch.autograd.Function):
    """`product` as an autograd function, with gradients for x, the weight and the bias."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Context, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (grad_y,), (for_x, for_weight, for_bias) = outer, ctx.needs_input_grad
        grad_x = product(grad_y, weight.t()) if for_x else None
        return grad_x, product(grad_y.t(), x.t()) if for_weight else None, grad_y.sum(0) if for_bias else None


def least_seconds(enough: float, *ways: Callable[[], object]) -> list[float]:
    """Return for each function of `ways` the shortest time in seconds that a call took.

    Each is called at least three times, and all together for at least `enough` seconds. The
    functions take turns, so that other programs on the machine slow them all down equally.
    """
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
    """Return the faster library for the products of a training step, forward and backward.

    Return BLAS unless oneDNN is clearly faster. Measuring takes half a second.
    """
    if torch.cuda.is_available() or not _has_onednn():
        return "blas"
    tokens, width, wide = PROBED
    x, y, weight = torch.randn(tokens, width), torch.randn(tokens, wide), torch.randn(wide, width)

    def step(multiply: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> None:
        multiply(x, weight, None)
        multiply(y, weight.t(), None)

    blas, onednn = least_seconds(ENOUGH, partial(step, _by_blas), partial(step, _by_onednn))
    return "onednn" if onednn < CLEARLY * blas else "blas"


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@contextmanager
def few_kernels() -> Iterator[None]:
    """Set environment variables, within the `with` block, that limit the number of kernels that oneDNN caches.

    oneDNN reads these variables at its first product in the process, so they have an effect only if
    that product is computed within the block.
    """
    added = [name for name in _KERNEL_CACHES if name not in os.environ]
    os.environ.update(dict.fromkeys(added, str(_KERNELS)))
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _for_onednn(x: Tensor, weight: Tensor, library: Library) -> bool:
    """Return whether oneDNN should compute the product: a float32 product on a CPU, if `library` is oneDNN.

    Return False if `weight` is a slice of a larger matrix: oneDNN has no kernel for that, and would
    take about a second.
    """
    if library != "onednn" or not (x.is_cpu and x.dtype == weight.dtype == torch.float32):
        return False
    rows, columns = weight.shape
    return weight.stride() in ((columns, 1), (1, rows))


def _by_blas(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return nn.functional.linear(x, weight, bias)


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made
