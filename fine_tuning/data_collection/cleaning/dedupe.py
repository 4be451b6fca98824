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

import numpy as np
import numpy.typing as npt

from fine_tuning import paths
from fine_tuning.data_collection.cleaning.number_table import NumberTable
from fine_tuning.data_collection.cleaning.wording import Wording, fold, may_be_mistyped, same_wording, topic, wording

Hashes = npt.NDArray[np.uint64]
Groups = npt.NDArray[np.int64]

_ALIKE = 0.8
_SHINGLE = 4  # characters
_BANDS, _ROWS, _HASHES = 32, 8, 256  # two texts of similarity s are proposed with probability 1 - (1 - s^8)^32
_SEED = 0
_BATCH = 2000  # texts whose signatures are computed at once
_BYTES = 8 * _BANDS + _HASHES  # of a text's signature
_CACHED = 1000  # texts whose pieces are kept in memory for the comparison
_RECENT = 4  # neighbours with which a text is compared in each band: among many similar texts, neighbours are similar
_CROWD = 64  # questions with one sketch that are compared: if there are more, they differ in names, not in errors
_IN_MEMORY = 50_000  # turns
_ENTRY = Struct("<qqq")  # before each text: offset of the previous entry with this sketch, turn's number, text's size
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)
_FACTORS = np.random.default_rng(0).integers(0, 2**63, _ROWS, np.uint64) * 2 + 1


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
        self._exact = NumberTable()
        self._similar = NumberTable()  # offset in `_asked` of the last question of each sketch
        self._asked = tempfile.SpooledTemporaryFile(dir=str(paths.home()))  # noqa: SIM115  (`_ENTRY` and text of each)
        self._end = 0
        self._moved = False  # whether `_asked` was read, so that its position is no longer its end
        self._compared: dict[int, Wording] = {}  # wordings of the few questions that were compared with others
        self._count = 0

    def number(self, question: str, answer: str, after: int = -1, said: bytes = b"") -> tuple[int, bool]:
        """Return (number of this turn, False), or (number of the earlier turn that it repeats, True).

        Args:
            question: The question.
            answer: The answer.
            after: The number of the turn before it in its conversation; -1 for a first turn. The same
                words mean something else after another turn ("And what does that cost?").
            said: The `fingerprint` of question and answer; computed if it is not given.
        """
        said = said or fingerprint(wording(question), wording(answer))
        before = after.to_bytes(_HASH, signed=True)
        exact, similar = hash(before + said[_EXACT]), hash(before + said[ANSWER] + said[TOPIC])
        earlier = self._exact.get(exact)
        # few questions share a sketch, so the time grows only linearly with the turns
        last = self._similar.get(similar)
        if earlier < 0 <= last:
            asked = wording(question)
            alike = (other for other, known in islice(self._before(last), _CROWD) if same_wording(asked, known))
            earlier = min(alike, default=-1)
        if earlier >= 0:
            return earlier, True
        number, self._count = self._count, self._count + 1
        self._exact.put(exact, number)
        self._similar.put(similar, self._remember(last, number, question))
        return number, False

    def _remember(self, last: int, number: int, question: str) -> int:
        """Append a question to the file, and return its offset.

        `last` is the offset of the previous question with the same sketch; -1 if there is none.
        """
        if number == _IN_MEMORY:  # move the texts, which are private, into an unnamed file in the data folder
            paths.home().mkdir(parents=True, exist_ok=True)
            self._asked.rollover()
        text = question.encode("utf-8", "surrogatepass")
        if self._moved:
            self._asked.seek(self._end)
            self._moved = False
        self._asked.write(_ENTRY.pack(last, number, len(text)) + text)
        start, self._end = self._end, self._end + _ENTRY.size + len(text)
        return start

    def _before(self, place: int) -> Iterator[tuple[int, Wording]]:
        """Yield (number, wording) of the question at offset `place`, then of earlier questions with the same sketch.

        The latest question comes first; nothing is yielded for the offset -1.
        """
        while place >= 0:
            self._moved = True
            self._asked.seek(place)
            place, number, size = _ENTRY.unpack(self._asked.read(_ENTRY.size))
            if number not in self._compared:
                self._compared[number] = wording(self._asked.read(size).decode("utf-8", "surrogatepass"))
            yield number, self._compared[number]


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

    All texts are read once, in order, and those that may look alike a second time. Their MinHash
    signatures are in a temporary file, so for a million texts only about 30 MB are in memory.
    """
    shingles = lru_cache(_CACHED)(lambda index: np.unique(_shingles([fold(texts[index])])[0]))
    with _Sketches() as sketches:
        folded = map(fold, texts)
        while batch := list(islice(folded, _BATCH)):
            sketches.add(batch)
        parents = sketches.first()
        for one, other in sketches.alike(np.unique(parents)):
            low, high = sorted((_root(parents, one), _root(parents, other)))
            if low != high and _jaccard(shingles(one), shingles(other)) >= _ALIKE:
                parents[high] = low
    while (joined := parents[parents]).tobytes() != parents.tobytes():
        parents = joined
    return joined


class _Sketches:
    """The MinHash signatures of texts, in a temporary file.

    The signature of a text is one byte of each of its 256 hashes, and one hash of each band, which is a
    group of 8 of the hashes.
    """

    def __init__(self) -> None:
        self._count = 0
        self._digests = [np.empty(0, np.uint64)]

    def __enter__(self) -> "_Sketches":
        self._file = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, folded: Sequence[str]) -> None:
        """Add the next `_BATCH` texts, folded; the last batch may be smaller."""
        from rensa import RMinHash

        rows = RMinHash.digest_matrix_from_flat_token_hashes(*_shingles(folded), _HASHES, _SEED).to_rows()
        signatures = np.array(rows, np.uint32)
        bands = (signatures.reshape(-1, _BANDS, _ROWS) * _FACTORS).sum(axis=2, dtype=np.uint64)
        self._file.write(np.ascontiguousarray(bands.T).tobytes() + signatures.astype(np.uint8).tobytes())
        self._digests.append(np.frombuffer(b"".join(_hash((text,)) for text in folded), np.uint64))
        self._count += len(folded)

    def first(self) -> Groups:
        """Return for each text the index of the first identical text."""
        _, first, same = np.unique(np.concatenate(self._digests), return_index=True, return_inverse=True)
        return first[same]

    def alike(self, numbers: Groups) -> Iterator[tuple[int, int]]:
        """Yield pairs of texts, among those with these numbers, that may look alike.

        The two signatures agree in all hashes of at least one band, and in at least 70 % of all hashes.
        """
        done = np.empty(0, np.int64)
        for band in range(_BANDS):
            pairs = np.setdiff1d(_neighbours(self._band(band)[numbers], numbers, self._count), done)
            done = np.union1d(done, pairs)
            for start in range(0, len(pairs), _BATCH):
                ones, others = np.divmod(pairs[start : start + _BATCH], self._count)
                near = self._agreeing(ones, others) >= (_ALIKE - 0.1) * _HASHES
                yield from zip(ones[near].tolist(), others[near].tolist(), strict=True)

    def _band(self, band: int) -> Hashes:
        """Return the hash of one band for each text."""
        pieces = []
        for first in range(0, self._count, _BATCH):
            texts = min(_BATCH, self._count - first)
            pieces.append(self._read(first * _BYTES + band * texts * 8, texts * 8))
        return np.frombuffer(b"".join(pieces), np.uint64)

    def _agreeing(self, ones: Groups, others: Groups) -> npt.NDArray[np.int64]:
        """Return for each pair of texts (ones[i], others[i]) how many hashes of their signatures are equal."""
        signatures = [
            np.frombuffer(b"".join(map(self._signature, each.tolist())), np.uint8).reshape(-1, _HASHES)
            for each in (ones, others)
        ]
        agreeing: npt.NDArray[np.int64] = np.count_nonzero(signatures[0] == signatures[1], axis=1)
        return agreeing

    def _signature(self, number: int) -> bytes:
        first = number // _BATCH * _BATCH
        texts = min(_BATCH, self._count - first)
        return self._read(first * _BYTES + texts * _BANDS * 8 + (number - first) * _HASHES, _HASHES)

    def _read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
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


def _shingles(texts: Sequence[str]) -> tuple[Hashes, Hashes]:
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


def _jaccard(one: Hashes, other: Hashes) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def _root(parents: Groups, index: int) -> int:
    while parents[index] != index:
        parents[index] = index = parents[parents[index]]
    return index
