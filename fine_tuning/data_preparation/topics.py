"""Group texts by topic, by the words that they contain.

Each text becomes a vector of hashed words, weighted by how well a word separates the texts, and the
vectors are clustered by spherical k-means (Dhillon and Modha 2001). Its clusters tend to be of equal
size, so that a common topic is cut into several: clusters that are alike are joined to one topic. No
model and no external data are used, so the result is the same on every machine.
"""

import re
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_WORD = re.compile(r"[^\W\d_]{2,}")
_WIDTH = 2048  # dimensions of a vector
_LEAST, _MOST = 2, 24  # number of clusters
_ALIKE = 0.3  # clusters whose centres have this cosine are one topic (benchmarks/README.md, Balance)
_ROUNDS = 20  # maximum number of iterations of k-means
_SAMPLE = 4000  # texts from which the topics are computed
_BATCH = 2000  # texts processed at once

Vectors = npt.NDArray[np.float32]  # [texts, dimensions]


def topics_of(texts: Sequence[str], seed: int = 0) -> list[int]:
    """Return the number of each text's topic, from 0.

    There is about one cluster per twelve texts, at least 2 and at most 24, and there are as many topics
    or fewer. If there are many texts, the topics are computed from a sample.
    """
    count = min(max(round(len(texts) / 12), _LEAST), _MOST, len(texts))
    if count < _LEAST:
        return [0] * len(texts)
    step = -(-len(texts) // _SAMPLE)
    known = _counts([texts[number] for number in range(0, len(texts), step)])
    share = known.mean(axis=0, dtype=np.float64).clip(1e-9, 1 - 1e-9)  # share of the texts that contain each word
    # The entropy of whether a text contains the word: high for a word in many texts, but not in nearly all.
    telling = (-share * np.log(share) - (1 - share) * np.log(1 - share)).astype(np.float32)
    vectors = _unit(known * telling)
    centres = _centres(vectors, count, seed)
    topics = _joined(vectors, centres)
    places = (slice(first, first + _BATCH) for first in range(0, len(texts), _BATCH))
    batches = (vectors[each] if step == 1 else _unit(_counts(texts[each]) * telling) for each in places)
    return [topics[cluster] for batch in batches for cluster in (batch @ centres.T).argmax(axis=1).tolist()]


def _counts(texts: Sequence[str]) -> Vectors:
    """Return for each text a vector of zeros and ones, with a one at the hash of each of its words."""
    found = np.zeros((len(texts), _WIDTH), np.float32)
    for row, text in zip(found, texts, strict=True):
        words = set(_WORD.findall(text.casefold()))
        row[[zlib.crc32(word.encode("utf-8", "surrogatepass")) % _WIDTH for word in words]] = 1
    return found


def _centres(vectors: Vectors, count: int, seed: int) -> Vectors:
    """Return the centre of each cluster, [count, dimensions]: unit vectors found by spherical k-means."""
    centres = _spread(vectors, count, seed)
    chosen = np.full(len(vectors), -1)
    for _ in range(_ROUNDS):
        nearest = (vectors @ centres.T).argmax(axis=1)
        if (nearest == chosen).all():
            break
        chosen = nearest
        for cluster in set(chosen.tolist()):
            centres[cluster] = _unit(vectors[chosen == cluster].sum(axis=0, keepdims=True))[0]
    return centres


def _joined(vectors: Vectors, centres: Vectors) -> list[int]:
    """Return the number of each cluster's topic.

    The two topics whose centres are nearest to each other become one as long as these are alike
    (centroid linkage; Sokal and Michener 1958).
    """
    nearest = (vectors @ centres.T).argmax(axis=1)
    sums = {cluster: vectors[nearest == cluster].sum(axis=0) for cluster in range(len(centres))}
    topics = list(range(len(centres)))
    while len(sums) > 1:
        middles = _unit(np.stack(list(sums.values())))
        cosines = np.triu(middles @ middles.T, k=1)
        if cosines.max() < _ALIKE:
            break
        numbers = list(sums)
        kept, gone = (numbers[place] for place in np.unravel_index(cosines.argmax(), cosines.shape))
        sums[kept] = sums[kept] + sums.pop(gone)
        topics = [kept if topic == gone else topic for topic in topics]
    return topics


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _spread(vectors: Vectors, count: int, seed: int) -> Vectors:
    """Return `count` of the vectors, drawn so that they are far from each other, as the first centres.

    The method is k-means++ (Arthur and Vassilvitskii 2007).
    """
    chance = np.random.default_rng(seed)
    chosen = [int(chance.integers(len(vectors)))]
    away = 1 - vectors @ vectors[chosen[0]]
    for _ in range(count - 1):
        weights = np.clip(away, 0, None) ** 2
        total = weights.sum()
        chosen.append(
            int(chance.choice(len(vectors), p=weights / total) if total > 0 else chance.integers(len(vectors)))
        )
        away = np.minimum(away, 1 - vectors @ vectors[chosen[-1]])
    return vectors[chosen].copy()
