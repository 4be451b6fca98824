"""Keep the sketches of a dataset's conversations beside it, so that the next dataset sketches only new texts.

data/datasets/<hash>/texts.sketches   the hash of the code that made them; the hash of what is said in each
                                      conversation; for each conversation `_KEPT`

They are deleted with the dataset. Sketches of other code, or damaged ones, are made again.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fine_tuning import paths
from fine_tuning.data_collection.cleaning.sketches import BATCH, SKETCH, Sketches, sketch
from fine_tuning.data_collection.cleaning.turn_decisions import rules
from fine_tuning.data_preparation.by_hash import HASH, Hashes, Table, hashes_in, stretches
from fine_tuning.data_preparation.spool import Spool, text_in
from fine_tuning.thoughts import split_thoughts

FILE = "texts.sketches"
_KEPT = np.dtype([("check", "<u8"), ("words", "<u8"), ("sketch", SKETCH)])
_FACTORS = np.random.default_rng(0).integers(0, 2**63, 1 + _KEPT.itemsize // 8, np.uint64) * 2 + 1

_Kept = npt.NDArray[np.void]  # an array of _KEPT
Words = npt.NDArray[np.uint64]  # the number of words of each conversation's text


class EarlierSketches:
    """The sketches of an earlier dataset, found by the hashes of what is said (`Spool.hashes`).

    Use it in a `with` statement, which closes the file.
    """

    def __init__(self, file: Path | None) -> None:
        """Open the file of sketches; None, or a file of other code or of a wrong size, has none."""
        self._open, self._start = ExitStack(), 0
        hashes = hashes_in(b"")
        if file:
            with suppress(FileNotFoundError):  # a deletion of turns removed the dataset meanwhile
                self._file = self._open.enter_context(file.open("rb"))
                count, rest = divmod(os.fstat(self._file.fileno()).st_size - HASH, HASH + _KEPT.itemsize)
                if self._file.read(HASH) == _made_by() and not rest:
                    hashes = hashes_in(self._file.read(count * HASH))
                    self._start = self._file.tell()
        self._table = Table(hashes)

    def __enter__(self) -> "EarlierSketches":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def get(self, hashes: Hashes) -> tuple[_Kept, list[int]]:
        """Return what is kept for each of these hashes, and the indices of those for which nothing is kept."""
        places, kept = self._table.find(hashes), np.empty(len(hashes), _KEPT)
        for begin, end in stretches(places):
            if places[begin] >= 0:
                self._file.seek(self._start + int(places[begin]) * _KEPT.itemsize)
                kept[begin:end] = np.frombuffer(self._file.read((end - begin) * _KEPT.itemsize), _KEPT)
        missing: list[int] = np.flatnonzero((places < 0) | (kept["check"] != _checks(hashes, kept))).tolist()
        return kept, missing


def sketch_all(spool: Spool, sketches: Sketches) -> Words:
    """Add the sketches of all conversations of the spool, and return their numbers of words.

    They are taken from the newest dataset, or else made.
    """
    words = np.empty(len(spool), np.uint64)
    with EarlierSketches(_newest()) as earlier:
        for first in range(0, len(spool), BATCH):
            kept, missing = earlier.get(spool.hashes[first : first + BATCH])
            texts = [spool.text(first + index) for index in missing]
            kept["sketch"][missing] = sketch(texts)
            kept["words"][missing] = [len(text.split()) for text in texts]
            sketches.add(kept["sketch"])
            words[first : first + BATCH] = kept["words"]
    return words


def keep(folder: Path, spool: Spool, words: Words, sketches: Sketches, often: Sequence[int]) -> None:
    """Write the sketches, and the numbers of words, into the folder of the spool's dataset.

    Conversations that are not in the dataset (often[i] is 0) are left out, because their deletion
    from the log does not delete the dataset.
    """
    chosen = np.array(often) > 0

    def pieces() -> Iterator[bytes]:
        yield _made_by()
        yield spool.hashes[chosen].tobytes()
        first = 0
        for batch in sketches.batches():
            here = np.arange(first, first + len(batch))[chosen[first : first + len(batch)]]
            kept = np.empty(len(here), _KEPT)
            kept["sketch"], kept["words"] = batch[here - first], words[here]
            kept["check"] = _checks(spool.hashes[here], kept)
            yield kept.tobytes()
            first += len(batch)

    paths.atomic_write(folder / FILE, pieces())


def _checks(hashes: Hashes, kept: _Kept) -> npt.NDArray[np.uint64]:
    """Return a checksum of each hash and what is kept for it, which changes with each bit of them."""
    numbers = np.concatenate([hashes, kept.view(np.uint64).reshape(-1, _KEPT.itemsize // 8)[:, 1:]], axis=1)
    found: npt.NDArray[np.uint64] = (numbers * _FACTORS).sum(axis=1, dtype=np.uint64)
    return found


def _newest() -> Path | None:
    """Return the file of sketches of the newest finished dataset that has one."""
    found: list[tuple[int, Path]] = []
    for file in paths.datasets_dir().glob(f"*/{FILE}"):
        with suppress(OSError):  # a deletion of turns removed the dataset meanwhile
            found.append(((file.parent / "manifest.json").stat().st_mtime_ns, file))
    return max(found)[1] if found else None


@cache
def _made_by() -> bytes:
    """Return a hash that identifies the code and the library that make sketches of what is said."""
    code = [Path(function.__code__.co_filename).read_bytes() for function in (text_in, split_thoughts)]
    return blake2b(repr([rules(), version("rensa"), _KEPT.descr, code]).encode(), digest_size=HASH).digest()
