"""A model's adapters (LoRA, arXiv 2106.09685) as one vector, and their gradients as another.

Adapters of layers that share their input lie side by side, so that what they have in common is one product. Whoever computes a gradient
adds it where it belongs (as Megatron-LM does with `main_grad`); its norm, a step of the optimiser and setting it to zero are then one call
each instead of one for each of hundreds of matrices, which takes a noticeable part of a small model's step on a CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Adapters:
    """Those of layers that share their input. `d_...`: the gradients."""

    a: Tensor  # [R, in]: one over the other
    d_a: Tensor
    b: list[Tensor]  # of each [r, out], transposed
    d_b: list[Tensor]
    scales: list[float]

    @cached_property
    def ranks(self) -> list[int]:
        return [len(b) for b in self.b]

    @cached_property
    def widths(self) -> list[int]:
        return [b.shape[1] for b in self.b]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """scale x A^T B^T of each, side by side [T, out], for `x` [T, in]; and x A^T [T, R]."""
        low = x @ self.a.to(x.dtype).t()
        made = x.new_empty(len(x), sum(self.widths))
        parts = zip(made.split_with_sizes(self.widths, dim=1), low.split_with_sizes(self.ranks, dim=1), self.b, self.scales, strict=True)
        for out, part, b, scale in parts:
            torch.addmm(out, part, b.to(x.dtype), beta=0, alpha=scale, out=out)
        return made, low

    def backward(self, d_out: Tensor, x: Tensor, low: Tensor, dx: Tensor | None) -> None:
        """Add to the adapters' own gradients, and to `dx` [T, in], what comes of the gradients `d_out` [T, out] of all side by side."""
        d_low = torch.empty_like(low)
        lows = (each.split_with_sizes(self.ranks, dim=1) for each in (low, d_low))
        parts = zip(d_out.split_with_sizes(self.widths, dim=1), *lows, self.b, self.d_b, self.scales, strict=True)
        for each, part, d_part, b, d_b, scale in parts:
            torch.addmm(d_part, each, b.to(x.dtype).t(), beta=0, alpha=scale, out=d_part)
            _add_product(d_b, part.t(), each, scale)
        _add_product(self.d_a, d_low.t(), x)
        if dx is not None:
            dx.addmm_(d_low, self.a.to(x.dtype))


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
            _move(b, *(view.t() for view in self._views(b, b.t().shape)))

    def of(self, *layers: Any) -> Adapters:
        """The adapters of one layer, or of all of a group."""
        downs, ups = zip(*map(_matrices, layers), strict=True)
        a, d_a = self._views(downs[0], torch.Size((sum(map(len, downs)), downs[0].shape[1])))
        scales = [float(layer.scaling[layer.active_adapters[0]]) for layer in layers]
        b, d_b = zip(*(self._views(up, up.t().shape) for up in ups), strict=True)
        return Adapters(a, d_a, list(b), list(d_b), scales)

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


def _add_product(total: Tensor, one: Tensor, other: Tensor, scale: float = 1.0) -> None:
    """total += scale one @ other, in the number format of `total`."""
    if total.dtype == one.dtype:
        total.addmm_(one, other, alpha=scale)
    else:
        total.add_(one @ other, alpha=scale)
