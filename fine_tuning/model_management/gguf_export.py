"""Export a trained adapter or model to a GGUF that an engine can serve.

An adapter is either merged into the base's weights, or written as an adapter GGUF, which is served
together with the base. The weights of a fully fine-tuned model replace the base's. The export is
streamed: metadata and unchanged weights are copied as bytes, other weights are processed a few
megabytes at a time.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType as Type
from gguf.constants import LlamaFileType
from numpy.typing import NDArray

from fine_tuning.engines import ggml
from fine_tuning.engines.gguf_file import (
    GgufFile,
    TensorInfo,
    entry,
    file_size,
    read_gguf,
    whole_file,
    write_gguf,
)
from fine_tuning.engines.gguf_header import DEFAULT_ALIGNMENT
from fine_tuning.errors import ExportError
from fine_tuning.model_management.peft_adapter import LoraPair
from fine_tuning.model_management.safetensors_file import StoredTensor
from fine_tuning.model_management.tensor_names import (
    ARCHITECTURES,
    EMBEDDING,
    OTHER_SENSES,
    row_order,
    targets_of,
    weights_of,
)

# The types that llama.cpp's convert_hf_to_gguf.py writes. For the mixtures (ggml.MIXTURES), llama.cpp
# quantises an F32 file.
_PLAIN = {
    "f32": (Type.F32, LlamaFileType.ALL_F32),
    "f16": (Type.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (Type.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (Type.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
SAME = "same"  # every tensor keeps its type in the base
QUANTIZATIONS = (SAME, *_PLAIN, *ggml.MIXTURES)

# Architectures whose norm weights are around 0 in Hugging Face's format but around 1 in llama.cpp's.
_NORMS_FROM_ZERO = frozenset({"gemma", "gemma2", "gemma3", "nemotron"})

_FLOATS = (Type.F32, Type.F16, Type.BF16)
_NEVER_QUANTISED = ("_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", "token_types.weight")
_LARGEST_F16 = 65504.0  # the largest finite float16
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION of llama.cpp
_SLAB = 4 << 20  # weights processed at once: 16 MiB of float32

WeightsDone = Callable[[int, int], None]  # progress: number of weights done, total number
Rows = NDArray[np.float32]
Change = Callable[[int, int, Callable[[], Rows]], Rows]
"""Computes the new rows `first` to `last` (exclusive) of a tensor, in the order of the base's GGUF.

