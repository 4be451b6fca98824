"""Find repeated turns, which are learned only once, and near-duplicates, which must be in the same split.

Different phrasings of one question are valuable in a small data set. So a turn counts as a repeat
only if it says nothing new at all.
"""

import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from struct import Struct
from typing import IO

import numpy as np

from fine_tuning import paths
from fine_tuning.data_collection.cleaning.number_table import NumberTable
from fine_tuning.data_collection.cleaning.sketches import ALIKE, BATCH, Groups, Hashes, Sketches, shingles, sketch
from fine_tuning.data_collection.cleaning.wording import Wording, fold, may_be_mistyped, same_wording, topic, wording

_CACHED = 1000  # texts whose pieces are kept in memory for the comparison
_CROWD = 64  # questions with one sketch that are compared: if there are more, they differ in names, not in errors
_IN_MEMORY = 1 << 22  # bytes of questions
# before each text: offset of the previous entry with this sketch, turn's number, hash of its words, text's size
_ENTRY = Struct("<qqqq")
_HASH = 8  # bytes: among a million turns, the chance that two collide is about one in ten million
ANSWER, _EXACT, TOPIC = slice(_HASH), slice(2 * _HASH), slice(2 * _HASH, 3 * _HASH)


def fingerprint(asked: Wording, answered: Wording) -> bytes:
    """Return three hashes that identify repeats without containing the words.

    They are the hashes of the answer's words, of the question's words, and of the question's sketch:
    its words without articles and polite words, and of long words only the first letter. Only questions
    with the same sketch are compared with each other.
    """
    return b"".join(map(_hash, (answered.words, asked.words, _sketched(topic(asked)))))


def _hash(words: Sequence[str]) -> bytes:
    # no word contains this control character
    return blake2b("\x1f".join(words).encode("utf-8", "surrogatepass"), digest_size=_HASH).digest()


class RepeatedTurns:
    """Recognises turns that repeat an earlier one.

    A turn repeats another if the answers have the same wording, and the questions differ at most by
    typing errors in long words that are not names ("holiday", "holidays"). Answers must not differ at
    all: "eight days" is not "eighty days".
    """

    def __init__(self) -> None:
        # by the answer, the question's sketch and the turn before: offset of the last such question
        self._similar = NumberTable()
        # numbers of turns by their exact words, of those only whose key in `_similar` several turns have
        self._exact = NumberTable()
        self._recent = (
            bytearray()
        )  # `_ENTRY` and text of each question, of the last ones only: the others are in a file
        self._file: IO[bytes] | None = None
        self._start = 0  # offset of `_recent`, as if it were at the end of the file
        self._compared: dict[int, Wording] = {}  # wordings of the few questions that were compared with others
        self._count = 0

    def number(
        self, question: str, answer: str, after: int = -1, said: bytes = b"", *, is_context: bool = False
    ) -> tuple[int, bool]:
        """Return (number of this turn, False), or (number of the earlier turn that it repeats, True).

        Args:
            question: The question.
            answer: The answer.
            after: The number of the turn before it in its conversation; -1 for a first turn. The same
                words mean something else after another turn ("And what does that cost?").
            said: The `fingerprint` of question and answer; computed if it is not given.
            is_context: Whether the answer is only context. It repeats only others like it, so that the same
                answer is learned where it may be.
        """
        said = said or fingerprint(wording(question), wording(answer))
        before = after.to_bytes(_HASH, signed=True) + (b"context" if is_context else b"")
        similar, exact = hash(before + said[ANSWER] + said[TOPIC]), hash(before + said[_EXACT])
        # most turns are like no other, and few share a sketch, so the time grows only linearly with the turns
        end = self._start + len(self._recent)
        last = self._similar.first(similar, end)
        if last >= 0:
            earlier = self._repeated(last, exact, question)
            if earlier >= 0:
                return earlier, True
            self._similar.put(similar, end)
            self._exact.put(exact, self._count)
        self._remember(last, exact, question)
        return self._count - 1, False

    def _repeated(self, last: int, exact: int, question: str) -> int:
        """Return the number of the turn that a question repeats; -1 if there is none.

        `last` is the offset of the last question with the same sketch, `exact` the hash of the turn's words.
        """
        previous, number, words, _ = self._entry(last)
        if previous < 0:
            self._exact.put(words, number)  # the first of its sketch, which had no other until now
        if (earlier := self._exact.get(exact)) >= 0:
            return earlier
        asked = wording(question)
        alike = (other for other, known in islice(self._before(last), _CROWD) if same_wording(asked, known))
        return min(alike, default=-1)

    def _remember(self, last: int, exact: int, question: str) -> None:
        """Store a question, with the hash of its turn's words.

        `last` is the offset of the previous question with the same sketch; -1 if there is none.
        """
        text = question.encode("utf-8", "surrogatepass")
        self._recent += _ENTRY.pack(last, self._count, exact, len(text))
        self._recent += text
        self._count += 1
        if len(self._recent) < _IN_MEMORY:
            return
        if self._file is None:  # the texts are private, so the file is in the data folder, and has no name
            paths.home().mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=paths.home())  # noqa: SIM115  (closed with the object)
        self._file.seek(self._start)
        self._file.write(self._recent)
        self._start += len(self._recent)
        self._recent.clear()

    def _entry(self, place: int) -> tuple[int, int, int, int]:
        """Return what `_ENTRY` holds at an offset; the question's text is behind it."""
        previous, number, exact, size = _ENTRY.unpack(self._read(place, _ENTRY.size))
        return previous, number, exact, size

    def _read(self, place: int, size: int) -> bytes:
        if place >= self._start or self._file is None:
            return bytes(self._recent[place - self._start : place - self._start + size])
        self._file.seek(place)
        return self._file.read(size)

    def _before(self, place: int) -> Iterator[tuple[int, Wording]]:
        """Yield (number, wording) of the question at offset `place`, then of earlier questions with the same sketch.

        The latest question comes first; nothing is yielded for the offset -1.
        """
        while place >= 0:
            previous, number, _, size = self._entry(place)
            if number not in self._compared:
                text = self._read(place + _ENTRY.size, size)
                self._compared[number] = wording(text.decode("utf-8", "surrogatepass"))
            yield number, self._compared[number]
            place = previous


def _sketched(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word[0] + "…" if may_be_mistyped(word) else word for word in words)


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
