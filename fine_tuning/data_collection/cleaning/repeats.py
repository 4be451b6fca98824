"""Recognise turns that repeat an earlier turn of a log in the same words.

Different phrasings of one question are valuable in a small data set. So a turn counts as a repeat
only if it says nothing new at all.
"""

import tempfile
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from struct import Struct
from typing import IO

from fine_tuning import paths
from fine_tuning.data_collection.cleaning.number_table import NumberTable
from fine_tuning.data_collection.cleaning.wording import (
    LEAST_MISTYPED,
    Wording,
    may_be_mistyped,
    same_wording,
    topic,
    wording,
)

NOTHING_BEFORE = -1  # stands for the turn before the first of a conversation
_CROWD = 64  # questions with one sketch that are compared: if there are more, they differ in names, not in errors
_IN_MEMORY = 1 << 22  # bytes of questions
_HASH = 8  # bytes: among a million turns, the chance that two collide is about one in ten million
ANSWER, _EXACT, TOPIC = slice(_HASH), slice(2 * _HASH), slice(2 * _HASH, 3 * _HASH)
# before each text: offset of the previous entry with this sketch, number of the turn before, fingerprint, text's size
_ENTRY = Struct(f"<qq{3 * _HASH}sq")
_CONTEXT = "\x1e"  # neither this control character nor the next is in any word
_BETWEEN = "\x1f"


def fingerprint(asked: Wording, answered: Wording, *, is_context: bool = False) -> bytes:
    """Return three hashes that identify repeats without containing the words.

    They are the hashes of the answer's words, of the question's words, and of the question's sketch:
    its words without articles and polite words, and of long words only the first letter. Only questions
    with the same sketch are compared with each other. An answer that is only context has another hash
    than the same answer elsewhere, so that this one is still learned.
    """
    answer = (*answered.words, _CONTEXT) if is_context else answered.words
    return b"".join(map(_hash, (answer, asked.words, _sketched(topic(asked)))))


def _hash(words: Sequence[str]) -> bytes:
    return blake2b(_BETWEEN.join(words).encode("utf-8", "surrogatepass"), digest_size=_HASH).digest()


def _sketched(words: Sequence[str]) -> tuple[str, ...]:
    return tuple([word[0] + "…" if len(word) >= LEAST_MISTYPED and may_be_mistyped(word) else word for word in words])


class RepeatedTurns:
    """Recognises turns that repeat an earlier one.

    A turn repeats another if the answers have the same wording, and the questions differ at most by
    typing errors in long words that are not names ("holiday", "holidays"). Answers must not differ at
    all: "eight days" is not "eighty days". The same words mean something else after another turn ("And
    what does that cost?"), so the turns before must be the same, too.
    """

    def __init__(self) -> None:
        # by the turn before, the answer and the question's sketch: number of the last such turn
        self._similar = NumberTable()
        # by their exact words, the numbers of turns that share their key in `_similar` with another
        self._exact = NumberTable()
        # `_ENTRY` and text of each question, of the last ones only: the others are in a file
        self._recent = bytearray()
        self._file: IO[bytes] | None = None
        self._start = 0  # offset of `_recent`, as if it were at the end of the file
        self._compared: dict[int, Wording] = {}  # wordings of the few questions that were compared with others

    def numbers(self, questions: Sequence[str], said: Sequence[bytes]) -> list[tuple[int, bool]]:
        """Return (its number, False) for each turn of a conversation, or (number of the turn that it repeats, True).

        `said`: the `fingerprint` of each turn.
        """
        found: list[tuple[int, bool]] = []
        before = NOTHING_BEFORE
        for question, words in zip(questions, said, strict=True):
            number, repeated = self._number(question, words, before)
            found.append((number, repeated))
            if not repeated:
                break
            before = number
        # Nothing was said after a new turn, so nothing that follows it is looked up. It is only stored.
        for question, words in zip(questions[len(found) :], said[len(found) :], strict=True):
            found.append((self._store(NOTHING_BEFORE, found[-1][0], words, question), False))
        return found

    def _number(self, question: str, said: bytes, before: int) -> tuple[int, bool]:
        self._index_successor(before)
        # most turns are like no other, and few share a sketch, so the time grows only linearly with the turns
        similar = _similar(before, said)
        last = self._similar.first(similar, self._end)
        if last >= 0:
            earlier = self._repeated(last, question, said)
            if earlier >= 0:
                return earlier, True
            self._similar.put(similar, self._end)
            self._exact.put(_exact(before, said), self._end)
        return self._store(last, before, said, question), False

    def _index_successor(self, number: int) -> None:
        """Add the turn that was stored after this one to those that are looked up."""
        if number == NOTHING_BEFORE:
            return
        *_, size = self._entry(number)
        after = number + _ENTRY.size + size
        if after < self._end:
            _, before, said, _ = self._entry(after)
            if before == number:
                self._similar.first(_similar(before, said), after)

    def _repeated(self, last: int, question: str, said: bytes) -> int:
        """Return the number of the turn that a question repeats; -1 if there is none.

        `last` is the number of the last turn with the same key in `_similar`.
        """
        previous, before, words, _ = self._entry(last)
        if previous < 0:
            self._exact.put(_exact(before, words), last)  # the first of its sketch, which had no other until now
        if (earlier := self._exact.get(_exact(before, said))) >= 0:
            return earlier
        asked = wording(question)
        alike = (other for other, known in islice(self._before(last), _CROWD) if same_wording(asked, known))
        return min(alike, default=-1)

    @property
    def _end(self) -> int:
        return self._start + len(self._recent)

    def _store(self, previous: int, before: int, said: bytes, question: str) -> int:
        """Store a turn, and return its number: its offset among the stored ones."""
        number = self._start + len(self._recent)
        text = question.encode("utf-8", "surrogatepass")
        self._recent += _ENTRY.pack(previous, before, said, len(text))
        self._recent += text
        if len(self._recent) >= _IN_MEMORY:
            self._write()
        return number

    def _write(self) -> None:
        if self._file is None:  # the texts are private, so the file is in the data folder, and has no name
            paths.home().mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=paths.home())  # noqa: SIM115  (closed with the object)
        self._file.seek(self._start)
        self._file.write(self._recent)
        self._start += len(self._recent)
        self._recent.clear()

    def _entry(self, place: int) -> tuple[int, int, bytes, int]:
        """Return what `_ENTRY` holds at an offset; the question's text is behind it."""
        previous, before, said, size = _ENTRY.unpack(self._read(place, _ENTRY.size))
        return previous, before, said, size

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
            previous, _, _, size = self._entry(place)
            if place not in self._compared:
                text = self._read(place + _ENTRY.size, size)
                self._compared[place] = wording(text.decode("utf-8", "surrogatepass"))
            yield place, self._compared[place]
            place = previous


def _similar(before: int, said: bytes) -> int:
    return hash(before.to_bytes(_HASH, signed=True) + said[ANSWER] + said[TOPIC])


def _exact(before: int, said: bytes) -> int:
    return hash(before.to_bytes(_HASH, signed=True) + said[_EXACT])
