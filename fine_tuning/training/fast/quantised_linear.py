"""Define frozen linear layers with quantised weights, about four to eight bits each, for QLoRA (arXiv 2305.14314).

`QuantisedLinear` holds the blocks of the GGUF unchanged, so the adapter is trained on exactly the
weights that are served. `Nf4Linear` is QLoRA as published: NF4 with double quantisation, by
bitsandbytes. It rounds the served weights again, so the adapter is trained on slightly different
weights. `Nf4Linear` is meant for GPUs, for which byoai has no kernels that read ggml's blocks, and
for bases that are served as floats.
"""

from typing import Protocol

import torch
from gguf.constants import GGMLQuantizationType
from torch import Tensor, nn

from fine_tuning.engines import ggml
from fine_tuning.training.autograd import Context, apply
from fine_tuning.training.fast.matmul import product


class HeldLinear(nn.Linear):
    """A linear layer that dequantises its weight W [out, in] for the forward pass and again for the backward pass."""

    def __init__(self, rows: int, columns: int) -> None:
        nn.Module.__init__(self)  # nn.Linear's constructor would allocate the full weight
        self.out_features, self.in_features = rows, columns

    @property
    def shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    def take_place_of(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        """Take over the bias of `layer`, and set `weight` to a placeholder on the same device, in `dtype`.

        The placeholder has the shape of W, but is a single number, expanded, so it takes no memory.
        """
        device = layer.weight.device if layer.weight.device.type != "meta" else None
        self.weight = nn.Parameter(torch.zeros((), dtype=dtype, device=device).expand(self.shape), requires_grad=False)
        self.register_parameter("bias", layer.bias)

    def dequantised(self) -> Tensor:
        """Return W in the dtype and on the device of `weight`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = apply(_Product, x, self)
        return y if self.bias is None else y + self.bias


class QuantisedLinear(HeldLinear):
    """A linear layer that holds its weight as the blocks of the GGUF."""

    blocks: Tensor  # uint8 [out, bytes of a row]

    def __init__(self, blocks: Tensor, kind: GGMLQuantizationType, columns: int) -> None:
        """Hold `blocks`, uint8 [out, bytes of a row], of the ggml type `kind`; a row encodes `columns` numbers."""
        super().__init__(len(blocks), columns)
        self.kind = kind
        self.register_buffer("blocks", blocks, persistent=False)

    def dequantised(self) -> Tensor:
        return torch.from_numpy(ggml.dequantize(self.blocks.cpu().numpy(), self.kind, self.in_features)).to(self.weight)


class Nf4Linear(HeldLinear):
    """A linear layer that holds its weight in NF4: blocks of 64 four-bit numbers, with quantised scales."""

    packed: Tensor  # the weight as packed by bitsandbytes

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

        # these tensors are not buffers, so they do not move with the module
        self._state.to(self.packed.device)  # type: ignore[no-untyped-call]
        weight: Tensor = dequantize_4bit(self.packed, self._state)
        return weight.to(self.weight)


class _HeldContext(Context, Protocol):
    layer: HeldLinear


class _Product(torch.autograd.Function):
    """The product x W^T of a HeldLinear, with W dequantised in the forward and again in the backward pass."""

    @staticmethod
    def forward(ctx: _HeldContext, x: Tensor, layer: HeldLinear) -> Tensor:
        ctx.layer = layer
        return product(x, layer.dequantised())

    @staticmethod
    def backward(ctx: _HeldContext, *outer: Tensor) -> tuple[Tensor | None, None]:
        return product(outer[0], ctx.layer.dequantised().t()) if ctx.needs_input_grad[0] else None, None