The third argument is a function that loads the same rows of the base.
"""
Changes = Mapping[str, Callable[[], Change]]
"""By the base's tensor name, a function that prepares the tensor's Change; called just before the tensor is written."""


@dataclass(frozen=True)
class Exported:
    """The GGUF that an export wrote, and how many tensors it changed, converted and copied."""

    path: Path
    size: int  # bytes
    adapted: int  # number of tensors that the adapter changed
    converted: int  # number of tensors that were only converted to another type
    copied: int  # number of tensors that were copied as bytes


def check_exportable(base_gguf: str | Path, quantization: str = SAME) -> None:
    """Raise ExportError if an adapter for `base_gguf` cannot be exported in this `quantization`.

    Called before the training, so that no training is wasted.
    """
    _open(base_gguf, quantization)


def merge_adapter(
    base_gguf: str | Path,
    adapter_dir: str | Path,
    out_path: str | Path,
    quantization: str = "q8_0",
    progress: WeightsDone | None = None,
) -> Exported:
    """Merge an adapter into the base: write a GGUF with the weights W + scale * B @ A, atomically.

    With DoRA the rows are then scaled to the learned magnitudes.

    Args:
        base_gguf: The GGUF of the base.
        adapter_dir: The adapter in PEFT's format.
        out_path: The file to write.
        quantization: One of QUANTIZATIONS: `same`, a type of convert_hf_to_gguf.py (f32, f16, bf16,
            q8_0), or a mixture of llama-quantize (q4_k_m, ...). A mixture temporarily needs disk
            space for the model in float32.
        progress: Called with (weights done, all weights).

    Raises ExportError, and then leaves `out_path` unchanged.
    """
    base = _open(base_gguf, quantization)
    changes = {
        name: functools.partial(_adapted, base, name, pair) for name, pair in targets_of(base, adapter_dir).items()
    }
    return _export(base, changes, Path(out_path), quantization.lower(), progress)


def export_full(
    base_gguf: str | Path,
    model_folder: str | Path,
    out_path: str | Path,
    quantization: str = "q8_0",
    progress: WeightsDone | None = None,
) -> Exported:
    """Write a fully fine-tuned model as a GGUF: its weights with the base's metadata, atomically.

    Args:
        base_gguf: The GGUF of the base.
        model_folder: Holds the trained weights, model.safetensors.
        out_path: The file to write.
        quantization: As for `merge_adapter`.
        progress: Called with (weights done, all weights).

    Raises ExportError, and then leaves `out_path` unchanged.
    """
    base = _open(base_gguf, quantization)
    changes = {
        name: functools.partial(_replaced, base, name, hf, tensor)
        for name, (hf, tensor) in weights_of(base, model_folder).items()
    }
    return _export(base, changes, Path(out_path), quantization.lower(), progress)


def _export(
    base: GgufFile, changes: Changes, out_path: Path, quantization: str, progress: WeightsDone | None
) -> Exported:
    if quantization in ggml.MIXTURES:
        return _export_mixture(base, changes, out_path, quantization, progress)
    export = _Export(base, changes, quantization, progress)
    with whole_file(out_path, export.size) as temporary:
        export.write(temporary)
    return export.exported(out_path)


def convert_adapter(base_gguf: str | Path, adapter_dir: str | Path, out_path: str | Path) -> Exported:
    """Write the adapter in `adapter_dir` to `out_path` as a float32 adapter GGUF, atomically.

    The result equals that of llama.cpp's convert_lora_to_gguf.py. Raises ExportError if the adapter
    does not fit the base, or was trained with DoRA, which the format cannot hold.
    """
    base = _open(base_gguf, SAME)
    pairs = targets_of(base, adapter_dir)
    if any(pair.has_magnitude for pair in pairs.values()):
        raise ExportError(
            f"{adapter_dir} was trained with DoRA, which no adapter GGUF can hold: set deployment.mode to merged"
        )
    # llama.cpp scales every pair by alpha / rank, so any other scale is multiplied into B.
    alpha, _ = Counter(pair.scale * pair.rank for pair in pairs.values()).most_common(1)[0]
    values = {"general.architecture": base.header.architecture, "general.type": "adapter", "adapter.type": "lora"}
    metadata = {key: entry(key, value) for key, value in values.items()}
    metadata["adapter.lora.alpha"] = entry("adapter.lora.alpha", alpha)
    tensors = [tensor for name, pair in pairs.items() for tensor in _adapter_tensors(base, name, pair, alpha)]
    size = file_size(metadata, (info for info, _ in tensors))
    with whole_file(Path(out_path), size) as temporary:
        write_gguf(temporary, metadata, tensors)
    return Exported(Path(out_path), size, adapted=len(pairs), converted=0, copied=0)


def _adapter_tensors(
    base: GgufFile, name: str, pair: LoraPair, alpha: float
) -> Iterator[tuple[TensorInfo, Iterator[bytes]]]:
    outputs, inputs = pair.shape
    # llama.cpp looks up tokens in A, so both matrices of an embedding's pair are stored transposed
    flipped = name == EMBEDDING
    a_shape, b_shape = (
        ((pair.rank, outputs), (pair.rank, inputs)) if flipped else ((inputs, pair.rank), (pair.rank, outputs))
    )

    def data(side: int) -> Iterator[bytes]:
        a, b = pair.load()
        with np.errstate(over="ignore"):
            b = b[row_order(base, name, outputs)] * np.float32(pair.scale * pair.rank / alpha if alpha else 1)
        if not np.isfinite(b).all():
            raise _overflow(name, base.path, "float32")
        yield np.ascontiguousarray(((b, a.T) if flipped else (a, b))[side]).tobytes()

    yield TensorInfo(f"{name}.lora_a", a_shape, Type.F32), data(0)
    yield TensorInfo(f"{name}.lora_b", b_shape, Type.F32), data(1)


def _adapted(base: GgufFile, name: str, pair: LoraPair) -> Change:
    """Return the Change that computes W + scale * B @ A of the tensor `name`.

    With DoRA (arXiv 2402.09353) each row is then scaled to its learned magnitude.
    """
    a, b = pair.load()
    order = row_order(base, name, len(b))
    b, scale, magnitude = b[order], np.float32(pair.scale), pair.load_magnitude()

    def rows(first: int, last: int, base_rows: Callable[[], Rows]) -> Rows:
        weights = base_rows()
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow becomes an ExportError later
            delta = b[first:last] @ a
            delta *= scale
            weights += delta
            if magnitude is not None:
                weights *= (magnitude[order][first:last] / np.linalg.norm(weights, axis=1))[:, None]
        return weights

    return rows


def _replaced(base: GgufFile, name: str, hf_name: str, tensor: StoredTensor) -> Change:
    """Return the Change that replaces the base's tensor `name` by `tensor` of a fully fine-tuned model.

    `hf_name` is the name of `tensor` in Hugging Face's format.
    """
    order = row_order(base, name, tensor.shape[0])
    if isinstance(order, slice) and len(tensor.shape) > 1:
        return lambda first, last, base_rows: _finite(hf_name, tensor, tensor.load(first, last))
    whole = tensor.load()[order]
    if hf_name.endswith("norm.weight") and base.header.architecture in _NORMS_FROM_ZERO:
        whole = whole + np.float32(1)
    return lambda first, last, base_rows: _finite(hf_name, tensor, np.atleast_2d(whole)[first:last])


def _finite(name: str, tensor: StoredTensor, rows: Rows) -> Rows:
    if not np.isfinite(rows).all():
        raise ExportError(
            f"the weights {name} in {tensor.path} are not finite: the training diverged. Train again with a lower "
            "learning_rate."
        )
    return rows


def _overflow(name: str, path: Path, kind: str) -> ExportError:
    return ExportError(
        f"{name} of {path} has weights that {kind} cannot hold: the training diverged. Train again with a lower "
        "learning_rate or, if the base itself has such weights, choose quantization bf16."
    )


class _Export:
    """An export in one pass over the base, without llama.cpp's quantiser.

    The constructor chooses each tensor's new type and computes the size of the file; `write` writes
    it. Raises ExportError for a changed tensor of a type that byoai cannot write.
    """

    def __init__(self, base: GgufFile, changes: Changes, quantization: str, progress: WeightsDone | None) -> None:
        self._base, self._changes = base, changes
        self._progress = progress or (lambda done, total: None)
        self._done, self._total = 0, sum(tensor.rows * tensor.columns for tensor in base.tensors.values())
        self._alignment = base.alignment
        self.large: list[str] = []  # names of written tensors with weights beyond the range of float16
        self._metadata = dict(base.metadata)
        self._made = dict(base.tensors)
        if quantization != SAME:
            kind, file_type = _PLAIN[quantization]
            self._made = {name: _retyped(tensor, kind) for name, tensor in base.tensors.items()}
            self._metadata["general.file_type"] = entry("general.file_type", file_type.value)
            self._metadata["general.quantization_version"] = entry(
                "general.quantization_version", _QUANTIZATION_VERSION
            )
        for name in changes:
            if not ggml.can_quantize(kind := self._made[name].kind):
                raise ExportError(
                    f"{name} of {base.path} is stored as {kind.name}, which byoai cannot write: choose another "
                    "quantization, such as q8_0"
                )
        self.size = file_size(self._metadata, self._made.values(), self._alignment)

    def write(self, path: Path) -> None:
        write_gguf(
            path, self._metadata, [(target, self._weights(target)) for target in self._made.values()], self._alignment
        )

    def exported(self, path: Path) -> Exported:
        retyped = sum(
            target.kind != self._base.tensors[name].kind
            for name, target in self._made.items()
            if name not in self._changes
        )
        return Exported(path, self.size, len(self._changes), retyped, len(self._made) - len(self._changes) - retyped)

    def _weights(self, target: TensorInfo) -> Iterator[bytes]:
        source, start = self._base.tensors[target.name], self._changes.get(target.name)
        change = start() if start else None
        with self._base.path.open("rb") as file:
            for first, last in _slabs(source):
                read = functools.partial(self._read, file, source, first, last)
                dequantized = functools.partial(self._floats, read, source)
                if change is None and source.kind == target.kind:
                    yield read().tobytes()
                else:
                    yield self._quantised(
                        target, change(first, last, dequantized) if change else dequantized()
                    ).tobytes()
                self._done += (last - first) * source.columns
                self._progress(self._done, self._total)

    def _quantised(self, target: TensorInfo, rows: Rows) -> NDArray[np.uint8]:
        """Return the rows as bytes of the type of `target`.

        Raises ExportError if a weight becomes infinite or NaN in that type. If a weight fits the
        type but not float16, the tensor's name is added to `large`.
        """
        made = ggml.quantize(rows, target.kind)
        largest = np.abs(rows).max(initial=0)  # NaN if any weight is NaN
        if largest < _LARGEST_F16:  # safe for every type, since the scales of quantised blocks are float16
            return made
        if not np.isfinite(largest) or not np.isfinite(ggml.dequantize(made, target.kind, target.columns)).all():
            raise _overflow(target.name, self._base.path, target.kind.name)
        self.large.append(target.name)
        return made

    def _read(self, file: BinaryIO, source: TensorInfo, first: int, last: int) -> NDArray[np.uint8]:
        row = ggml.row_bytes(source.kind, source.columns)
        file.seek(self._base.starts[source.name] + first * row)
        return np.fromfile(file, np.uint8, (last - first) * row)

    @staticmethod
    def _floats(read: Callable[[], NDArray[np.uint8]], source: TensorInfo) -> Rows:
        return ggml.dequantize(read(), source.kind, source.columns)


def _export_mixture(
    base: GgufFile, changes: Changes, out_path: Path, mixture: str, progress: WeightsDone | None
) -> Exported:
    if base.alignment != DEFAULT_ALIGNMENT:
        raise ExportError(
            f"{base.path} is aligned to {base.alignment} bytes, which llama.cpp's quantiser cannot keep: export "
            "it as q8_0, or as it is (same)"
        )
    floats, eights = _Export(base, changes, "f32", progress), _Export(base, changes, "q8_0", None)
    with whole_file(out_path, floats.size + eights.size) as temporary:  # no mixture is larger than q8_0
        merged = temporary.with_suffix(".f32")
        try:
            floats.write(merged)
            if floats.large:  # llama.cpp's quantiser would store them as infinite
                raise _overflow(floats.large[0], base.path, mixture)
            ggml.quantize_file(merged, temporary, mixture)
        finally:
            merged.unlink(missing_ok=True)
    made = read_gguf(out_path).tensors
    again = sum(
        name not in changes and (made[name].kind not in _FLOATS or made[name] != tensor)
        for name, tensor in base.tensors.items()
    )
    return Exported(out_path, out_path.stat().st_size, len(changes), again, len(made) - len(changes) - again)


def _retyped(tensor: TensorInfo, kind: Type) -> TensorInfo:
    """Return `tensor` with the type that convert_hf_to_gguf.py would choose for the quantisation `kind`.

    Matrices get `kind`, or F16 if a row is not a whole number of blocks. Vectors, norms and the
    tensors of a vision encoder keep their type.
    """
    name = tensor.name
    if (
        len(tensor.shape) < 2
        or not name.endswith(".weight")
        or name.endswith(_NEVER_QUANTISED)
        or name.startswith(OTHER_SENSES)
    ):
        return tensor
    fits = tensor.columns % gguf.GGML_QUANT_SIZES[kind][0] == 0
    return TensorInfo(name, tensor.shape, kind if fits else Type.F16)


def _slabs(tensor: TensorInfo) -> Iterator[tuple[int, int]]:
    step = max(1, _SLAB // tensor.columns)
    for first in range(0, tensor.rows, step):
        yield first, min(first + step, tensor.rows)


def _open(base_gguf: str | Path, quantization: str) -> GgufFile:
    if quantization.lower() not in QUANTIZATIONS:
        raise ExportError(f"unknown quantization {quantization!r}: choose one of {', '.join(QUANTIZATIONS)}")
    base = read_gguf(base_gguf)
    if base.header.architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ExportError(
            f"{base_gguf} has the architecture {base.header.architecture!r}, but an adapter can be exported only for "
            f"{known}: choose another base"
        )
    return base
