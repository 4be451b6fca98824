"""Compute a GGUF's rotary positions (arXiv 2104.09864) as llama.cpp does.

Transformers reads only the base frequency from the file. This module also applies
`<architecture>.rope.scaling.type` and `.factor`, which scale all frequencies (`linear`, llama.cpp's
default) or some of them (`yarn`, arXiv 2309.00071), and the tensor `rope_freqs.weight` (Llama 3.1
and later), which divides each frequency by its own factor. `longrope` (Phi 3) has two such tensors;
the short one applies to contexts within the original length.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fine_tuning.engines.gguf_file import GgufFile

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_OWN_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight")
_FAR, _NEAR = "full_attention", "sliding_attention"  # layers with sliding windows are never scaled


class Rope:
    """The rotary position settings of a GGUF."""

    def __init__(self, file: GgufFile) -> None:
        """Read the settings from `file`. Raises NotImplementedError for an unknown kind of scaling."""
        self._prefix, self._metadata = f"{file.header.architecture}.rope.scaling.", file.header.metadata
        self.factor = float(self._value("factor", 0) or 1)
        self.kind = str(self._value("type", "linear"))
        self.factors = next((name for name in _OWN_FACTORS if name in file.tensors), "")  # a tensor's name
        if self.kind not in ("none", "linear", "yarn", "longrope"):
            raise NotImplementedError(f"it scales its positions by the method {self.kind!r}, which is not supported")

    def _value(self, key: str, default: float | str) -> float | str:
        value: float | str = self._metadata.get(self._prefix + key, default)
        return value

    def configure(self, config: "PreTrainedConfig") -> None:
        """Set the options of `yarn` scaling in `config`, from which the model is created afterwards.

        Other kinds of scaling need no options; `apply` handles them.
        """
        if self.kind == "yarn" and self.factor > 1:
            original = int(self._value("original_context_length", config.max_position_embeddings))
            # some families have separate parameters for each type of layer
            far = config.rope_parameters.get(_FAR, config.rope_parameters)
            far |= {"rope_type": "yarn", "factor": self.factor, "original_max_position_embeddings": original}

    def apply(self, model: "PreTrainedModel", factors: Tensor | None) -> None:
        """Scale the rotary frequencies in `model`.

        `factors` [head size / 2]: the values of the tensor named `self.factors`; None if the file
        has no such tensor.
        """
        slower = self.factor if self.kind == "linear" else 1.0
        attention = float(self._value("attn_factor", 1.0))
        for module, kind in _rotary(model):
            near = kind.startswith(_NEAR)
            for name in (f"{kind}inv_freq", f"{kind}original_inv_freq"):
                frequencies = getattr(module, name)
                if not near:
                    frequencies = frequencies / slower
                if factors is not None:
                    frequencies = frequencies / factors.to(frequencies)
                setattr(module, name, nn.Buffer(frequencies, persistent=False))
            if not math.isclose(attention, 1.0) and not near:
                scaling = f"{kind}attention_scaling"
                setattr(module, scaling, getattr(module, scaling) * attention)


def _rotary(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield each module that holds rotary frequencies, with the prefix of its buffers' names.

    Some models have separate frequencies for each type of layer.
    """
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if name.endswith("original_inv_freq") and isinstance(buffer, torch.Tensor):
                yield module, name.removesuffix("original_inv_freq")
