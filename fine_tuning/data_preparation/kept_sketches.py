"""Keep the sketches of a dataset's conversations beside it, so that the next dataset sketches only new texts.

data/datasets/<hash>/texts.sketches   the hash of the code that made them; the hash of each conversation's
                                      text; for each conversation `_KEPT`

They are deleted with the dataset. Sketches of other code, or damaged ones, are made again.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fine_tuning import paths
from fine_tuning.data_collection.cleaning.sketches import BATCH, SKETCH, Sketched, Sketches, sketch
from fine_tuning.data_collection.cleaning.turn_decisions import rules
from fine_tuning.data_preparation.spool import Spool

FILE = "texts.sketches"
_HASH = 16  # bytes
_KEPT = np.dtype([("check", "<u4"), ("sketch", SKETCH)])  # "check": the CRC-32 of the text's hash and the sketch


class EarlierSketches:
    """The sketches of an earlier dataset, found by the hashes of their texts.

    Use it in a `with` statement, which closes the file.
    """

    def __init__(self, file: Path | None) -> None:
        """Open the file of sketches; None, or a file of other code or of a wrong size, has none."""
        self._open, self._start = ExitStack(), 0
        hashes = np.empty((0, 2), np.uint64)
        if file:
            with suppress(FileNotFoundError):  # a deletion of turns removed the dataset meanwhile
                self._file = self._open.enter_context(file.open("rb"))
                count, rest = divmod(os.fstat(self._file.fileno()).st_size - _HASH, _HASH + _KEPT.itemsize)
                if self._file.read(_HASH) == _made_by() and not rest:
                    hashes = np.frombuffer(self._file.read(count * _HASH), np.uint64).reshape(-1, 2)
                    self._start = self._file.tell()
        order = np.argsort(hashes[:, 0], kind="stable")
        # with one item more, which stands for "none" in a search
        self._hashes = np.concatenate([hashes[order], np.zeros((1, 2), np.uint64)])
        self._sorted, self._places = hashes[order, 0], order

    def __enter__(self) -> "EarlierSketches":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def fill(self, hashes: npt.NDArray[np.uint64], made: Sketched) -> list[int]:
        """Write the sketches of the texts with these hashes into `made`; return the indices of those that are not here.

        `hashes` has two numbers for each text (`Spool.text_hashes`).
        """
        at = np.searchsorted(self._sorted, hashes[:, 0])
        there = (self._hashes[at] == hashes).all(axis=1)
        there[at == len(self._sorted)] = False
        for index in np.flatnonzero(there).tolist():
            self._file.seek(self._start + int(self._places[at[index]]) * _KEPT.itemsize)
            kept = self._file.read(_KEPT.itemsize)
            if int.from_bytes(kept[:4], "little") == zlib.crc32(kept[4:], zlib.crc32(hashes[index].tobytes())):
                made[index] = np.frombuffer(kept, _KEPT)["sketch"][0]
            else:
                there[index] = False
        missing: list[int] = np.flatnonzero(~there).tolist()
        return missing


def sketch_all(spool: Spool, sketches: Sketches) -> None:
    """Add the sketches of all conversations of the spool; they are taken from the newest dataset, or else made."""
    texts, all_hashes = spool.texts(), spool.text_hashes
    with EarlierSketches(_newest()) as earlier:
        for first in range(0, len(spool), BATCH):
            hashes = all_hashes[first : first + BATCH]
            made = np.empty(len(hashes), SKETCH)
            missing = earlier.fill(hashes, made)
            made[missing] = sketch([texts[first + index] for index in missing])
            sketches.add(made)


def keep(folder: Path, spool: Spool, sketches: Sketches, often: Sequence[int]) -> None:
    """Write the sketches into the folder of the spool's dataset.

    Conversations that are not in the dataset (often[i] is 0) are left out, because their deletion
    from the log does not delete the dataset.
    """
    chosen, all_hashes = np.array(often) > 0, spool.text_hashes

    def pieces() -> Iterator[bytes]:
        yield _made_by()
        yield all_hashes[chosen].tobytes()
        first = 0
        for batch in sketches.batches():
            here = chosen[first : first + len(batch)]
            hashes, mine = all_hashes[first : first + len(batch)][here].tobytes(), batch[here]
            written, size = memoryview(mine.tobytes()), SKETCH.itemsize
            kept = np.empty(len(mine), _KEPT)
            kept["sketch"] = mine
            kept["check"] = [
                zlib.crc32(
                    written[size * each : size * (each + 1)], zlib.crc32(hashes[_HASH * each : _HASH * (each + 1)])
                )
                for each in range(len(mine))
            ]
            yield kept.tobytes()
            first += len(batch)

    paths.atomic_write(folder / FILE, pieces())


def _newest() -> Path | None:
    """Return the file of sketches of the newest finished dataset that has one."""
    found: list[tuple[int, Path]] = []
    for file in paths.datasets_dir().glob(f"*/{FILE}"):
        with suppress(OSError):  # a deletion of turns removed the dataset meanwhile
            found.append(((file.parent / "manifest.json").stat().st_mtime_ns, file))
    return max(found)[1] if found else None


@cache
def _made_by() -> bytes:
    """Return a hash that identifies the code and the library that make sketches."""
    return blake2b(repr([rules(), version("rensa")]).encode(), digest_size=_HASH).digest()
