"""Sketch texts by MinHash, so that those that may look alike are found without comparing each with each.

The sketch of a text has 256 hashes of its 4-character pieces, of which one byte each is kept, and a hash
of each band, which is a group of 8 of these hashes (Broder 1997; for training data Lee et al., arXiv
2107.06499). It depends on the text and this code alone, so it can be stored and used again.
"""

import tempfile
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from fine_tuning.data_collection.cleaning.wording import fold

Hashes = npt.NDArray[np.uint64]
Groups = npt.NDArray[np.int64]

ALIKE = 0.8
BATCH = 2000  # texts that are sketched at once
_SHINGLE = 4  # characters
_BANDS, _ROWS, _HASHES = 32, 8, 256  # two texts of similarity s are proposed with probability 1 - (1 - s^8)^32
_SEED = 0
_RECENT = 4  # neighbours with which a text is compared in each band: among many similar texts, neighbours are similar
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)
_FACTORS = np.random.default_rng(0).integers(0, 2**63, _ROWS, np.uint64) * 2 + 1

# "text" is a hash of the folded text, equal for texts that count as identical
SKETCH = np.dtype([("text", "<u8"), ("bands", "<u8", _BANDS), ("signature", "u1", _HASHES)])
Sketched = npt.NDArray[np.void]  # an array of SKETCH


def sketch(texts: Sequence[str]) -> Sketched:
    """Return the sketch of each text. The time per text is the least for `BATCH` of them."""
    from rensa import RMinHash

    folded = list(map(fold, texts))
    made = np.empty(len(folded), SKETCH)
    if not folded:
        return made
    rows = RMinHash.digest_matrix_from_flat_token_hashes(*shingles(folded), _HASHES, _SEED).to_rows()
    hashes = np.array(rows, np.uint32)
    digests = (blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in folded)
    made["text"] = np.frombuffer(b"".join(digests), "<u8")
    made["bands"] = (hashes.reshape(-1, _BANDS, _ROWS) * _FACTORS).sum(axis=2, dtype=np.uint64)
    made["signature"] = hashes.astype(np.uint8)
    return made


class Sketches:
    """The sketches of many texts, in a temporary file."""

    def __init__(self) -> None:
        self._sizes: list[int] = []  # of each batch

    def __enter__(self) -> "Sketches":
        self._file = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return sum(self._sizes)

    def add(self, batch: Sketched) -> None:
        """Add the sketches of the next `BATCH` texts; the last batch may be smaller."""
        bands = np.ascontiguousarray(batch["bands"].T)  # so that a band of all texts is read at once
        self._file.write(batch["text"].tobytes() + bands.tobytes() + batch["signature"].tobytes())
        self._sizes.append(len(batch))

    def batches(self) -> Iterator[Sketched]:
        """Yield the batches as they were added."""
        for number, size in enumerate(self._sizes):
            batch = np.empty(size, SKETCH)
            batch["text"] = np.frombuffer(self._read(number, 0, 8 * size), "<u8")
            bands = np.frombuffer(self._read(number, 8 * size, 8 * _BANDS * size), "<u8")
            batch["bands"] = bands.reshape(_BANDS, size).T
            signatures = np.frombuffer(self._read(number, 8 * (1 + _BANDS) * size, _HASHES * size), np.uint8)
            batch["signature"] = signatures.reshape(size, _HASHES)
            yield batch

    def first(self) -> Groups:
        """Return for each text the index of the first identical text."""
        _, first, same = np.unique(self._column(0), return_index=True, return_inverse=True)
        return first[same]

    def alike(self, numbers: Groups) -> Iterator[tuple[int, int]]:
        """Yield pairs of texts, among those with these numbers, that may look alike.

        The two sketches agree in all hashes of at least one band, and in at least 70 % of all hashes.
        """
        count, done = len(self), np.empty(0, np.int64)
        for band in range(_BANDS):
            pairs = np.setdiff1d(_neighbours(self._column(1 + band)[numbers], numbers, count), done)
            done = np.union1d(done, pairs)
            for start in range(0, len(pairs), BATCH):
                ones, others = np.divmod(pairs[start : start + BATCH], count)
                near = self._agreeing(ones, others) >= (ALIKE - 0.1) * _HASHES
                yield from zip(ones[near].tolist(), others[near].tolist(), strict=True)

    def _column(self, column: int) -> Hashes:
        """Return one number of each text: column 0 is "text", the others are the bands."""
        found = b"".join(self._read(number, 8 * column * size, 8 * size) for number, size in enumerate(self._sizes))
        return np.frombuffer(found, np.uint64)

    def _agreeing(self, ones: Groups, others: Groups) -> npt.NDArray[np.int64]:
        """Return for each pair of texts (ones[i], others[i]) how many hashes of their signatures are equal."""
        signatures = [
            np.frombuffer(b"".join(map(self._signature, each.tolist())), np.uint8).reshape(-1, _HASHES)
            for each in (ones, others)
        ]
        agreeing: npt.NDArray[np.int64] = np.count_nonzero(signatures[0] == signatures[1], axis=1)
        return agreeing

    def _signature(self, text: int) -> bytes:
        number, place = divmod(text, BATCH)
        return self._read(number, 8 * (1 + _BANDS) * self._sizes[number] + _HASHES * place, _HASHES)

    def _read(self, batch: int, start: int, size: int) -> bytes:
        self._file.seek(batch * BATCH * SKETCH.itemsize + start)
        return self._file.read(size)


def _neighbours(keys: Hashes, numbers: Groups, count: int) -> Groups:
    """Return pairs of texts with the same key, each pair as the number `one * count + other`.

    When the texts are sorted by key, the two of a pair are at most `_RECENT` places apart.
    """
    order = np.argsort(keys, kind="stable")
    keys, numbers = keys[order], numbers[order]
    found = [np.empty(0, np.int64)]
    for lag in range(1, min(_RECENT, len(keys) - 1) + 1):
        same = keys[lag:] == keys[:-lag]
        found.append(numbers[:-lag][same] * count + numbers[lag:][same])
    return np.unique(np.concatenate(found))


def shingles(texts: Sequence[str]) -> tuple[Hashes, Hashes]:
    """Return a hash of each 4-character piece of the texts, and the offset at which each text's pieces begin.

    One more offset gives the end of the last text. A text that is shorter than a piece counts as one
    piece.
    """
    padded = [text.ljust(_SHINGLE) for text in texts]
    sizes = np.fromiter(map(len, padded), np.int64, len(padded))
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    mixed = np.zeros(len(codes) - _SHINGLE + 1, np.uint64)
    for place, factor in enumerate(_MIX):
        mixed += codes[place : len(mixed) + place] * factor
    within = np.ones(len(mixed), bool)
    across = np.cumsum(sizes)[:-1, None] - np.arange(1, _SHINGLE)  # pieces that cross from one text into the next
    within[across.ravel()] = False
    mixed = mixed[within]
    return mixed ^ (mixed >> np.uint64(29)), np.concatenate([[0], np.cumsum(sizes - _SHINGLE + 1)]).astype(np.uint64)
