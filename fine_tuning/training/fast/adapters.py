"""Hold all LoRA adapters (arXiv 2106.09685) in one vector, and their gradients in another.

Each gradient is added to its place in the vector (like `main_grad` of Megatron-LM). Computing the
gradient norm, the optimiser's step and clearing the gradients then take one call each instead of
one for each of hundreds of matrices, which would take a noticeable part of a small model's step on
a CPU. For the same reason each adapter's B is also stored beside the weights that it adapts, as
extra columns, so that one product computes both instead of two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fine_tuning.training.fast.matmul import add_products, product

if TYPE_CHECKING:
    from peft.tuners.lora.layer import Linear as LoraLinear


@dataclass
class Adapted:
    """Frozen layers with the same input, and their adapters: y = [x, scale x A^T] [W, B]^T.

    W stacks the layers' weights, A stacks their adapters' A, and B is a block-diagonal matrix of
    their adapters' B. A single product rounds only once; in bfloat16 a separate addition would
    round away the small contribution of an adapter early in training. R is the sum of the adapters'
    ranks r.
    """

    wide: Tensor  # [out, in + R]: [W, B]
    bias: Tensor | None  # [out]
    a: Tensor  # [R, in]
    grad_a: Tensor  # gradient of `a`
    b: list[Tensor]  # B of each adapter [its layer's out, r]
    grad_b: list[Tensor]  # gradients of `b`
    scale: float  # alpha / r, or alpha / sqrt(r) with rank-stabilised LoRA

    def __post_init__(self) -> None:
        self.extra_columns = len(self.a)  # scratch columns that `forward` needs beside its input
        # These views are created once, since creating one takes as long as a small product.
        self.weight, self._beside = split_columns(self.wide, self.extra_columns)
        rows = self._beside.split_with_sizes([len(b) for b in self.b])
        self._places = [
            row.split_with_sizes([b.shape[1] for b in self.b], dim=1)[index] for index, row in enumerate(rows)
        ]
        self._back, self._grad_a_turned = self.wide.t(), self.grad_a.t()

    def forward(self, x: Tensor) -> Tensor:
        """Return y [T, out] for `x` [T, in + R], whose first columns are the input.

        The last R columns of `x` are overwritten with scale x A^T.
        """
        torch._foreach_copy_(self._places, self.b)  # the optimiser has changed them
        own, low = split_columns(x, self.extra_columns)
        torch.addmm(low, own, self._a_as(x).t(), beta=0, alpha=self.scale, out=low)
        return product(x, self.wide, self.bias)

    def backward(self, grad_y: Tensor, x: Tensor, low: Tensor) -> Tensor:
        """Add to the adapters' gradients, and return the gradient of the input [T, in].

        `grad_y` [T, out] is the gradient of y, `x` the input, and `low` [T, R] is scale x A^T.
        """
        grad_x, grad_low = split_columns(product(grad_y, self._back), self.extra_columns)
        self._add_gradients(grad_y, x, low, grad_low)
        return grad_x.addmm_(grad_low, self._a_as(grad_x), alpha=self.scale)

    def backward_of_adapters(self, grad_y: Tensor, x: Tensor, low: Tensor) -> None:
        """Add to the adapters' gradients like `backward`, without computing the gradient of the input.

        This is for the first layers that are trained, whose input needs no gradient.
        """
        # Not with oneDNN, since building its kernel costs more than this small product, computed once a step.
        self._add_gradients(grad_y, x, low, grad_y @ self._beside)

    def _add_gradients(self, grad_y: Tensor, x: Tensor, low: Tensor, grad_low: Tensor) -> None:
        add_products(self.grad_b, grad_y, low)
        add_products([self._grad_a_turned], x, grad_low, self.scale)

    def _a_as(self, other: Tensor) -> Tensor:
        # `to` takes time even when there is nothing to convert
        return self.a if self.a.dtype == other.dtype else self.a.to(other.dtype)


def split_columns(x: Tensor, extra: int) -> tuple[Tensor, Tensor]:
    """Split x [T, n + extra] into its first n and its last `extra` columns."""
    first, second = x.split_with_sizes((x.shape[1] - extra, extra), dim=1)
    return first, second


class AdapterVector:
    """One vector with the weights of all adapters, and one with their gradients.

    The A matrices of a group (layers with the same input) are contiguous, followed by its B
    matrices. PEFT's parameters become views of the vectors.
    """

    def __init__(self, groups: Sequence[Sequence["LoraLinear"]]) -> None:
        self.parameters: list[nn.Parameter] = []  # PEFT's, in the vector's order
        for group in groups:
            downs, ups = zip(*map(_matrices, group), strict=True)
            self.parameters += downs + ups
        like = self.parameters[0]
        self.weights = nn.Parameter(
            torch.empty(sum(each.numel() for each in self.parameters), dtype=like.dtype, device=like.device)
        )
        self.gradients = self.weights.grad = torch.zeros_like(self.weights)
        self._starts: dict[int, int] = {}
        start = 0
        for parameter in self.parameters:
            self._starts[id(parameter)] = start
            start += parameter.numel()
        for layer in (layer for group in groups for layer in group):
            a, b = _matrices(layer)
            _move(a, *self._views(a, a.shape))
            _move(b, *self._views(b, b.shape))

    def of(self, *layers: "LoraLinear") -> Adapted:
        """Return one layer, or all layers of a group, as one `Adapted`, with a copy of their frozen weights."""
        downs, ups = zip(*map(_matrices, layers), strict=True)
        bases = [base_of(layer) for layer in layers]
        a, grad_a = self._views(downs[0], torch.Size((sum(map(len, downs)), downs[0].shape[1])))
        b, grad_b = zip(*(self._views(up, up.shape) for up in ups), strict=True)
        (scale,) = {float(layer.scaling[layer.active_adapters[0]]) for layer in layers}  # the same for all layers
        wide = bases[0].weight.data.new_zeros(sum(map(len, b)), a.shape[1] + len(a))
        for base, rows in zip(bases, wide[:, : a.shape[1]].split_with_sizes([len(each) for each in b]), strict=True):
            rows.copy_(base.weight.data)
        return Adapted(
            wide=wide,
            bias=None if bases[0].bias is None else torch.cat([base.bias.data for base in bases]),
            a=a,
            grad_a=grad_a,
            b=list(b),
            grad_b=list(grad_b),
            scale=scale,
        )

    def _views(self, first: nn.Parameter, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Return views of `weights` and of `gradients` with this shape, beginning where `first` is stored."""
        place = slice(self._starts[id(first)], self._starts[id(first)] + shape.numel())
        return self.weights.data[place].view(shape), self.gradients[place].view(shape)


def base_of(layer: "LoraLinear") -> nn.Linear:
    """Return the frozen layer that an adapter adapts. Raises TypeError if it is not an nn.Linear."""
    base = layer.get_base_layer()
    if not isinstance(base, nn.Linear):
        raise TypeError(f"an adapter of a {type(base).__name__} cannot be fused: set training.fused to false")
    return base


def _matrices(layer: "LoraLinear") -> tuple[nn.Parameter, nn.Parameter]:
    """Return A and B of the layer's only adapter."""
    (name,) = layer.active_adapters
    return layer.lora_A[name].get_parameter("weight"), layer.lora_B[name].get_parameter("weight")


def _move(parameter: nn.Parameter, weights: Tensor, gradient: Tensor) -> None:
    weights.copy_(parameter.data)
    parameter.data, parameter.grad = weights, gradient
