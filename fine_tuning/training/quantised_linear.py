"""A frozen linear layer that holds its weight as the GGUF does, in four to eight bits a number: QLoRA (arXiv 2305.14314) without a
second quantisation. What is trained against is exactly what is served, where NF4 would round the served weights once more."""

from typing import Any

import torch
from gguf.constants import GGMLQuantizationType
from torch import Tensor, nn

from fine_tuning.engines import ggml
from fine_tuning.training.products import product


class QuantisedLinear(nn.Linear):
    """y = x W^T + bias, with W [out, in] dequantised for the forward pass and once more for the backward pass."""

    def __init__(self, blocks: Tensor, kind: GGMLQuantizationType, columns: int) -> None:
        """`blocks`: uint8 [out, bytes of a row], `columns` numbers a row."""
        nn.Module.__init__(self)  # nn.Linear's own would make a whole weight
        self.out_features, self.in_features, self.kind = len(blocks), columns, kind
        self.register_buffer("blocks", blocks, persistent=False)

    @property
    def shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    def take_place_of(self, layer: Any, dtype: torch.dtype) -> None:
        """Become `layer`, to all who ask a weight for its shape, type or device: a single number, seen in every place."""
        self.weight = nn.Parameter(torch.zeros((), dtype=dtype).expand(self.shape), requires_grad=False)
        self.register_parameter("bias", layer.bias)

    def dequantised(self) -> Tensor:
        """W, of the type and where `weight` says."""
        blocks: Any = self.blocks
        return torch.from_numpy(ggml.dequantize(blocks.cpu().numpy(), self.kind, self.in_features)).to(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Product.apply(x, self)
        return y if self.bias is None else y + self.bias


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return product(x, layer.dequantised())

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, None]:
        return product(outer[0], ctx.layer.dequantised().t()) if ctx.needs_input_grad[0] else None, None
