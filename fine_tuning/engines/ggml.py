"""Quantise and dequantise weights with ggml itself, so that the results equal llama.cpp's.

ggml's libraries come with llama-cpp-python. Only ggml's base library is loaded into this process:
it contains no processor-specific code, reads no files, and gets only arrays whose sizes were
checked. llama.cpp, which quantises whole files, runs in a child process.

Weights are arrays (rows, columns); columns are the first dimension of a GGUF's shape. A quantised
row is bytes. C declarations: https://github.com/ggml-org/llama.cpp/blob/master/ggml/include/ggml.h
and include/llama.h
"""

import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from numpy.typing import NDArray

from fine_tuning.engines.native import Native
from fine_tuning.errors import EngineError, ExportError

# The quantisations of llama-quantize (tools/quantize/quantize.cpp) that need no importance matrix, by name.
MIXTURES = {
    **{
        name.lower(): LlamaFileType[f"MOSTLY_{name}"]
        for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q6_K", "IQ4_NL", "IQ4_XS")
    },
    **{f"q3_k_{size.lower()}": LlamaFileType[f"MOSTLY_Q3_K_{size}"] for size in "SML"},
    **{f"q{bits}_k_{size.lower()}": LlamaFileType[f"MOSTLY_Q{bits}_K_{size}"] for bits in (4, 5) for size in "SM"},
    **{f"q{bits}_k": LlamaFileType[f"MOSTLY_Q{bits}_K_M"] for bits in (3, 4, 5)},
}


class _TypeTraits(ctypes.Structure):
    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_size", ctypes.c_int64),
        ("block_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


def row_bytes(kind: GGMLQuantizationType, columns: int) -> int:
    """Return the size in bytes of a row of `columns` weights of type `kind`.

    Raises ExportError if `columns` is not a multiple of the type's block size.
    """
    block: int
    size: int
    block, size = GGML_QUANT_SIZES[kind]
    if columns % block:
        raise ExportError(
            f"rows of {columns} weights cannot be stored as {kind.name}, which packs {block} weights together: choose "
            "another quantization, such as f16"
        )
    return columns // block * size


def dequantize(data: NDArray[np.uint8], kind: GGMLQuantizationType, columns: int) -> NDArray[np.float32]:
    """Return float32 weights (rows, columns) from `data`, the bytes of whole rows of type `kind`.

    Raises ExportError if `data` is not whole rows, or ggml cannot dequantise the type.
    """
    rows, rest = divmod(data.nbytes, row_bytes(kind, columns))
    if rest:
        raise ExportError(
            f"{data.nbytes} bytes are not whole rows of {columns} {kind.name} weights: the file is damaged, so "
            "download or export it again"
        )
    if kind is GGMLQuantizationType.F32:
        return data.view(np.float32).reshape(rows, columns).copy()
    traits = _traits(kind)
    if not traits.to_float:
        raise ExportError(f"ggml cannot read weights of type {kind.name}: choose another base")
    weights = np.empty((rows, columns), np.float32)
    traits.to_float(data.ctypes.data, weights.ctypes.data, weights.size)
    return weights


def quantize(weights: NDArray[np.float32], kind: GGMLQuantizationType) -> NDArray[np.uint8]:
    """Return float32 `weights` (rows, columns) as bytes, uint8 (rows, bytes of a row).

    Raises ExportError if `kind` needs an importance matrix.
    """
    weights = np.ascontiguousarray(weights, np.float32)
    rows, columns = weights.shape
    data = np.empty((rows, row_bytes(kind, columns)), np.uint8)
    if kind is GGMLQuantizationType.F32:
        return weights.view(np.uint8)
    if not can_quantize(kind):
        raise ExportError(
            f"weights cannot be stored as {kind.name} without an importance matrix, which byoai does not make: choose "
            "another quantization, such as q8_0"
        )
    _library().ggml_quantize_chunk(kind, weights.ctypes.data, data.ctypes.data, 0, rows, columns, None)
    return data


def can_quantize(kind: GGMLQuantizationType) -> bool:
    """Return whether `quantize` supports `kind`: floats, and the types that need no importance matrix."""
    floats = kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
    return floats or (_traits(kind).is_quantized and not _library().ggml_quantize_requires_imatrix(kind))


def quantize_file(source: Path, target: Path, mixture: str) -> None:
    """Quantise the GGUF `source` to `target`, exactly as `llama-quantize source target mixture` does.

    `source` has float weights; `mixture` is a key of MIXTURES. Raises ExportError with llama.cpp's
    own message if llama.cpp fails.
    """
    try:
        quantiser = Native("fine_tuning.engines.llama:Quantiser")
        failure = quantiser.call("quantise", str(source), str(target), int(MIXTURES[mixture]))
        quantiser.close()
    except EngineError as error:
        raise ExportError(
            f"llama.cpp could not convert {source} to {mixture}: {error}. Choose another quantization, such as q8_0"
        ) from error
    if failure:
        raise ExportError(
            f"llama.cpp could not convert {source} to {mixture}: {failure}. Choose another quantization, such as q8_0"
        )


def _traits(kind: GGMLQuantizationType) -> _TypeTraits:
    traits: _TypeTraits = _library().ggml_get_type_traits(kind).contents
    return traits


@functools.cache
def _library() -> Any:
    """Return the ggml-base library, with the types of its functions declared.

    Raises ExportError if the library is missing, or is not of the version that this module was
    written for.
    """
    library = ctypes.CDLL(str(_library_file()))
    library.ggml_get_type_traits.argtypes = [ctypes.c_int]
    library.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    library.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
    library.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        *[ctypes.c_void_p] * 2,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    # C structures have no version number, so check known values before use
    for kind in (GGMLQuantizationType.F16, GGMLQuantizationType.Q8_0):
        traits = library.ggml_get_type_traits(kind).contents
        if (traits.block_size, traits.type_size) != GGML_QUANT_SIZES[kind]:
            raise ExportError(
                "this llama-cpp-python contains another version of ggml than byoai knows: install the version that "
                "requirements.txt names"
            )
    return library


def _library_file() -> Path:
    """Return the path of the ggml-base library without importing llama_cpp, which would load all of llama.cpp.

    Raises ExportError if it is not installed.
    """
    package = importlib.util.find_spec("llama_cpp")
    folder = Path(package.origin).parent / "lib" if package and package.origin else Path()
    for name in ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll", "libggml-base.dll"):
        if (folder / name).exists():
            return folder / name
    raise ExportError(
        "llama-cpp-python is not installed, or has no ggml-base library: run ./scripts/start.sh, which installs it"
    )
