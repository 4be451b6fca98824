"""Find near-duplicates: texts that look alike, and so must be in the same split of a dataset."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import islice

import numpy as np

from fine_tuning.data_collection.cleaning.sketches import ALIKE, BATCH, Groups, Hashes, Sketches, shingles, sketch
from fine_tuning.data_collection.cleaning.wording import fold

_CACHED = 1000  # texts whose pieces are kept in memory for the comparison


def group_near_duplicates(texts: Sequence[str]) -> list[int]:
    """Return a group number for each text. Texts that look alike are in one group.

    If A looks like B, and B like C, all three are in one group. Two texts look alike if at least 80 %
    of all 4-character pieces of the two folded texts occur in both (Jaccard similarity). MinHash
    proposes the pairs to compare (Broder 1997; for training data Lee et al., arXiv 2107.06499). It
    misses 3 in 1000 pairs of exactly this similarity.
    """
    groups: list[int] = near_duplicates(texts).tolist()
    return groups


def near_duplicates(texts: Sequence[str]) -> Groups:
    """Return what `group_near_duplicates` does as an array: for each text, the index of its group's first text.

    All texts are read once, in order, and those that may look alike a second time. Their sketches
    are in a temporary file, so for a million texts only about 30 MB are in memory.
    """
    with Sketches() as sketches:
        left = iter(texts)
        while batch := list(islice(left, BATCH)):
            sketches.add(sketch(batch))
        return grouped(texts, sketches)


def grouped(texts: Sequence[str], sketches: Sketches) -> Groups:
    """Return what `near_duplicates` does, given the sketches of the texts: only those that may look alike are read."""
    pieces = lru_cache(_CACHED)(lambda index: np.unique(shingles([fold(texts[index])])[0]))
    parents = sketches.first()
    for one, other in sketches.alike(np.unique(parents)):
        low, high = sorted((_root(parents, one), _root(parents, other)))
        if low != high and _jaccard(pieces(one), pieces(other)) >= ALIKE:
            parents[high] = low
    while (joined := parents[parents]).tobytes() != parents.tobytes():
        parents = joined
    return joined


def _jaccard(one: Hashes, other: Hashes) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def _root(parents: Groups, index: int) -> int:
    while parents[index] != index:
        parents[index] = index = parents[parents[index]]
    return index
