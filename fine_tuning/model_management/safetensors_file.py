"""Read weights from safetensors files, one tensor at a time, without torch.

Unlike a pickle, such a file cannot contain code. Format:
https://github.com/huggingface/safetensors#format
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fine_tuning.errors import ExportError
from fine_tuning.json_values import parse_json

_MAX_HEADER = 100 << 20  # bytes, as in the reference implementation
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its type, shape and position."""

    path: Path
    dtype: str  # as named in the file: "F32", "BF16", ...
    shape: tuple[int, ...]
    start: int  # offset in bytes from the file's beginning
    size: int  # bytes

    def load(self, first: int = 0, last: int | None = None) -> NDArray[np.float32]:
        """Return the tensor's values, or those of the rows `first` to `last` (exclusive).

        Raises ExportError if the type is not a float type, or the size does not match the shape.
        """
        dtype = _DTYPES.get(self.dtype)
        if dtype is None or self.size != math.prod(self.shape) * dtype.itemsize:
            raise ExportError(
                f"{self.path} has weights that byoai cannot read, since they are not floats of the right size "
                f"({self.size} bytes of type {self.dtype} for the shape {self.shape}): choose another model"
            )
        shape = (last - first, *self.shape[1:]) if last is not None else self.shape
        with self.path.open("rb") as file:
            file.seek(self.start + first * math.prod(self.shape[1:]) * dtype.itemsize)
            raw: NDArray[Any] = np.fromfile(file, dtype, math.prod(shape))
        if self.dtype == "BF16":  # the upper half of a float32; numpy lacks this type
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32, copy=False).reshape(shape)


def read_safetensors(path: str | Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file by name, without their values.

    Raises ExportError if the file is missing, damaged or truncated.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER:
                raise ValueError(f"its header claims to have {length} bytes, which is too long")
            header = parse_json(file.read(length))
        header.pop("__metadata__", None)
        found = {name: _stored(path, entry, 8 + length) for name, entry in header.items()}
        end = path.stat().st_size
    except FileNotFoundError as error:
        raise ExportError(
            f"{path} is missing, because it was not saved or the saving was interrupted: make or download it again"
        ) from error
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}. Check the path and its permissions") from error
    except (struct.error, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ExportError(
            f"{path} is not a safetensors file, or it is damaged ({error}): make or download it again"
        ) from error
    if outside := [name for name, tensor in found.items() if tensor.size < 0 or tensor.start + tensor.size > end]:
        raise ExportError(
            f"{path} is incomplete: it ends before the data of {outside[0]}. Saving or copying it was interrupted: "
            "make or download it again"
        )
    return found


def _stored(path: Path, entry: dict[str, Any], base: int) -> StoredTensor:
    first, last = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(length) for length in entry["shape"])
    if first < 0 or min(shape, default=0) < 0:
        raise ValueError("a negative size")
    return StoredTensor(path, str(entry["dtype"]), shape, base + first, last - first)
