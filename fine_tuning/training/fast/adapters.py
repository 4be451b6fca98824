"""LoRA adapters (arXiv 2106.09685) in one vector, and their gradients in another.

Whoever computes a gradient adds it to its place in the vector (as Megatron-LM does with
`main_grad`). Then the norm of all gradients, a step of the optimiser and clearing the gradients are
one call each. One call for each of hundreds of matrices would take a noticeable part of a small
model's step on a CPU. So would a small product for each adapter: here the adapters lie beside the
weights that they adapt, as a few more rows or columns of the large product that is made anyway.
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
    """Frozen layers that share their input, with their adapters: y = [x, scale x A^T] [W, B]^T.

    Each B has rows and columns of its own. One product sums all of it, and rounds once: added later
    in bfloat16 (eight bits), the small contribution of a young adapter would be rounded away. R is
    the sum of the adapters' ranks r. `grad_a` and `grad_b` are the gradients of `a` and `b`.
    """

    wide: Tensor  # [out, in + R]: W and all B
    bias: Tensor | None  # [out]
    a: Tensor  # [R, in]: all A, one above the other
    grad_a: Tensor
    b: list[Tensor]  # of each adapter [out, r]
    grad_b: list[Tensor]
    scale: float

    def __post_init__(self) -> None:
        self.extra_columns = len(self.a)  # columns that `forward` needs beside its input, to write in
        # These views are made once: making one takes as long as a small product.
        self.weight, self._beside = split_columns(self.wide, self.extra_columns)
        rows = self._beside.split_with_sizes([len(b) for b in self.b])
        self._places = [
            row.split_with_sizes([b.shape[1] for b in self.b], dim=1)[index] for index, row in enumerate(rows)
        ]
        self._back, self._grad_a_turned = self.wide.t(), self.grad_a.t()

    def forward(self, x: Tensor) -> Tensor:
        """Return y [T, out] for `x` [T, in + R]; its last R columns are overwritten with scale x A^T."""
        torch._foreach_copy_(self._places, self.b)  # the optimiser changed them since
        own, low = split_columns(x, self.extra_columns)
        torch.addmm(low, own, self._a_as(x).t(), beta=0, alpha=self.scale, out=low)
        return product(x, self.wide, self.bias)

    def backward(self, grad_y: Tensor, x: Tensor, low: Tensor) -> Tensor:
        """Add to the adapters' gradients, and return the gradient of x [T, in]; `low` is scale x A^T."""
        grad_x, grad_low = split_columns(product(grad_y, self._back), self.extra_columns)
        self._add_gradients(grad_y, x, low, grad_low)
        return grad_x.addmm_(grad_low, self._a_as(grad_x), alpha=self.scale)

    def backward_of_adapters(self, grad_y: Tensor, x: Tensor, low: Tensor) -> None:
        """Add to the adapters' gradients only: nothing below the layers is trained."""
        # once a step, and small: not worth a kernel of oneDNN
        self._add_gradients(grad_y, x, low, grad_y @ self._beside)

    def _add_gradients(self, grad_y: Tensor, x: Tensor, low: Tensor, grad_low: Tensor) -> None:
        add_products(self.grad_b, grad_y, low)
        add_products([self._grad_a_turned], x, grad_low, self.scale)

    def _a_as(self, other: Tensor) -> Tensor:
        # even a `to` that has nothing to do takes time
        return self.a if self.a.dtype == other.dtype else self.a.to(other.dtype)


def split_columns(x: Tensor, extra: int) -> tuple[Tensor, Tensor]:
    """Return the two parts of x [T, n + extra]."""
    first, second = x.split_with_sizes((x.shape[1] - extra, extra), dim=1)
    return first, second


class AdapterVector:
    """The adapters of `groups` of layers in one vector, those of a group side by side.

    PEFT's own parameters become views of it.
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
        """Return one layer, or all layers of a group, as `Adapted`. Their frozen weights are copied."""
        downs, ups = zip(*map(_matrices, layers), strict=True)
        bases = [base_of(layer) for layer in layers]
        a, grad_a = self._views(downs[0], torch.Size((sum(map(len, downs)), downs[0].shape[1])))
        b, grad_b = zip(*(self._views(up, up.shape) for up in ups), strict=True)
        (scale,) = {float(layer.scaling[layer.active_adapters[0]]) for layer in layers}  # all have the same settings
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
        """Return views of weights and gradients in `shape`, from the place of `first` on."""
        place = slice(self._starts[id(first)], self._starts[id(first)] + shape.numel())
        return self.weights.data[place].view(shape), self.gradients[place].view(shape)


def base_of(layer: "LoraLinear") -> nn.Linear:
    """Return the frozen layer under an adapter."""
    base = layer.get_base_layer()
    if not isinstance(base, nn.Linear):
        raise TypeError(f"an adapter of {type(base).__name__} cannot be fused")
    return base


def _matrices(layer: "LoraLinear") -> tuple[nn.Parameter, nn.Parameter]:
    """Return A and B of the layer's only adapter."""
    (name,) = layer.active_adapters
    return layer.lora_A[name].get_parameter("weight"), layer.lora_B[name].get_parameter("weight")


def _move(parameter: nn.Parameter, weights: Tensor, gradient: Tensor) -> None:
    weights.copy_(parameter.data)
    parameter.data, parameter.grad = weights, gradient
