"""Read GGUF files without their weights, and write GGUF files piece by piece.

Metadata are kept as raw bytes, so they can be copied to another file unchanged. The weights to
write come as iterables of bytes, so that a whole model is never in memory. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gguf.constants import GGMLQuantizationType

from fine_tuning import paths
from fine_tuning.engines.ggml import row_bytes
from fine_tuning.engines.gguf_header import DEFAULT_ALIGNMENT, GgufHeader, GgufReader, check_whole, padded, read_header
from fine_tuning.errors import EngineError, ExportError

_COUNTS = 4 + 4  # offset of the counts of tensors and keys: after magic and version
_VERSION = 3


@dataclass(frozen=True)
class TensorInfo:
    name: str
    shape: tuple[int, ...]  # in GGUF's order: the length of a row comes first
    kind: GGMLQuantizationType

    @property
    def columns(self) -> int:
        return self.shape[0]

    @property
    def rows(self) -> int:
        return math.prod(self.shape[1:])

    @property
    def size(self) -> int:
        """Size of the weights in bytes."""
        return self.rows * row_bytes(self.kind, self.columns)


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF, with its metadata as raw bytes and the position of each tensor."""

    path: Path
    header: GgufHeader
    metadata: dict[str, bytes]  # each key's whole entry (key, type, value), in the file's order
    tensors: dict[str, TensorInfo]  # in the file's order

    @property
    def alignment(self) -> int:
        return self.header.alignment

    @property
    def starts(self) -> dict[str, int]:
        """Offset of each tensor's first byte in the file."""
        return self.header.starts


def read_gguf(path: str | Path) -> GgufFile:
    """Return the GGUF at `path`, without reading its weights.

    Raises ExportError if the file is damaged, is one part of a model in several files, or has
    weights of an unknown type.
    """
    path = Path(path)
    try:
        header = read_header(path)
        check_whole(header)
    except EngineError as error:
        raise ExportError(str(error)) from error
    if (header.metadata.get("split.count", 0)) > 1:
        raise ExportError(
            f"{path} is one part of a model in several files: join them with llama.cpp's `llama-gguf-split --merge` "
            "first"
        )
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        reader = GgufReader(content, _COUNTS)
        _, key_count = reader.scalar("Q"), reader.scalar("Q")
        metadata = dict(_entry(reader) for _ in range(key_count))
    tensors = {
        name: TensorInfo(name, shape, _kind(path, name, header.kinds[name])) for name, shape in header.tensors.items()
    }
    for tensor in tensors.values():
        row_bytes(tensor.kind, tensor.columns)  # raises ExportError for rows that are not a whole number of blocks
    return GgufFile(path, header, metadata, tensors)


def _entry(reader: GgufReader) -> tuple[str, bytes]:
    start = reader.position
    key = reader.string()
    reader.value()
    return key, reader.content[start : reader.position]


def _kind(path: Path, name: str, number: int) -> GGMLQuantizationType:
    try:
        return GGMLQuantizationType(number)
    except ValueError as error:
        raise ExportError(
            f"{path}: the weights {name} are of a type ({number}) that the package gguf does not know: upgrade that "
            "package, or use another base"
        ) from error


def entry(key: str, value: str | int | float) -> bytes:
    """Return the bytes of one metadata entry: `value` as a string, as a uint32 (int) or as a float32 (float)."""
    if isinstance(value, str):
        return _string(key) + struct.pack("<I", 8) + _string(value)
    return _string(key) + (struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value))


def file_size(metadata: Mapping[str, bytes], tensors: Iterable[TensorInfo], alignment: int = DEFAULT_ALIGNMENT) -> int:
    """Return the size in bytes of the file that `write_gguf` would write with these arguments."""
    tensors = list(tensors)
    return len(_head(metadata, tensors, alignment)) + sum(padded(tensor.size, alignment) for tensor in tensors)


def write_gguf(
    path: Path,
    metadata: Mapping[str, bytes],
    tensors: Sequence[tuple[TensorInfo, Iterable[bytes]]],
    alignment: int = DEFAULT_ALIGNMENT,
) -> None:
    """Write a GGUF to `path`.

    Args:
        metadata: the whole entry of each key, as in GgufFile.
        tensors: each tensor with an iterable of pieces of its weights, which is consumed while
            writing.
        alignment: the tensors begin at multiples of this many bytes.

    Raises ExportError if the pieces of a tensor do not have its size.
    """
    with path.open("wb") as file:
        file.write(_head(metadata, [info for info, _ in tensors], alignment))
        for info, pieces in tensors:
            written = sum(file.write(piece) for piece in pieces)
            if written != info.size:
                raise ExportError(
                    f"a fault in byoai: {info.name} was written with {written} bytes instead of {info.size}. Please "
                    "report it"
                )
            file.write(bytes(padded(written, alignment) - written))


def _head(metadata: Mapping[str, bytes], tensors: Sequence[TensorInfo], alignment: int) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", _VERSION, len(tensors), len(metadata)), *metadata.values()]
    offset = 0
    for info in tensors:
        parts += [
            _string(info.name),
            struct.pack(f"<I{len(info.shape)}QIQ", len(info.shape), *info.shape, info.kind, offset),
        ]
        offset += padded(info.size, alignment)
    head = b"".join(parts)
    return head + bytes(padded(len(head), alignment) - len(head))


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


@contextmanager
def whole_file(path: Path, needed: int) -> Iterator[Path]:
    """Yield a temporary path to write to; after the `with` block, rename the file to `path`.

    The temporary file is removed if the block fails. Raises ExportError if fewer than `needed`
    bytes are free, before anything is written, or if writing fails.
    """
    # always the same name, so that the next export overwrites the leftovers of a killed one
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_space(path, needed)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        paths.fsync_dir(path.parent)
    except OSError as error:
        raise ExportError(
            f"cannot export to {path} ({needed} bytes): {error.strerror or error}. Nothing was left behind; free "
            "some disk space "
            f"or choose another folder (BYOAI_HOME), and try again."
        ) from error


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise ExportError(
            f"not enough disk space to export {path}: {needed} bytes are needed, {free} are free in {path.parent}. "
            f"Free {needed - free} bytes, choose a smaller quantization, or another folder (BYOAI_HOME)."
        )
