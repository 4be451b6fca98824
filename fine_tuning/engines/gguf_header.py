"""What a GGUF file says of itself: metadata and tensor shapes, without its weights, in a fraction of a second.

`gguf.GGUFReader` makes an array object of every token and takes seconds for one file; a chat page cannot wait for that.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import functools
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tuning.errors import EngineError

# Value types of the metadata; 8 is a string, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_TOKENS = "tokenizer.ggml.tokens"

# general.file_type (llama_ftype in llama.h), as Ollama and llama.cpp write it.
_QUANTIZATIONS = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M"},
    **{13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 32: "BF16", 38: "MXFP4_MOE"},
}


@dataclass(frozen=True)
class GgufHeader:
    path: Path
    metadata: dict[str, Any]  # every key but those of arrays
    tensors: dict[str, tuple[int, ...]]  # name to shape, in GGUF's order (the row's length first)
    bos_token: str
    eos_token: str

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def is_adapter(self) -> bool:
        return self.metadata.get("general.type") == "adapter"

    @property
    def chat_template(self) -> str | None:
        return self.metadata.get("tokenizer.chat_template") or None

    @property
    def context_length(self) -> int:
        return int(self.metadata.get(f"{self.architecture}.context_length", 0))

    @property
    def quantization(self) -> str:
        return _QUANTIZATIONS.get(self.metadata.get("general.file_type", -1), "unknown")

    @property
    def parameter_size(self) -> str:
        """The number of weights as Ollama writes it: 134.52M, 7.6B."""
        count = sum(math.prod(shape) for shape in self.tensors.values())
        for unit, name, digits in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
            if count >= unit:
                return f"{count / unit:.{0 if count % unit == 0 else digits}f}{name}"
        return str(count)


def read_header(path: Path) -> GgufHeader:
    """The header of the GGUF at `path`. EngineError when it cannot be read or is none."""
    try:
        status = path.stat()
        return _read(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}") from error
    except (struct.error, UnicodeDecodeError, ValueError, KeyError, IndexError) as error:
        raise EngineError(
            f"{path} is not a whole GGUF file ({error}): it may be damaged, or its download or export was interrupted"
        ) from error


def check_model(header: GgufHeader) -> GgufHeader:
    """`header`, or EngineError if these are no model's weights."""
    if header.is_adapter or not header.architecture or not header.tensors:
        what = "an adapter" if header.is_adapter else "no model"
        raise EngineError(f"{header.path} holds {what}, not a model's weights: give it as the adapter of a base, or give another file")
    return header


def check_adapter(adapter: GgufHeader, base: GgufHeader | None) -> None:
    """EngineError unless `adapter` is a LoRA made for `base` (None: any), which llama.cpp would only find out when it loads them."""
    if not adapter.is_adapter or adapter.metadata.get("adapter.type") != "lora":
        raise EngineError(f"{adapter.path} is not a LoRA adapter in GGUF format")
    if base is None:
        return
    if adapter.architecture != base.architecture:
        raise EngineError(f"{adapter.path} adapts a {adapter.architecture} model, but the base is {base.architecture}")
    for name, shape in adapter.tensors.items():
        target, _, side = name.rpartition(".lora_")
        axis = {"a": 0, "b": 1}.get(side)
        if axis is None or target == "token_embd.weight":  # llama.cpp takes the embedding's pair transposed
            continue
        wanted = base.tensors.get(target)
        if wanted is None or wanted[axis] != shape[axis]:
            raise EngineError(f"{adapter.path} was not trained on this base: its {name} {shape} does not fit the base's {wanted}")


@functools.lru_cache(maxsize=32)
def _read(path: Path, size: int, modified: int) -> GgufHeader:  # size and time: a replaced file is read anew
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        reader = GgufReader(content)
        if content[:4] != b"GGUF":
            raise ValueError("no GGUF magic")
        reader.position = 4
        if (version := reader.scalar("I")) not in (2, 3):
            raise ValueError(f"GGUF version {version}")
        tensor_count, key_count = reader.scalar("Q"), reader.scalar("Q")
        values = {reader.string(): reader.value() for _ in range(key_count)}
        tensors = {name: shape for name, shape, _, _ in (reader.tensor() for _ in range(tensor_count))}
        tokens = values.get(_TOKENS)
        bos, eos = (_token(content, tokens, values.get(f"tokenizer.ggml.{name}_token_id")) for name in ("bos", "eos"))
    metadata = {key: value for key, value in values.items() if not isinstance(value, _Array)}
    return GgufHeader(path=path, metadata=metadata, tensors=tensors, bos_token=bos, eos_token=eos)


@dataclass(frozen=True)
class _Array:
    """Where an array lies; its elements are not read."""

    kind: int
    count: int
    position: int


class GgufReader:
    """A cursor over the header; every call reads what lies at `position` and moves behind it."""

    def __init__(self, content: mmap.mmap, position: int = 0) -> None:
        self.content = content
        self.position = position

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.content, self.position)
        self.position += struct.calcsize(f"<{code}")
        return value

    def string(self) -> str:
        length = self.scalar("Q")
        start = self.position
        self._skip(length)
        return self.content[start : start + length].decode("utf-8")

    def value(self) -> Any:
        kind = self.scalar("I")
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        return self.scalar(_SCALARS[kind])

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, ggml type, and offset from where the weights begin."""
        name = self.string()
        shape = tuple(self.scalar("Q") for _ in range(self.scalar("I")))
        return name, shape, self.scalar("I"), self.scalar("Q")

    def _array(self) -> _Array:
        kind, count = self.scalar("I"), self.scalar("Q")
        array = _Array(kind, count, self.position)
        if kind == _STRING:
            self.skip_strings(count)
        elif kind == _ARRAY:
            for _ in range(count):
                self._array()
        else:
            self._skip(count * struct.calcsize(f"<{_SCALARS[kind]}"))
        return array

    def skip_strings(self, count: int) -> None:
        length_at, content, position = struct.Struct("<Q").unpack_from, self.content, self.position
        for _ in range(count):  # the one hot loop: a vocabulary has 10^5 strings
            position += 8 + length_at(content, position)[0]
        self.position = position

    def _skip(self, count: int) -> None:
        self.position += count
        if self.position > len(self.content):
            raise ValueError("it ends in the middle of its header")


def _token(content: mmap.mmap, tokens: _Array | None, index: int | None) -> str:
    """The text of one token of the vocabulary."""
    if tokens is None or index is None or not 0 <= index < tokens.count:
        return ""
    reader = GgufReader(content, tokens.position)
    reader.skip_strings(index)
    return reader.string()
