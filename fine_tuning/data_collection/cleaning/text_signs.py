"""Name the signs without which a rule for texts cannot apply, and find sequences of characters in many texts at once.

Each rule needs certain characters: a mail address an "@", a card twelve digits. A set of signs is an int with
one bit for each of the names below. A text whose signs are not known has `ALL` of them, so that each rule
examines it. `turn_screens.py` finds the signs.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

import numpy as np
import numpy.typing as npt

URL, EMAIL, SECRET, IBAN, CARD, SSN, IP, PHONE = (1 << number for number in range(8))  # may hold such a detail
PRIVATE = URL | EMAIL | SECRET | IBAN | CARD | SSN | IP | PHONE
CODE = 1 << 9  # may have lines of code or of a table, apart from what the beginnings of its lines show
ROWS = 1 << 10  # may have rows of a table, if it has several lines
OBSCENE = 1 << 11
REPEATED = 1 << 12  # one letter many times, or an encoded file
LITTLE = 1 << 13  # hardly any letters and digits
REFUSAL = 1 << 14
GIBBERISH = 1 << 15
QUOTED = 1 << 16  # a quotation mark that is not an apostrophe within a word
UNIT = 1 << 17  # a unit after a number
FORMULA = 1 << 18
KEPT = 1 << 19  # a mark that changes the meaning of a sentence
ALL = -1

Bits = npt.NDArray[np.uint64]
Places = npt.NDArray[np.intp]
_Entry = TypeVar("_Entry", bound=np.generic)

_LONGEST = 8  # characters of a sequence
_MOST = 64  # sequences: one bit each
CHARSET = "cp1252"  # has the letters and punctuation of Western Europe, one byte each
CHARACTERS = bytes(range(256)).decode(CHARSET, "replace")  # the character for which each byte stands
_NOT_IN_IT = b"\x01"  # stands for a text that has other characters
_CHARACTER = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\.|.", re.DOTALL)


class Batch:
    """Texts in one array of bytes, each after a NUL; there are NULs after the last text, too.

    A text with characters that are not in the code page 1252 is represented by a control character.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        pieces = list(map(_encoded, texts))
        sizes = np.fromiter(map(len, pieces), np.intp, len(pieces))
        self.starts: Places = np.concatenate([[0], np.cumsum(sizes + 1)[:-1]])  # of the NUL before each text
        self.sizes = sizes
        self.size = int(sizes.sum()) + len(pieces) + 1  # with the NUL after the last text
        self.bytes = np.frombuffer(b"\0" + b"\0".join(pieces) + bytes(_LONGEST), np.uint8)
        self.places: Places = self.bytes.astype(np.intp)  # the bytes as indices of a table
        self.pairs: Places = self.places[:-1] | self.places[1:] << 8  # two bytes as an index

    def looked_up(self, table: npt.NDArray[_Entry]) -> npt.NDArray[_Entry]:
        """Return the entry of `table` for each byte."""
        return table[self.places[: self.size]]

    def counts(self, each: npt.NDArray[np.bool_]) -> Places:
        """Return for each text how many of its bytes are True in `each`."""
        counts: Places = np.add.reduceat(each, self.starts, dtype=np.intp)
        return counts

    def numbers_of(self, places: Places) -> Places:
        """Return for each of `places`, which are indices of bytes, the number of the text that it is in."""
        return np.searchsorted(self.starts, places, "right") - 1


def _encoded(text: str) -> bytes:
    try:
        return text.encode("ascii" if text.isascii() else CHARSET)
    except UnicodeEncodeError:
        return _NOT_IN_IT


def table_of(pattern: str) -> npt.NDArray[np.bool_]:
    """Return for each byte whether the regex `pattern` matches the character for which it stands, in any case."""
    matches = re.compile(pattern, re.IGNORECASE | re.DOTALL).fullmatch
    return np.array([matches(character) is not None for character in CHARACTERS])


class Sequences:
    """Sequences of up to eight characters that are searched for in many texts at the same time.

    A sequence is a regular expression of characters and classes only, in any case; NUL stands for the
    beginning and the end of a text. Each sequence has one bit. For each place in a sequence there is a table,
    which gives for a character the bits of the sequences that allow it at this place. The sequences that
    begin at a byte are the bits that the entries for this byte and those after it have in common (Shift-And:
    Baeza-Yates and Gonnet, "A New Approach to Text Searching", CACM 1992).
    """

    def __init__(self, wanted: Mapping[int, Sequence[str]]) -> None:
        """Prepare the search. `wanted` maps each sign to its sequences: a text with one of them has the sign."""
        self.signs = tuple(wanted)
        firsts = accumulate(map(len, wanted.values()), initial=0)
        self._masks = {
            sign: np.uint64(((1 << len(each)) - 1) << first)
            for (sign, each), first in zip(wanted.items(), firsts, strict=False)
        }
        sequences = [_CHARACTER.findall(sequence) for each in wanted.values() for sequence in each]
        if len(sequences) > _MOST or max(map(len, sequences)) > _LONGEST:
            raise ValueError("too many sequences, or a sequence is too long")
        tables = np.zeros((_LONGEST, 256), np.uint64)
        for number, sequence in enumerate(sequences):
            bit = np.uint64(1 << number)
            for place, table in enumerate(tables):
                table[table_of(sequence[place]) if place < len(sequence) else slice(None)] |= bit
        # of two places at once, by the pair of bytes there
        self._tables = (tables[1::2, :, np.newaxis] & tables[::2, np.newaxis, :]).reshape(-1, 1 << 16)

    def at(self, batch: Batch) -> Bits:
        """Return for each byte the bits of the sequences that begin there."""
        found: Bits = self._tables[0][batch.pairs[: batch.size]]
        for place, table in enumerate(self._tables[1:], 1):
            found &= table[batch.pairs[2 * place : batch.size + 2 * place]]
        return found

    def has(self, sign: int, found: Bits) -> npt.NDArray[np.bool_]:
        """Return whether the bits, an array of `at` or a part of it, include a sequence of `sign`."""
        has: npt.NDArray[np.bool_] = (found & self._masks[sign]) != 0
        return has
