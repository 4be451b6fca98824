"""Derive the Transformers configuration of a GGUF, so that Transformers computes the same as llama.cpp.

A GGUF holds less than a config.json. llama.cpp derives the missing values or hard-codes them
(src/llama-model.cpp, load_hparams, and src/models/<architecture>.cpp, load_arch_hparams and the
graph); this module does the same. Transformers' own GGUF reader omits, among others, the head size
of Qwen 3, the soft caps and attention scale of Gemma, and the rotary frequencies of StarCoder 2.
docs/families.md lists the families that were compared and how far apart their logits are.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from fine_tuning.engines.gguf_file import GgufFile

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Settings = dict[str, Any]  # as a config.json holds them

_FULL, _SLIDING = "full_attention", "sliding_attention"
_THETA = 10_000.0  # llama.cpp's default base frequency of rotary positions
_FIRST = "blk.0."


def config_of(file: GgufFile) -> "PreTrainedConfig | None":
    """Return the Transformers configuration of the model in `file`; None if `FAMILIES` lacks its architecture.

    Raises NotImplementedError for a model that Transformers cannot compute as llama.cpp does.
    """
    from transformers import CONFIG_MAPPING

    describe = FAMILIES.get(file.header.architecture)
    if describe is None:
        return None
    settings = describe(_Metadata(file))
    return CONFIG_MAPPING[settings.pop("model_type")](**settings)


class _Metadata:
    """Looks up a GGUF's metadata by keys without the architecture's prefix (such as `llama.`)."""

    def __init__(self, file: GgufFile) -> None:
        self.file, self.metadata = file, file.header.metadata

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default` if it is missing.

        A list with a value for each layer counts as one value. Raises NotImplementedError if its
        values differ.
        """
        value = self.metadata.get(f"{self.file.header.architecture}.{key}", default)
        if isinstance(value, list | tuple):
            if len(set(value)) > 1:
                raise NotImplementedError(f"its layers have different values of {key}, which is not supported")
            return value[0] if value else default
        return value

    def need(self, key: str) -> Any:
        """Return the value of `key` like `get`. Raises NotImplementedError if it is missing."""
        if (value := self.get(key)) is None:
            raise NotImplementedError(f"its metadata lacks {self.file.header.architecture}.{key}")
        return value

    def has(self, tensor: str) -> bool:
        """Return whether the first layer has the tensor `tensor`, such as `attn_q.bias`."""
        return f"{_FIRST}{tensor}" in self.file.tensors

    @property
    def heads(self) -> int:
        return int(self.need("attention.head_count"))

    @property
    def hidden(self) -> int:
        return int(self.need("embedding_length"))

    @property
    def head_dim(self) -> int:
        size = int(self.get("attention.key_length", self.hidden // self.heads))
        if size != self.get("attention.value_length", size):
            raise NotImplementedError(
                "the keys and values of its attention have different sizes, which is not supported"
            )
        return size

    @property
    def rope(self) -> Settings:
        turned = self.get("rope.dimension_count", self.head_dim)
        theta = float(self.get("rope.freq_base", _THETA))
        return {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": turned / self.head_dim}

    def layer_types(self, every: int) -> list[str]:
        """Return each layer's attention type as Transformers names it: "full_attention" or "sliding_attention".

        Unless the file says otherwise, the last of every `every` layers has full attention, and the
        others have a sliding window.
        """
        key, count = "attention.sliding_window_pattern", int(self.need("block_count"))
        known = self.metadata.get(f"{self.file.header.architecture}.{key}", every)
        if isinstance(known, list | tuple):
            near = [bool(each) for each in known[:count]]
        else:
            near = [not known or layer % known < known - 1 for layer in range(count)]
        return [_SLIDING if each else _FULL for each in near]


def _common(
    gguf: _Metadata, model_type: str, epsilon: str = "rms_norm_eps", norm: str = "layer_norm_rms_epsilon"
) -> Settings:
    """Return the settings that every family has.

    `epsilon` and `norm`: the names of the normalisation epsilon in Transformers and in the GGUF.
    """
    tokenizer = {
        f"{name}_token_id": gguf.metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _TOKENS.items()
    }
    vocabulary = gguf.file.tensors["token_embd.weight"].rows
    return {
        "model_type": model_type,
        "name_or_path": str(gguf.metadata.get("general.name", "")),
        "vocab_size": vocabulary,
        "hidden_size": gguf.hidden,
        "num_hidden_layers": int(gguf.need("block_count")),
        "intermediate_size": int(gguf.need("feed_forward_length")),
        "num_attention_heads": gguf.heads,
        "num_key_value_heads": int(gguf.get("attention.head_count_kv", gguf.heads)),
        "head_dim": gguf.head_dim,
        "max_position_embeddings": int(gguf.need("context_length")),
        "rope_parameters": gguf.rope,
        "attention_bias": gguf.has("attn_q.bias"),
        "mlp_bias": gguf.has("ffn_up.bias"),
        "tie_word_embeddings": "output.weight" not in gguf.file.tensors,
        epsilon: float(gguf.need(f"attention.{norm}")),
        **{name: token for name, token in tokenizer.items() if token is None or token < vocabulary},
    }


_TOKENS = {"bos": "bos", "eos": "eos", "pad": "padding"}


def _gemma(gguf: _Metadata, model_type: str) -> Settings:
    return {**_common(gguf, model_type), "hidden_activation": "gelu_pytorch_tanh"}


def _scalar(gguf: _Metadata, layers_of_27b: int) -> float:
    """Return `query_pre_attn_scalar`: Gemma's queries are divided by the square root of this number.

    It is the head size, except in the 27B model, which is recognised by its number of layers and
    uses the hidden size divided by the number of heads.
    """
    return gguf.hidden // gguf.heads if gguf.need("block_count") == layers_of_27b else gguf.head_dim


def _gemma2(gguf: _Metadata) -> Settings:
    return {
        **_gemma(gguf, "gemma2"),
        "query_pre_attn_scalar": _scalar(gguf, 46),
        "attn_logit_softcapping": float(gguf.get("attn_logit_softcapping", 50.0)),
        "final_logit_softcapping": float(gguf.get("final_logit_softcapping", 30.0)),
        "sliding_window": int(gguf.get("attention.sliding_window", 4096)),
        "layer_types": gguf.layer_types(2),
    }


def _gemma3(gguf: _Metadata) -> Settings:
    window = int(gguf.get("attention.sliding_window", 0))
    near = {"rope_type": "default", "rope_theta": float(gguf.get("rope.freq_base_swa", _THETA))}
    return {
        **_gemma(gguf, "gemma3_text"),
        "query_pre_attn_scalar": _scalar(gguf, 62),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": float(gguf.get("final_logit_softcapping", 0.0)) or None,
        "rope_parameters": {_FULL: gguf.rope, _SLIDING: near},
        **_windows(gguf, window, 6),
    }


def _windows(gguf: _Metadata, window: int, every: int) -> Settings:
    layers = gguf.layer_types(every) if window else [_FULL] * int(gguf.need("block_count"))
    return {"sliding_window": window or None, "layer_types": layers}


def _qwen(gguf: _Metadata) -> Settings:
    return {**_common(gguf, gguf.file.header.architecture), "use_sliding_window": False}


def _phi3(gguf: _Metadata) -> Settings:
    original = int(gguf.get("rope.scaling.original_context_length", gguf.need("context_length")))
    return {**_common(gguf, "phi3"), "sliding_window": None, "original_max_position_embeddings": original}


def _stablelm(gguf: _Metadata) -> Settings:
    if gguf.has("attn_q_norm.weight"):
        raise NotImplementedError("it has a separate norm for each head's queries, which is not supported")
    return {
        **_common(gguf, "stablelm", "layer_norm_eps", "layer_norm_epsilon"),
        "use_qkv_bias": gguf.has("attn_q.bias"),
        "use_parallel_residual": not gguf.has("ffn_norm.weight"),
    }


def _starcoder2(gguf: _Metadata) -> Settings:
    made = _common(gguf, "starcoder2", "norm_epsilon", "layer_norm_epsilon")
    return {**made, "use_bias": made["attention_bias"], "sliding_window": None}


def _olmo(gguf: _Metadata) -> Settings:
    """Return OLMo's settings. Raises NotImplementedError unless its epsilon is the one fixed in Transformers."""
    made, fixed = _common(gguf, "olmo", "epsilon", "layer_norm_epsilon"), 1e-5
    if not math.isclose(epsilon := made.pop("epsilon"), fixed, rel_tol=1e-3):
        raise NotImplementedError(f"its norms use the epsilon {epsilon:.3g}, but Transformers always uses {fixed:.3g}")
    return {**made, "clip_qkv": gguf.get("attention.clamp_kqv") or None}


def _olmo2(gguf: _Metadata) -> Settings:
    """Return the settings of OLMo 2, or of OLMo 3, which adds sliding windows without position scaling."""
    made, window = _common(gguf, "olmo2"), int(gguf.get("attention.sliding_window", 0))
    if not window:
        return made
    near = {
        "rope_type": "default",
        "rope_theta": float(gguf.get("rope.freq_base_swa", made["rope_parameters"]["rope_theta"])),
    }
    rope = {_FULL: made["rope_parameters"], _SLIDING: near}
    return {**made, "model_type": "olmo3", "rope_parameters": rope, **_windows(gguf, window, 4)}


def _granite(gguf: _Metadata) -> Settings:
    return {
        **_common(gguf, "granite"),
        "embedding_multiplier": float(gguf.get("embedding_scale", 0.0)) or 1.0,
        "residual_multiplier": float(gguf.get("residual_scale", 0.0)) or 1.0,
        "attention_multiplier": float(gguf.get("attention.scale", 0.0)) or gguf.head_dim**-0.5,
        "logits_scaling": float(gguf.need("logit_scale")),
    }


def _cohere(gguf: _Metadata) -> Settings:
    made = _common(gguf, "cohere", "layer_norm_eps", "layer_norm_epsilon")
    return {
        **made,
        "logit_scale": float(gguf.get("logit_scale", 0.0)) or 1.0,
        "use_qk_norm": gguf.has("attn_q_norm.weight"),
    }


FAMILIES: dict[str, Callable[[_Metadata], Settings]] = {  # by the GGUF's architecture
    "llama": lambda gguf: _common(gguf, "llama"),  # also Mistral, which GGUFs call llama
    "arcee": lambda gguf: _common(gguf, "arcee"),
    "smollm3": lambda gguf: {**_common(gguf, "smollm3"), "no_rope_layer_interval": 4, "use_sliding_window": False},
    "granite": _granite,
    "olmo": _olmo,
    "olmo2": _olmo2,
    "qwen2": _qwen,
    "qwen3": _qwen,
    "gemma": lambda gguf: _gemma(gguf, "gemma"),
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "stablelm": _stablelm,
    "starcoder2": _starcoder2,
    "nemotron": lambda gguf: _common(gguf, "nemotron", "norm_eps", "layer_norm_epsilon"),
    "command-r": _cohere,
}

# Families whose weights a GGUF stores as another family's: with the query and key rows in llama's
# order, or with norm weights around 1 as in gemma2.
_STORED_AS = {
    **dict.fromkeys(("arcee", "smollm3", "granite", "olmo"), "llama"),
    "gemma": "gemma2",
}


def tensor_processor(architecture: str, config: "PreTrainedConfig") -> object:
    """Return Transformers' converter from tensors to model weights, for a GGUF of this architecture."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    kind = TENSOR_PROCESSORS.get(_STORED_AS.get(architecture, architecture), TensorProcessor)
    return cast(Callable[..., object], kind)(config=config.get_text_config().to_dict())
