"""Read the header of a GGUF (metadata, and the tensors' shapes) in a fraction of a second.

The weights are not read. `gguf.GGUFReader` would create an array object for every token of the
vocabulary, which takes seconds, too long for a chat page. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import functools
import math
import mmap
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fine_tuning.errors import EngineError, ModelDamaged

# Value types of the metadata; 8 is a string, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_TOKENS = "tokenizer.ggml.tokens"

# Limits for the counts in a file. Real models stay far below: 300 keys, 10^4 tensors, 10^6 tokens.
_MOST_KEYS, _MOST_TENSORS, _MOST_STRINGS = 1 << 16, 1 << 20, 1 << 24
_MOST_DIMENSIONS = 4  # GGML_MAX_DIMS
_LONGEST_TEXT = 64 << 20  # bytes
_DEEPEST = 4  # levels of nested arrays

DEFAULT_ALIGNMENT = 32
_TEXTS = ("general.architecture", "general.type", "adapter.type", "tokenizer.chat_template")
_NUMBERS = ("general.file_type", "general.alignment", "split.count")

# general.file_type (llama_ftype in llama.h), as Ollama and llama.cpp write it.
_QUANTIZATIONS = {
    **{
        0: "F32",
        1: "F16",
        2: "Q4_0",
        3: "Q4_1",
        7: "Q8_0",
        8: "Q5_0",
        9: "Q5_1",
        10: "Q2_K",
        11: "Q3_K_S",
        12: "Q3_K_M",
    },
    **{13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 32: "BF16", 38: "MXFP4_MOE"},
}


_T = TypeVar("_T")


@dataclass(frozen=True)
class GgufHeader:
    path: Path
    metadata: dict[str, Any]  # every key whose value is not an array
    tensors: dict[str, tuple[int, ...]]  # name to shape, in GGUF's order (the row's length first)
    kinds: dict[str, int]  # name to ggml type
    starts: dict[str, int]  # name to the first byte of its weights in the file
    size: int  # bytes of the file
    bos_token: str
    eos_token: str

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def is_adapter(self) -> bool:
        return self.metadata.get("general.type") == "adapter"

    @property
    def alignment(self) -> int:
        """Alignment of the tensors in bytes."""
        alignment: int = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        return alignment

    @property
    def chat_template(self) -> str | None:
        return self.metadata.get("tokenizer.chat_template") or None

    @property
    def context_length(self) -> int:
        """Context length in tokens; 0 if the file does not state it."""
        length: int = self.metadata.get(f"{self.architecture}.context_length", 0)
        return length

    @property
    def quantization(self) -> str:
        return _QUANTIZATIONS.get(self.metadata.get("general.file_type", -1), "unknown")

    @property
    def parameter_size(self) -> str:
        """Number of weights as Ollama writes it, such as 134.52M or 7.6B."""
        count = sum(math.prod(shape) for shape in self.tensors.values())
        for unit, name, digits in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
            if count >= unit:
                return f"{count / unit:.{0 if count % unit == 0 else digits}f}{name}"
        return str(count)


def read_header(path: str | Path) -> GgufHeader:
    """Return the header of the GGUF at `path`, after checking its counts, sizes and types.

    Raises EngineError if the file cannot be read, ModelDamaged if it is not a complete, valid GGUF
    header. `check_whole` checks that the weights are complete.
    """
    path = Path(path)
    try:
        status = path.stat()
        return _read(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}. Check the path and its permissions") from error
    except (struct.error, ValueError, KeyError, OverflowError) as error:
        raise ModelDamaged(
            f"{path} is not a complete GGUF file ({error}): it is damaged, or its download or export was interrupted. "
            "Download or export it again."
        ) from error


def check_model(header: GgufHeader) -> GgufHeader:
    """Raise EngineError unless the file holds all weights of a model; else return `header`."""
    if header.is_adapter or not header.architecture or not header.tensors:
        what = "is an adapter" if header.is_adapter else "contains no model"
        raise EngineError(
            f"{header.path} {what}, but the weights of a model are needed: give another file (an adapter is given with "
            "its base)"
        )
    check_whole(header)
    return header


def check_whole(header: GgufHeader) -> None:
    """Raise ModelDamaged if the file ends before its last weights.

    Tensors of unknown types are not checked.
    """
    from gguf.constants import GGML_QUANT_SIZES  # imported here, since it takes a tenth of a second

    sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    for name, shape in header.tensors.items():
        block, block_bytes = sizes.get(header.kinds[name], (1, 0))
        if header.starts[name] + math.prod(shape) // block * block_bytes > header.size:
            raise ModelDamaged(
                f"{header.path} ends before its last weights, because its download or export was interrupted. Download "
                "or export it again."
            )


def check_adapter(adapter: GgufHeader, base: GgufHeader | None) -> None:
    """Raise EngineError unless `adapter` is a LoRA adapter that fits `base` (None: any base).

    Without this check, llama.cpp would report a mismatch only when it loads both.
    """
    if not adapter.is_adapter or adapter.metadata.get("adapter.type") != "lora":
        raise EngineError(f"{adapter.path} is not a LoRA adapter in GGUF format: give another file")
    check_whole(adapter)
    if base is None:
        return
    if adapter.architecture != base.architecture:
        raise EngineError(
            f"{adapter.path} is an adapter for a {adapter.architecture} model, but the base is a {base.architecture} "
            "model: choose the base that it was trained on"
        )
    for name, shape in adapter.tensors.items():
        target, _, side = name.rpartition(".lora_")
        axis = {"a": 0, "b": 1}.get(side)
        if axis is None or target == "token_embd.weight":  # the embedding's pair is stored transposed
            continue
        wanted = base.tensors.get(target)
        if wanted is None or len(wanted) < 2 or len(shape) < 2 or wanted[axis] != shape[axis]:
            raise EngineError(
                f"{adapter.path} was not trained on this base, because its {name} {shape} does not fit the base's "
                f"{wanted}: choose the base that it was trained on"
            )


@functools.lru_cache(maxsize=32)
def _read(path: Path, size: int, modified: int) -> GgufHeader:  # size and time are cache keys: a changed file is reread
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        reader = GgufReader(content)
        if content[:4] != b"GGUF":
            raise ValueError("the file does not begin with GGUF")
        reader.position = 4
        if (version := reader.scalar("I")) not in (2, 3):
            raise ValueError(f"GGUF version {version}")
        tensor_count = _at_most(_MOST_TENSORS, reader.scalar("Q"), "tensors")
        key_count = _at_most(_MOST_KEYS, reader.scalar("Q"), "keys")
        values = _once((reader.string(), reader.value()) for _ in range(key_count))
        tensors = _once(reader.tensor() for _ in range(tensor_count))
        metadata = {key: value for key, value in values.items() if not isinstance(value, _Array)}
        _check_types(values)
        base = padded(reader.position, metadata.get("general.alignment", DEFAULT_ALIGNMENT))
        bos, eos = (
            _token(content, values.get(_TOKENS), values.get(f"tokenizer.ggml.{name}_token_id"))
            for name in ("bos", "eos")
        )
    return GgufHeader(
        path=path,
        metadata=metadata,
        tensors={name: shape for name, (shape, _, _) in tensors.items()},
        kinds={name: kind for name, (_, kind, _) in tensors.items()},
        starts={name: base + offset for name, (_, _, offset) in tensors.items()},
        size=size,
        bos_token=bos,
        eos_token=eos,
    )


def padded(size: int, alignment: int) -> int:
    """Return `size` rounded up to a multiple of `alignment`."""
    return -(-size // alignment) * alignment


def _at_most(limit: int, count: int, what: str) -> int:
    if count > limit:
        raise ValueError(f"the file claims to have {count} {what}, but no model has more than {limit}")
    return count


def _once(pairs: Iterable[tuple[str, _T]]) -> dict[str, _T]:
    """Return the (key, value) pairs as a dictionary. Raises ValueError for a repeated key, as llama.cpp does."""
    found: dict[str, _T] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the file contains the key {name} twice")
        found[name] = value
    return found


def _check_types(values: dict[str, Any]) -> None:
    """Raise ValueError if a key that this module uses has a value of the wrong type."""
    lengths = tuple(key for key in values if key.endswith(".context_length"))
    ids = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos"))
    for kind, keys in ((str, _TEXTS), (int, (*_NUMBERS, *lengths, *ids))):
        for key in keys:
            if key in values and (type(values[key]) is not kind or (kind is int and values[key] < 0)):
                raise ValueError(
                    f"the value of {key} is {values[key]!r}, but must be a {'text' if kind is str else 'number'}"
                )
    if _TOKENS in values and not (isinstance(values[_TOKENS], _Array) and values[_TOKENS].kind == _STRING):
        raise ValueError(f"the value of {_TOKENS} is not a list of texts")
    alignment = values.get("general.alignment", DEFAULT_ALIGNMENT)
    if alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise ValueError(f"the value of general.alignment is {alignment}, which is not a power of two")


@dataclass(frozen=True)
class _Array:
    """The place of an array in the file; its elements are not read."""

    kind: int  # value type of the elements
    count: int  # number of elements
    position: int  # of the first element, in bytes from the start of the file


class GgufReader:
    """Reads values from a GGUF one after the other: every method reads at `position`, and moves it past the value.

    Methods raise struct.error or ValueError at the end of the file, and ValueError for invalid
    data.
    """

    def __init__(self, content: mmap.mmap, position: int = 0) -> None:
        self.content = content
        self.position = position

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.content, self.position)
        self.position += struct.calcsize(f"<{code}")
        return value

    def string(self) -> str:
        length = _at_most(_LONGEST_TEXT, self.scalar("Q"), "bytes of one text")
        start = self.position
        self._skip(length)
        return self.content[start : start + length].decode("utf-8")

    def value(self) -> Any:
        kind = self.scalar("I")
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        return self.scalar(_code(kind))

    def tensor(self) -> tuple[str, tuple[tuple[int, ...], int, int]]:
        """Read a tensor's name, and its shape, ggml type and offset from the start of the weights."""
        name = self.string()
        dimensions = _at_most(_MOST_DIMENSIONS, self.scalar("I"), f"dimensions of {name}")
        shape = tuple(self.scalar("Q") for _ in range(dimensions))
        if not shape or min(shape) < 1 or math.prod(shape) >= 1 << 63:
            raise ValueError(f"the tensor {name} has a shape that is not possible: {shape}")
        return name, (shape, self.scalar("I"), self.scalar("Q"))

    def _array(self, depth: int = 1) -> _Array:
        _at_most(_DEEPEST, depth, "arrays within arrays")
        kind, count = self.scalar("I"), self.scalar("Q")
        array = _Array(kind, count, self.position)
        if kind == _STRING:
            self.skip_strings(_at_most(_MOST_STRINGS, count, "texts in one array"))
        elif kind == _ARRAY:
            for _ in range(_at_most(_MOST_STRINGS, count, "arrays in one array")):
                self._array(depth + 1)
        else:
            self._skip(count * struct.calcsize(f"<{_code(kind)}"))
        return array

    def skip_strings(self, count: int) -> None:
        length_at, content, position = struct.Struct("<Q").unpack_from, self.content, self.position
        for _ in range(count):  # the only loop whose speed matters: a vocabulary has 10^5 strings
            position += 8 + length_at(content, position)[0]
        self._skip(position - self.position)

    def _skip(self, count: int) -> None:
        self.position += count
        if self.position > len(self.content):
            raise ValueError("the file ends in the middle of its header")


def _code(kind: int) -> str:
    """Return the code in Python's struct module of a scalar value type. Raises ValueError for an unknown type."""
    if kind not in _SCALARS:
        raise ValueError(f"the file contains a value of the unknown type {kind}")
    return _SCALARS[kind]


def _token(content: mmap.mmap, tokens: _Array | None, index: int | None) -> str:
    """Return the text of the token number `index` of the vocabulary; "" if there is no such token."""
    if tokens is None or index is None or not 0 <= index < tokens.count:
        return ""
    reader = GgufReader(content, tokens.position)
    reader.skip_strings(index)
    return reader.string()
