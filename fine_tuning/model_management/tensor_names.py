"""Map trained weights, named as in Hugging Face's format, to the tensors of the base's GGUF.

Some architectures order the rows of a tensor differently in the two formats (`row_order`).
"""

import functools
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from fine_tuning.engines.gguf_file import GgufFile
from fine_tuning.errors import ExportError
from fine_tuning.model_management.peft_adapter import LoraPair, read_adapter
from fine_tuning.model_management.safetensors_file import StoredTensor, read_safetensors

# The supported architectures: for each, the tests compare a merge with llama.cpp's converter.
# Rotary embeddings rotate the rows of q and k in pairs. Hugging Face pairs a row of a head's first
# half with one of its second half. For the architectures in _PERMUTED, llama.cpp pairs neighbouring
# rows, so their GGUFs store the rows in another order (LlamaModel.permute in llama.cpp's
# conversion/llama.py).
_PERMUTED = frozenset({"llama", "smollm3", "granite", "olmo", "arcee"})
_AS_THEY_ARE = frozenset(
    {"qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "starcoder2", "stablelm", "olmo2", "command-r", "nemotron"}
)
ARCHITECTURES = _PERMUTED | _AS_THEY_ARE

# tensors that the conversion to GGUF computed from the configuration: no trained tensor corresponds to them
_COMPUTED = frozenset({"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"})
EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
OTHER_SENSES = ("v.", "mm.")  # tensors of a vision model's encoder and projector, which Ollama keeps in the same file


def targets_of(base: GgufFile, adapter_dir: str | Path) -> dict[str, LoraPair]:
    """Return the LoraPairs of the adapter by the base's tensor names, in the base's order.

    Raises ExportError if a pair does not fit the base, or if `adapter_dir` is not an adapter.
    """
    architecture = base.header.architecture
    found: dict[str, LoraPair] = {}
    for pair in read_adapter(adapter_dir):
        name = _name_map(architecture, _number(base, "block_count")).get_name(pair.module)
        tensor = base.tensors.get(f"{name}.weight")
        if name is None or tensor is None:
            tied = (
                ": its output is the embedding, so leave lm_head out of target_modules"
                if f"{name}.weight" == _OUTPUT
                else ": choose the base that it was trained on"
            )
            raise ExportError(f"{adapter_dir} adapts {pair.module}, which {base.path} does not have{tied}")
        if tensor.shape != pair.shape[::-1]:
            raise ExportError(
                f"{adapter_dir} was not trained on {base.path}: the adapter is for a {pair.module} of the shape "
                f"{pair.shape}, but the base's is {tensor.shape[::-1]}. Choose the base that the adapter was trained on"
            )
        if tensor.name == EMBEDDING and _OUTPUT not in base.tensors:
            raise ExportError(
                f"{adapter_dir} adapts {pair.module}, which {base.path} also uses as its output: in a GGUF both "
                "would change. "
                f"Leave the embedding out of target_modules."
            )
        found[tensor.name] = pair
    return {name: found[name] for name in base.tensors if name in found}


def weights_of(base: GgufFile, model_folder: str | Path) -> dict[str, tuple[str, StoredTensor]]:
    """Return the tensors of a fully fine-tuned model by the base's tensor names, in the base's order.

    Each value is the tensor's name in Hugging Face's format, and its position in the file
    `model_folder`/model.safetensors. Raises ExportError if a tensor is missing or does not fit the
    base.
    """
    found: dict[str, tuple[str, StoredTensor]] = {}
    names = _name_map(base.header.architecture, _number(base, "block_count"))
    for hf_name, stored in read_safetensors(Path(model_folder, "model.safetensors")).items():
        module, _, kind = hf_name.rpartition(".")
        tensor = base.tensors.get(f"{names.get_name(module)}.{kind}")
        if tensor is None or tensor.shape != stored.shape[::-1]:
            theirs = f"is {tensor.shape[::-1]} in the base" if tensor else "is missing in the base"
            raise ExportError(
                f"{model_folder} was not trained on {base.path}: {hf_name} is {stored.shape} in the model, but "
                f"{theirs}. Choose the base that the model was trained on"
            )
        found[tensor.name] = (hf_name, stored)
    kept = {name for name in base.tensors if name in _COMPUTED or name.startswith(OTHER_SENSES)}
    if missing := [name for name in base.tensors if name not in found and name not in kept]:
        raise ExportError(
            f"{model_folder} is incomplete: it lacks {', '.join(missing[:3])}, which {base.path} has. Train the model "
            "again, or copy it again"
        )
    return {name: found[name] for name in base.tensors if name in found}


@functools.lru_cache(maxsize=4)
def _name_map(architecture: str, blocks: int) -> gguf.TensorNameMap:
    by_name = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(by_name[architecture], blocks)


def row_order(base: GgufFile, name: str, rows: int) -> NDArray[np.intp] | slice:
    """Return for each row of the GGUF's tensor `name` the index of the same row in Hugging Face's tensor.

    `rows` is the number of rows. The result is an index for a NumPy array; it is slice(None) if the
    order is the same in both.
    """
    heads = {".attn_q.": "attention.head_count", ".attn_k.": "attention.head_count_kv"}  # weights and biases
    key = next((key for part, key in heads.items() if part in name), None)
    if key is None or base.header.architecture not in _PERMUTED:
        return slice(None)
    if f"{base.header.architecture}.{key}" not in base.metadata:
        key = "attention.head_count"
    return rotary_order(rows, _number(base, key))


def rotary_order(rows: int, heads: int) -> NDArray[np.intp]:
    """Return for each row in llama.cpp's order its index in Hugging Face's order.

    Rotary embeddings rotate rows in pairs. For each head, Hugging Face stores the first rows of all
    pairs, then the second rows; llama.cpp stores pair after pair.
    """
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).ravel()


def _number(base: GgufFile, key: str) -> int:
    value = base.header.metadata.get(f"{base.header.architecture}.{key}")
    if not isinstance(value, int):
        raise ExportError(
            f"{base.path} has no single value for {base.header.architecture}.{key}, and models whose layers differ "
            "cannot be exported yet: choose another base"
        )
    return value
