"""From a base GGUF and a PEFT adapter to a GGUF that an engine serves: merged into the weights, or an adapter beside the base.

The export is a stream: untouched weights and all metadata are copied as bytes, adapted weights are taken apart a few megabytes at a time.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType as Type
from gguf.constants import LlamaFileType
from numpy.typing import NDArray

from fine_tuning.engines import ggml
from fine_tuning.errors import ExportError
from fine_tuning.model_management.gguf_file import (
    DEFAULT_ALIGNMENT,
    GgufFile,
    TensorInfo,
    entry,
    file_size,
    read_gguf,
    whole_file,
    write_gguf,
)
from fine_tuning.model_management.peft_adapter import LoraPair, read_adapter

# What llama.cpp's convert_hf_to_gguf.py writes itself. The mixtures (ggml.MIXTURES) are made from F32 by llama.cpp's own quantiser.
_PLAIN = {
    "f32": (Type.F32, LlamaFileType.ALL_F32),
    "f16": (Type.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (Type.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (Type.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
SAME = "same"  # every tensor keeps the type that it has in the base
QUANTIZATIONS = (SAME, *_PLAIN, *ggml.MIXTURES)

# The architectures of which the tests compare a merge with llama.cpp's converter. A rotary embedding turns rows in pairs: Hugging Face's
# takes one of a head's first half and one of its second; where llama.cpp takes neighbours, a GGUF has the rows of q and k in that order
# (LlamaModel.permute in llama.cpp's conversion/llama.py).
_PERMUTED = frozenset({"llama", "smollm3", "granite", "olmo", "arcee"})
_AS_THEY_ARE = frozenset(
    {"qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "starcoder2", "stablelm", "olmo2", "command-r", "nemotron"}
)

_FLOATS = (Type.F32, Type.F16, Type.BF16)
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_OTHER_SENSES = ("v.", "mm.")  # a vision model's encoder and projector, which Ollama keeps in the same file
_NEVER_QUANTISED = ("_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", "token_types.weight")
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
_SLAB = 4 << 20  # weights handled at once: 16 MiB of float32

Progress = Callable[[int, int], None]  # weights done, of how many


@dataclass(frozen=True)
class Exported:
    path: Path
    size: int  # bytes
    adapted: int  # tensors that the adapter changed
    converted: int  # tensors that were only quantised anew
    copied: int  # tensors copied as bytes


def check_exportable(base_gguf: Path, quantization: str = SAME) -> None:
    """ExportError if an adapter for `base_gguf` could not be exported, or not so: to be asked before the training."""
    _open(base_gguf, quantization)


def merge_adapter(
    base_gguf: Path, adapter_dir: Path, out_path: Path, quantization: str = "q8_0", progress: Progress | None = None
) -> Exported:
    """Write `out_path`, the model W + scale * B @ A, whole or not at all.

    `quantization` is one of QUANTIZATIONS: `same`, what convert_hf_to_gguf.py makes (f32, f16, bf16, q8_0), or one of llama-quantize's
    mixtures (q4_k_m, ...), which need room for the model in float32 beside `out_path` meanwhile.
    Raises ExportError; then `out_path` is as it was.
    """
    quantization = quantization.lower()
    base = _open(base_gguf, quantization)
    pairs = _targets(base, adapter_dir)
    if quantization in ggml.MIXTURES:
        return _merge_mixture(base, pairs, out_path, quantization, progress)
    merge = _Merge(base, pairs, quantization, progress)
    with whole_file(out_path, merge.size) as temporary:
        merge.write(temporary)
    return merge.exported(out_path)


def convert_adapter(base_gguf: Path, adapter_dir: Path, out_path: Path) -> Exported:
    """Write `out_path`, the adapter as llama.cpp's convert_lora_to_gguf.py makes it (float32), whole or not at all. Raises ExportError."""
    base = _open(base_gguf, SAME)
    pairs = _targets(base, adapter_dir)
    # llama.cpp scales every pair by alpha / rank; what an adapter has beside that goes into its B.
    alpha, _ = Counter(pair.scale * pair.rank for pair in pairs.values()).most_common(1)[0]
    values = {"general.architecture": base.header.architecture, "general.type": "adapter", "adapter.type": "lora"}
    metadata = {key: entry(key, value) for key, value in values.items()}
    metadata["adapter.lora.alpha"] = entry("adapter.lora.alpha", alpha)
    tensors = [tensor for name, pair in pairs.items() for tensor in _adapter_tensors(base, name, pair, alpha)]
    size = file_size(metadata, (info for info, _ in tensors))
    with whole_file(out_path, size) as temporary:
        write_gguf(temporary, metadata, tensors)
    return Exported(out_path, size, adapted=len(pairs), converted=0, copied=0)


