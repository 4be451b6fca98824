"""Frozen linear layers that hold their weight in four to eight bits a number: QLoRA (arXiv 2305.14314).

`QuantisedLinear` holds the very blocks of the GGUF, without a second quantisation: the adapter
learns beside exactly what is served. `Nf4Linear` is QLoRA as published, NF4 with double
quantisation by bitsandbytes. It rounds the served weights once more, so the adapter learns beside
slightly different ones. It is for GPUs, for which ggml's blocks have no kernels here, and for bases
served as floats.
"""

from typing import Protocol

import torch
from gguf.constants import GGMLQuantizationType
from torch import Tensor, nn

from fine_tuning.engines import ggml
from fine_tuning.training.autograd import Context, apply
from fine_tuning.training.fast.matmul import product


class HeldLinear(nn.Linear):
    """y = x W^T + bias, with W [out, in] dequantised for the forward pass and once more for the backward pass."""

    def __init__(self, rows: int, columns: int) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a whole weight
        self.out_features, self.in_features = rows, columns

    @property
    def shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    def take_place_of(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        """Get `layer`'s bias, and a weight of its shape, type and device that takes no memory.

        That weight is a single number, expanded.
        """
        device = layer.weight.device if layer.weight.device.type != "meta" else None
        self.weight = nn.Parameter(torch.zeros((), dtype=dtype, device=device).expand(self.shape), requires_grad=False)
        self.register_parameter("bias", layer.bias)

    def dequantised(self) -> Tensor:
        """Return W, of the type and on the device of `weight`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = apply(_Product, x, self)
        return y if self.bias is None else y + self.bias


class QuantisedLinear(HeldLinear):
    """The weight as the GGUF holds it."""

    blocks: Tensor  # uint8 [out, bytes of a row]

    def __init__(self, blocks: Tensor, kind: GGMLQuantizationType, columns: int) -> None:
        """`blocks`: uint8 [out, bytes of a row]; a row holds `columns` numbers."""
        super().__init__(len(blocks), columns)
        self.kind = kind
        self.register_buffer("blocks", blocks, persistent=False)

    def dequantised(self) -> Tensor:
        return torch.from_numpy(ggml.dequantize(self.blocks.cpu().numpy(), self.kind, self.in_features)).to(self.weight)


class Nf4Linear(HeldLinear):
    """The weight in NF4: blocks of 64 numbers of four bits, whose scales are quantised as well."""

    packed: Tensor  # what bitsandbytes makes of the weight

    def __init__(self, weight: Tensor) -> None:
        """Quantise `weight` [out, in]."""
        from bitsandbytes.functional import quantize_4bit  # takes seconds to import

        super().__init__(*weight.shape)
        packed, self._state = quantize_4bit(
            weight.contiguous(), blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        self.register_buffer("packed", packed, persistent=False)

    def dequantised(self) -> Tensor:
        from bitsandbytes.functional import dequantize_4bit

        # its tensors are no buffers of the module, which may have
        # moved
        self._state.to(self.packed.device)  # type: ignore[no-untyped-call]
        weight: Tensor = dequantize_4bit(self.packed, self._state)
        return weight.to(self.weight)


class _HeldContext(Context, Protocol):
    layer: HeldLinear


class _Product(torch.autograd.Function):
    """x W^T with W dequantised for each pass."""

    @staticmethod
    def forward(ctx: _HeldContext, x: Tensor, layer: HeldLinear) -> Tensor:
        ctx.layer = layer
        return product(x, layer.dequantised())

    @staticmethod
    def backward(ctx: _HeldContext, *outer: Tensor) -> tuple[Tensor | None, None]:
        return product(outer[0], ctx.layer.dequantised().t()) if ctx.needs_input_grad[0] else None, None
