"""What was said twice: repeated turns, which need to be learned only once, and look-alike texts, which must not be split up.

Several phrasings of one question are the best that a small data set can hold, so a turn repeats another only if it says nothing new at all.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from math import ceil

from rapidfuzz.distance import OSA

_SHINGLE = 4  # characters
_RECENT = 32  # look-alikes tried for each rare shingle
_MEANINGFUL = frozenset("%#&@*/\\§")  # punctuation without which a text says something else: 5%, C#, R&D


def fold(text: str) -> str:
    """What of a text stays when case, width, spacing and sentence marks do not count: words with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_MARKS).split())


def repeated_turns(pairs: Sequence[tuple[str, str]]) -> list[int | None]:
    """For each (question, answer): the index of the earlier pair that it repeats, or None.

    It repeats it if the answers are the same but for case, spacing and sentence marks, and so are the questions but for a typing error in
    long words ("holiday", "holidays"; never in numbers, short words or the first letter: "sixty", "sixth" would pass, so answers must be the same).
    """
    seen: dict[tuple[str, tuple[str, ...]], list[tuple[int, list[str]]]] = {}
    repeats: list[int | None] = []
    for index, (question, answer) in enumerate(pairs):
        words = fold(question).split(" ")
        # Words that may be compared at all have the same sketch, so only few are compared: time grows with the number of turns.
        bucket = seen.setdefault((fold(answer), tuple(map(_sketch, words))), [])
        earlier = next((other for other, others in bucket if all(map(_same_word, words, others))), None)
        if earlier is None:
            bucket.append((index, words))
        repeats.append(earlier)
    return repeats


def group_near_duplicates(texts: Sequence[str], threshold: float = 0.8) -> list[int]:
    """A group number for each text; texts that look alike, directly or through others, share one.

    Alike means that of the 4-character pieces of two folded texts, at least `threshold` are in both (Jaccard similarity). Pairs are found
    by their rarest pieces (prefix filter: Bayardo et al., "Scaling up all pairs similarity search", WWW 2007), exactly, unless more than 32
    texts share each of those.
    """
    folded = [fold(text) for text in texts]
    first: dict[str, int] = {}
    parents = [first.setdefault(text, index) for index, text in enumerate(folded)]
    shingles = {index: _shingles(text) for text, index in first.items()}
    find = _finder(parents)
    for one, other in _alike(shingles, threshold, lambda one, other: find(one) == find(other)):
        low, high = sorted((find(one), find(other)))
        parents[high] = low
    return [find(index) for index in range(len(texts))]


def _alike(shingles: dict[int, frozenset[str]], threshold: float, known: Callable[[int, int], bool]) -> Iterator[tuple[int, int]]:
    """Pairs of at least `threshold`, but for those that are `known` to be together."""
    spread: dict[str, int] = {}
    for pieces in shingles.values():
        for piece in pieces:
            spread[piece] = spread.get(piece, 0) + 1
    holders: dict[str, list[int]] = {}
    for index, pieces in shingles.items():
        # Two sets this much alike share at least one of the rarest pieces of each: so many may be missing from the other, and one more.
        rarest = sorted(pieces, key=lambda piece: (spread[piece], piece))[: len(pieces) - ceil(threshold * len(pieces)) + 1]
        candidates = {other for piece in rarest for other in holders.get(piece, ())[-_RECENT:]}
        for other in sorted(candidates):
            if not known(index, other) and _jaccard(pieces, shingles[other]) >= threshold:
                yield index, other
        for piece in rarest:
            holders.setdefault(piece, []).append(index)


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _shingles(text: str) -> frozenset[str]:
    return frozenset(text[start : start + _SHINGLE] for start in range(max(1, len(text) - _SHINGLE + 1)))


def _finder(parents: list[int]) -> Callable[[int], int]:
    def find(index: int) -> int:
        while parents[index] != index:
            parents[index] = index = parents[parents[index]]
        return index

    return find


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