def _adapter_tensors(base: GgufFile, name: str, pair: LoraPair, alpha: float) -> Iterator[tuple[TensorInfo, Iterator[bytes]]]:
    outputs, inputs = pair.shape
    flipped = name == _EMBEDDING  # llama.cpp looks tokens up in A, so that both sides of an embedding's pair are stored turned around
    a_shape, b_shape = ((pair.rank, outputs), (pair.rank, inputs)) if flipped else ((inputs, pair.rank), (pair.rank, outputs))

    def data(side: int) -> Iterator[bytes]:
        a, b = pair.load()
        b = b[_row_order(base, name, outputs)] * np.float32(pair.scale * pair.rank / alpha if alpha else 1)
        yield np.ascontiguousarray(((b, a.T) if flipped else (a, b))[side]).tobytes()

    yield TensorInfo(f"{name}.lora_a", a_shape, Type.F32), data(0)
    yield TensorInfo(f"{name}.lora_b", b_shape, Type.F32), data(1)


class _Merge:
    """One pass over the base: what becomes of each tensor, then the writing."""

    def __init__(self, base: GgufFile, pairs: dict[str, LoraPair], quantization: str, progress: Progress | None) -> None:
        self._base, self._pairs = base, pairs
        self._progress = progress or (lambda done, total: None)
        self._done, self._total = 0, sum(tensor.rows * tensor.columns for tensor in base.tensors.values())
        self._alignment = base.alignment
        self._metadata = dict(base.metadata)
        self._made = dict(base.tensors)
        if quantization != SAME:
            kind, file_type = _PLAIN[quantization]
            self._made = {name: _retyped(tensor, kind) for name, tensor in base.tensors.items()}
            self._metadata["general.file_type"] = entry("general.file_type", file_type.value)
            self._metadata["general.quantization_version"] = entry("general.quantization_version", _QUANTIZATION_VERSION)
        for name in pairs:
            if not ggml.can_quantize(kind := self._made[name].kind):
                raise ExportError(f"{name} of {base.path} is {kind.name}, which cannot be made again: choose a quantization, such as q8_0")
        self.size = file_size(self._metadata, self._made.values(), self._alignment)

    def write(self, path: Path) -> None:
        write_gguf(path, self._metadata, [(target, self._weights(target)) for target in self._made.values()], self._alignment)

    def exported(self, path: Path) -> Exported:
        changed = sum(target.kind != self._base.tensors[name].kind for name, target in self._made.items() if name not in self._pairs)
        return Exported(path, self.size, len(self._pairs), changed, len(self._made) - len(self._pairs) - changed)

    def _weights(self, target: TensorInfo) -> Iterator[bytes]:
        source, pair = self._base.tensors[target.name], self._pairs.get(target.name)
        update = _Update(self._base, target.name, pair) if pair else None
        with self._base.path.open("rb") as file:
            file.seek(self._base.starts[target.name])
            for first, last in _slabs(source):
                data = np.fromfile(file, np.uint8, (last - first) * ggml.row_bytes(source.kind, source.columns))
                if update or source.kind != target.kind:
                    weights = ggml.dequantize(data, source.kind, source.columns)
                    if update:
                        weights += update.rows(first, last)
                    data = ggml.quantize(weights, target.kind)
                yield data.tobytes()
                self._done += (last - first) * source.columns
                self._progress(self._done, self._total)


class _Update:
    """scale * B @ A of one tensor, some rows at a time, in the base's order of rows."""

    def __init__(self, base: GgufFile, name: str, pair: LoraPair) -> None:
        a, b = pair.load()
        self._a, self._b, self._scale = a, b[_row_order(base, name, len(b))], np.float32(pair.scale)

    def rows(self, first: int, last: int) -> NDArray[np.float32]:
        delta: NDArray[np.float32] = self._b[first:last] @ self._a
        delta *= self._scale
        return delta


