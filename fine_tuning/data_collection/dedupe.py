"""What was said twice: repeated turns, which need to be learned only once, and look-alike texts, which must not be split up.

Several phrasings of one question are the best that a small data set can hold, so a turn repeats another only if it says nothing new at all.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import OSA

Hashes = npt.NDArray[np.uint64]
_Key = tuple[int, str, tuple[str, ...]]

_ALIKE = 0.8
_SHINGLE = 4  # characters
_BANDS, _ROWS = 32, 8  # two texts of similarity s are proposed with probability 1 - (1 - s^8)^32
_RECENT = 4  # texts of each bucket tried: in a crowd of look-alikes those are as good as all
_CROWD = 64  # questions of one sketch compared: more are a list of names, not typing errors
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)
_MEANINGFUL = frozenset("%#&@*/\\§")  # punctuation without which a text says something else: 5%, C#, R&D


def fold(text: str) -> str:
    """What of a text stays when case, width, spacing and sentence marks do not count: words with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_MARKS).split())


class RepeatedTurns:
    """Recognises a turn that came before.

    It repeats it if the answers are the same but for case, spacing and sentence marks, and so are the questions but for typing errors in
    long words ("holiday", "holidays"). In answers none is forgiven: "eight days" is not "eighty days".
    """

    def __init__(self) -> None:
        self._exact: dict[_Key, int] = {}
        self._similar: dict[_Key, list[tuple[int, list[str]]]] = {}
        self._count = 0

    def number(self, question: str, answer: str, after: int = -1) -> tuple[int, bool]:
        """The number of this turn, or of the one that it repeats, and whether it repeats one.

        `after` is the number of the turn before it in its conversation (-1 if it is the first): after other words the same ones say
        something else ("And what does that cost?").
        """
        answer, words = fold(answer), fold(question).split(" ")
        exact = (after, answer, tuple(words))
        # Questions that may be compared at all have the same sketch, so only few are: time grows with the number of turns.
        bucket = self._similar.setdefault((after, answer, tuple(map(_sketch, words))), [])
        earlier = self._exact.get(exact)
        if earlier is None:
            earlier = next((other for other, others in bucket[-_CROWD:] if all(map(_same_word, words, others))), None)
        if earlier is not None:
            return earlier, True
        number, self._count = self._count, self._count + 1
        self._exact[exact] = number
        bucket.append((number, words))
        return number, False


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


_TYPO = re.compile(r"[^\W\d_]{5,}")


def _may_be_mistyped(word: str) -> bool:
    """Long words of alphabets (up to U+052F: Latin, Greek, Cyrillic): elsewhere one character may be a word of its own."""
    return bool(_TYPO.fullmatch(word)) and max(word) < "\u0530"


def _sketch(word: str) -> str:
    return word[0] + "…" if _may_be_mistyped(word) else word


def _same_word(one: str, other: str) -> bool:
    """Same but for one letter too many, too few, wrong, or swapped with the next; given that both have the same sketch."""
    return one == other or OSA.distance(one, other, score_cutoff=1) <= 1


class _Marks(dict[int, str]):
    """A table for str.translate, filled as characters are met: sentence marks, brackets and controls become spaces; symbols (+, £) stay."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        is_mark = unicodedata.category(character)[0] in "PZC" and character not in _MEANINGFUL
        self[code] = " " if is_mark else character
        return self[code]


_MARKS = _Marks()
