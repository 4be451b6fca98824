"""A GGUF's rotary positions (arXiv 2104.09864) as llama.cpp computes them.

Transformers reads only the base frequency from the file. `<architecture>.rope.scaling.type` and
`.factor` slow all positions down (`linear`, which llama.cpp also assumes if none is given) or some
of them (`yarn`, arXiv 2309.00071); `rope_freqs.weight` divides each frequency by a factor of its
own (Llama 3.1 and later); `longrope` (Phi 3) has two such lists, of which the short one is served
for contexts within the original length.
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
_FAR, _NEAR = "full_attention", "sliding_attention"  # layers that look back over a window only are never slowed down


class Rope:
    """What a GGUF says about positions."""

    def __init__(self, file: GgufFile) -> None:
        """Read what `file` says. NotImplementedError for an unknown kind of scaling."""
        self._prefix, self._metadata = f"{file.header.architecture}.rope.scaling.", file.header.metadata
        self.factor = float(self._value("factor", 0) or 1)
        self.kind = str(self._value("type", "linear"))
        self.factors = next((name for name in _OWN_FACTORS if name in file.tensors), "")  # a tensor's name
        if self.kind not in ("none", "linear", "yarn", "longrope"):
            raise NotImplementedError(f"its positions are scaled by {self.kind!r}")

    def _value(self, key: str, default: float | str) -> float | str:
        value: float | str = self._metadata.get(self._prefix + key, default)
        return value

    def configure(self, config: "PreTrainedConfig") -> None:
        """Set what Transformers must know before the model is made."""
        if self.kind == "yarn" and self.factor > 1:
            original = int(self._value("original_context_length", config.max_position_embeddings))
            # some families have others for each type of layer
            far = config.rope_parameters.get(_FAR, config.rope_parameters)
            far |= {"rope_type": "yarn", "factor": self.factor, "original_max_position_embeddings": original}

    def apply(self, model: "PreTrainedModel", factors: Tensor | None) -> None:
        """Change the frequencies in `model`; `factors` [head size / 2] is the tensor `self.factors`."""
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
    """Yield the modules that hold frequencies, and the prefix of their names.

    Some models have one list of frequencies for each type of layer.
    """
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if name.endswith("original_inv_freq") and isinstance(buffer, torch.Tensor):
                yield module, name.removesuffix("original_inv_freq")