def _merge_mixture(base: GgufFile, pairs: dict[str, LoraPair], out_path: Path, mixture: str, progress: Progress | None) -> Exported:
    if base.alignment != DEFAULT_ALIGNMENT:
        raise ExportError(f"{base.path} is aligned to {base.alignment} bytes, which llama.cpp's quantiser cannot keep: choose q8_0 or same")
    floats, eights = _Merge(base, pairs, "f32", progress), _Merge(base, pairs, "q8_0", None)
    with whole_file(out_path, floats.size + eights.size) as temporary:  # no mixture is larger than q8_0
        merged = temporary.with_suffix(".f32")
        try:
            floats.write(merged)
            ggml.quantize_file(merged, temporary, mixture)
        finally:
            merged.unlink(missing_ok=True)
    made = read_gguf(out_path).tensors
    again = sum(name not in pairs and (made[name].kind not in _FLOATS or made[name] != tensor) for name, tensor in base.tensors.items())
    return Exported(out_path, out_path.stat().st_size, len(pairs), again, len(made) - len(pairs) - again)


def _retyped(tensor: TensorInfo, kind: Type) -> TensorInfo:
    """`tensor` as convert_hf_to_gguf.py would store it: matrices quantised, or F16 where a row does not fit into blocks."""
    name = tensor.name
    if len(tensor.shape) < 2 or not name.endswith(".weight") or name.endswith(_NEVER_QUANTISED) or name.startswith(_OTHER_SENSES):
        return tensor
    fits = tensor.columns % gguf.GGML_QUANT_SIZES[kind][0] == 0
    return TensorInfo(name, tensor.shape, kind if fits else Type.F16)


def _slabs(tensor: TensorInfo) -> Iterator[tuple[int, int]]:
    step = max(1, _SLAB // tensor.columns)
    for first in range(0, tensor.rows, step):
        yield first, min(first + step, tensor.rows)


def _open(base_gguf: Path, quantization: str) -> GgufFile:
    if quantization.lower() not in QUANTIZATIONS:
        raise ExportError(f"unknown quantization {quantization!r}: choose one of {', '.join(QUANTIZATIONS)}")
    base = read_gguf(base_gguf)
    if base.header.architecture not in _PERMUTED | _AS_THEY_ARE:
        known = ", ".join(sorted(_PERMUTED | _AS_THEY_ARE))
        raise ExportError(f"{base_gguf} is of the architecture {base.header.architecture!r}; an adapter can be exported for {known}")
    return base


def _targets(base: GgufFile, adapter_dir: Path) -> dict[str, LoraPair]:
    """The adapter's pairs by the base's tensor names, in the base's order; ExportError unless each fits."""
    architecture = base.header.architecture
    found: dict[str, LoraPair] = {}
    for pair in read_adapter(adapter_dir):
        name = _name_map(architecture, _number(base, "block_count")).get_name(pair.module)
        tensor = base.tensors.get(f"{name}.weight")
        if name is None or tensor is None:
            tied = ": its output is the embedding, leave lm_head out of target_modules" if f"{name}.weight" == _OUTPUT else ""
            raise ExportError(f"{adapter_dir} adapts {pair.module}, which {base.path} does not have{tied}")
        if tensor.shape != pair.shape[::-1]:
            raise ExportError(
                f"{adapter_dir} was not trained on {base.path}: {pair.module} is {pair.shape} there, and {tensor.shape[::-1]} in the base"
            )
        if tensor.name == _EMBEDDING and _OUTPUT not in base.tensors:
            raise ExportError(
                f"{adapter_dir} adapts {pair.module}, which {base.path} also uses as its output: in a GGUF both would change. "
                f"Leave the embedding out of target_modules."
            )
        found[tensor.name] = pair
    return {name: found[name] for name in base.tensors if name in found}


@functools.lru_cache(maxsize=4)
def _name_map(architecture: str, blocks: int) -> gguf.TensorNameMap:
    by_name = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(by_name[architecture], blocks)


def _row_order(base: GgufFile, name: str, rows: int) -> NDArray[np.intp] | slice:
    """Which of Hugging Face's rows stands at each of the GGUF's."""
    heads = {".attn_q.weight": "attention.head_count", ".attn_k.weight": "attention.head_count_kv"}
    key = next((key for suffix, key in heads.items() if name.endswith(suffix)), None)
    if key is None or base.header.architecture not in _PERMUTED:
        return slice(None)
    if f"{base.header.architecture}.{key}" not in base.metadata:
        key = "attention.head_count"
    return rotary_order(rows, _number(base, key))


def rotary_order(rows: int, heads: int) -> NDArray[np.intp]:
    """The order that makes of Hugging Face's rows (first halves of a head's pairs, then second halves) llama.cpp's (pair after pair)."""
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).ravel()


def _number(base: GgufFile, key: str) -> int:
    value = base.header.metadata.get(f"{base.header.architecture}.{key}")
    if not isinstance(value, int):
        raise ExportError(f"{base.path} says no single {base.header.architecture}.{key}: models whose layers differ cannot be exported yet")
    return value
