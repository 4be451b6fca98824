"""What was said twice: repeated turns, which need to be learned only once, and look-alike texts, which must not be split up.

Several phrasings of one question are the best that a small data set can hold, so a turn repeats another only if it says nothing new at all.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from fine_tuning.data_collection.wording import Wording, fold, may_be_mistyped, same_wording, wording

Hashes = npt.NDArray[np.uint64]
_Key = tuple[int, tuple[str, ...], tuple[str, ...]]

_ALIKE = 0.8
_SHINGLE = 4  # characters
_BANDS, _ROWS = 32, 8  # two texts of similarity s are proposed with probability 1 - (1 - s^8)^32
_RECENT = 4  # texts of each bucket tried: in a crowd of look-alikes those are as good as all
_CROWD = 64  # questions of one sketch compared: more are a list of names, not typing errors
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)


class RepeatedTurns:
    """Recognises a turn that came before.

    It repeats it if the wording of the answers is the same, and so is that of the questions but for typing errors in long words
    ("holiday", "holidays"; not in names). In answers none is forgiven: "eight days" is not "eighty days".
    """

    def __init__(self) -> None:
        self._exact: dict[_Key, int] = {}
        self._similar: dict[_Key, list[tuple[int, Wording]]] = {}
        self._count = 0

    def number(self, question: str, answer: str, after: int = -1) -> tuple[int, bool]:
        """The number of this turn, or of the one that it repeats, and whether it repeats one.

        `after` is the number of the turn before it in its conversation (-1 if it is the first): after other words the same ones say
        something else ("And what does that cost?").
        """
        answered, asked = wording(answer).words, wording(question)
        exact = (after, answered, asked.words)
        # Questions that may be compared at all have the same sketch, so only few are: time grows with the number of turns.
        bucket = self._similar.setdefault((after, answered, tuple(map(_sketch, asked.words))), [])
        earlier = self._exact.get(exact)
        if earlier is None:
            earlier = next((other for other, known in bucket[-_CROWD:] if same_wording(asked, known)), None)
        if earlier is not None:
            return earlier, True
        number, self._count = self._count, self._count + 1
        self._exact[exact] = number
        bucket.append((number, asked))
        return number, False


def _sketch(word: str) -> str:
    return word[0] + "…" if may_be_mistyped(word) else word


def group_near_duplicates(texts: Sequence[str]) -> list[int]:
    """A group number for each text; texts that look alike, directly or through others, share one.

    Alike means that of the 4-character pieces of two folded texts, at least 80 % are in both (Jaccard similarity). MinHash proposes pairs
    (Broder 1997; for training data Lee et al., arXiv 2107.06499), which are then compared; it misses 3 in 1000 of those just alike enough.
    """
    folded = [fold(text) for text in texts]
    first: dict[str, int] = {}
    parents = [first.setdefault(text, index) for index, text in enumerate(folded)]
    shingles = {index: _shingles(text) for text, index in first.items()}
    for one, other in _proposed(shingles):
        low, high = sorted((_root(parents, one), _root(parents, other)))
        if low != high and _jaccard(shingles[one], shingles[other]) >= _ALIKE:
            parents[high] = low
    return [_root(parents, index) for index in range(len(texts))]


def _proposed(shingles: dict[int, Hashes]) -> Iterator[tuple[int, int]]:
    """Pairs that agree in all rows of some band of their signatures, and in nearly as much of the whole as they should."""
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 2**63, _BANDS * _ROWS, np.uint64) * 2 + 1
    signatures: dict[int, Hashes] = {}
    buckets: dict[tuple[int, bytes], list[int]] = {}
    for index, hashes in shingles.items():
        signature = (factors[:, None] * hashes).min(axis=1)
        signatures[index] = signature
        mine = [buckets.setdefault((band, signature[band * _ROWS :][:_ROWS].tobytes()), []) for band in range(_BANDS)]
        for other in sorted({other for bucket in mine for other in bucket[-_RECENT:]}):
            if np.count_nonzero(signature == signatures[other]) >= (_ALIKE - 0.1) * len(signature):
                yield index, other
        for bucket in mine:
            bucket.append(index)


def _shingles(text: str) -> Hashes:
    """A number for each different piece of the text (for all of it, if it is shorter than one)."""
    codes = np.frombuffer(text.ljust(_SHINGLE).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    pieces = np.lib.stride_tricks.sliding_window_view(codes, _SHINGLE)
    mixed = (pieces * _MIX).sum(axis=1, dtype=np.uint64)
    return np.unique(mixed ^ (mixed >> np.uint64(29)))


def _jaccard(one: Hashes, other: Hashes) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = index = parents[parents[index]]
    return index
