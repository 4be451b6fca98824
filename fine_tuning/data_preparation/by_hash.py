"""Find what was made for an earlier dataset by the hash of what it was made from."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]  # [values, 2]
Places = npt.NDArray[np.int64]

HASH = 16  # bytes


def hash_of_bytes(value: bytes) -> bytes:
    """Return the hash of a value, of `HASH` bytes."""
    return blake2b(value, digest_size=HASH).digest()


def hashes_in(hashes: bytes | bytearray) -> Hashes:
    """Return an array of hashes that are given one after the other."""
    return np.frombuffer(hashes, "<u8").reshape(-1, 2)


def hashes_of(values: Iterable[bytes]) -> Hashes:
    """Return the hash of each value."""
    return hashes_in(b"".join(map(hash_of_bytes, values)))


class Table:
    """Finds hashes in an array of them."""

    def __init__(self, hashes: Hashes) -> None:
        self._order = np.argsort(hashes[:, 0], kind="stable")
        self._sorted = hashes[self._order]

    def find(self, hashes: Hashes) -> Places:
        """Return for each hash its place in the array; -1 if it is not there."""
        if not len(self._sorted):
            return np.full(len(hashes), -1)
        at = np.searchsorted(self._sorted[:, 0], hashes[:, 0])
        at[at == len(self._sorted)] = 0
        return np.where((self._sorted[at] == hashes).all(axis=1), self._order[at], -1)


def stretches(places: Places) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of each run of consecutive places, which can be read at once.

    A place of -1 is a run of its own.
    """
    begins = np.flatnonzero((np.diff(places, prepend=places[:1]) != 1) | (places == 0))
    return zip(begins.tolist(), [*begins[1:].tolist(), len(places)], strict=False)
