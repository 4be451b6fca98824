"""A model's adapters (LoRA, arXiv 2106.09685): as one vector, their gradients as another, and each beside the weight that it adapts.

Whoever computes a gradient adds it where it belongs (as Megatron-LM does with `main_grad`); its norm, a step of the optimiser and setting
it to zero are then one call each instead of one for each of hundreds of matrices, which takes a noticeable part of a small model's step on
a CPU. So does a small product for each adapter: here it is a few rows or columns more of the large one that is made anyhow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fine_tuning.training.products import add_products, product


@dataclass
class Adapted:
    """Frozen layers that share their input, with their adapters: y = [x, scale x A^T] [W, B]^T, where each B has rows and columns of its
    own. All is one sum, then rounded: beside a number of eight bits (bfloat16) a young adapter's would be rounded away.

    `d_...`: the gradients. R is the sum of the adapters' ranks r.
    """

    wide: Tensor  # [out, in + R]: W and all B
    bias: Tensor | None  # [out]
    a: Tensor  # [R, in]: one over the other
    d_a: Tensor
    b: list[Tensor]  # of each [out, r]
    d_b: list[Tensor]
    scale: float

    def __post_init__(self) -> None:
        self.room = len(self.a)  # how many columns `forward` wants beside its input, to write in
        # Views cost as much as a small product; these stay.
        self.weight, self._beside = apart(self.wide, self.room)
        rows = self._beside.split_with_sizes([len(b) for b in self.b])
        self._places = [row.split_with_sizes([b.shape[1] for b in self.b], dim=1)[index] for index, row in enumerate(rows)]
        self._back, self._d_a_turned = self.wide.t(), self.d_a.t()

    def forward(self, x: Tensor) -> Tensor:
        """y [T, out] for `x` [T, in + R], of which the last R columns are written here: scale x A^T."""
        torch._foreach_copy_(self._places, self.b)  # a step later they are others
        own, low = apart(x, self.room)
        torch.addmm(low, own, self._a_as(x).t(), beta=0, alpha=self.scale, out=low)
        return product(x, self.wide, self.bias)

    def backward(self, dy: Tensor, x: Tensor, low: Tensor, deeper: bool = True) -> Tensor | None:
        """Adds to the adapters' gradients, by `x` [T, in] and `low` = scale x A^T; that by x, if `deeper`."""
        if deeper:
            dx, d_low = apart(product(dy, self._back), self.room)
        else:
            dx, d_low = None, dy @ self._beside  # once a step, and small: not worth a kernel of oneDNN's
        add_products(self.d_b, dy, low)
        add_products([self._d_a_turned], x, d_low, self.scale)
        return None if dx is None else dx.addmm_(d_low, self._a_as(dx), alpha=self.scale)

    def _a_as(self, other: Tensor) -> Tensor:
        return self.a if self.a.dtype == other.dtype else self.a.to(other.dtype)  # even `to` that has nothing to do takes its time


def apart(x: Tensor, room: int) -> tuple[Tensor, Tensor]:
    """The two parts of x [T, n + room]."""
    first, second = x.split_with_sizes((x.shape[1] - room, room), dim=1)
    return first, second


class AdapterVector:
    """The adapters of `groups` of layers, those of a group side by side. PEFT's own parameters become views of it."""

    def __init__(self, groups: Sequence[Sequence[Any]]) -> None:
        self.parameters: list[nn.Parameter] = []  # PEFT's, in the vector's order
        for group in groups:
            downs, ups = zip(*map(_matrices, group), strict=True)
            self.parameters += downs + ups
        like = self.parameters[0]
        self.weights = nn.Parameter(torch.empty(sum(each.numel() for each in self.parameters), dtype=like.dtype, device=like.device))
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

    def of(self, *layers: Any) -> Adapted:
        """One layer, or all of a group; their weights are copied."""
        downs, ups = zip(*map(_matrices, layers), strict=True)
        bases = [layer.get_base_layer() for layer in layers]
        a, d_a = self._views(downs[0], torch.Size((sum(map(len, downs)), downs[0].shape[1])))
        b, d_b = zip(*(self._views(up, up.shape) for up in ups), strict=True)
        (scale,) = {float(layer.scaling[layer.active_adapters[0]]) for layer in layers}  # there is but one setting
        wide = bases[0].weight.data.new_zeros(sum(map(len, b)), a.shape[1] + len(a))
        for base, rows in zip(bases, wide[:, : a.shape[1]].split([len(each) for each in b]), strict=True):
            rows.copy_(base.weight.data)
        return Adapted(
            wide=wide,
            bias=None if bases[0].bias is None else torch.cat([base.bias.data for base in bases]),
            a=a,
            d_a=d_a,
            b=list(b),
            d_b=list(d_b),
            scale=scale,
        )

    def _views(self, first: nn.Parameter, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Weights and gradients from where `first` lies, as `shape`."""
        place = slice(self._starts[id(first)], self._starts[id(first)] + shape.numel())
        return self.weights.data[place].view(shape), self.gradients[place].view(shape)


def _matrices(layer: Any) -> tuple[nn.Parameter, nn.Parameter]:
    (name,) = layer.active_adapters
    return layer.lora_A[name].weight, layer.lora_B[name].weight


def _move(parameter: nn.Parameter, weights: Tensor, gradient: Tensor) -> None:
    weights.copy_(parameter.data)
    parameter.data, parameter.grad = weights, gradient
