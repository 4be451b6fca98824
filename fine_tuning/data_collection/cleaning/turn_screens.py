"""Screen many texts at once: find for each the signs of the rules that might apply to it (`text_signs.py`).

Few rules apply to a text, but a search by each of them takes most of the time of a cleaning. A screen may find
signs where the rule finds nothing; it never misses any, which `test_turn_screens.py` checks.
"""

import unicodedata
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

from fine_tuning.data_collection.cleaning.empty_answers import CONSONANT, RUNS, SIGNS_OF_ITSELF, VOWEL
from fine_tuning.data_collection.cleaning.inappropriate import LEET, STEMS
from fine_tuning.data_collection.cleaning.plain_text import Layout
from fine_tuning.data_collection.cleaning.text_signs import (
    ALL,
    CARD,
    CHARACTERS,
    CODE,
    EMAIL,
    FORMULA,
    GIBBERISH,
    IBAN,
    IP,
    KEPT,
    LITTLE,
    OBSCENE,
    PHONE,
    QUOTED,
    REFUSAL,
    REPEATED,
    ROWS,
    SECRET,
    SSN,
    UNIT,
    URL,
    Batch,
    Bits,
    Places,
    Sequences,
    table_of,
)
from fine_tuning.data_collection.private_details.credentials import ALL_STEMS

_HARD = 1 << 30  # no sign by itself: a part of a word with hardly any vowels, of which two are
_GAP = r"[ ,;\[\](){}]"  # between the cells of a row
_CELL = r"[\d%.–—-]"
_OF_UNIT = (r"[^\w.']", r"[wvagjnb][^\w.']", "[hpewib][zavhbp]")  # after its first letter
_HEX = "[0-9a-f]"
_OPERATOR = "[-+*/^=<>×÷·%]"
# Sequences of characters of which one is in each text to which the rule applies.
_SEQUENCES = Sequences(
    {
        ALL: (r"[^\n\0 -~\xa1-\xac\xae-\uffff]",),
        URL: ("://", r"www\.", r"\.[a-z][a-z]"),
        EMAIL: ("@",),
        SECRET: ("[-–][-–][-–][-–]", r"\Wpin\W", r"\Wpinc", "[iostp][ehins]key", "[iostp][ehins][ _–-]key"),
        IBAN: (r"[a-z][a-z]\d\d",),
        IP: (
            r"\d\.\d[\d.][\d.]",
            f"{4 * _HEX}:[0-9a-f:][0-9a-f:]",
            *(f"{_HEX}:{size * _HEX}:" for size in range(1, 5)),
        ),
        CODE: ("  ", r"[={}\[\]<>|`~$\\@\"#;]", r"\S\(", "/[/*]", r":[\n\0]"),
        ROWS: (r",[^\s\0]", f"{_CELL}{_GAP}[ ,;\\[\\](){{}}\\d%.–—+-]", f"{_CELL}{_GAP}inf", "nan", f"inf{_GAP}"),
        OBSCENE: (r"\*", r"[\w@$][ ._-][\w@$][ ._-][\w@$][^\w@$]"),
        REFUSAL: (r"\0i[ '’]", *(sign[-8:] for sign in SIGNS_OF_ITSELF if " " in sign)),
        GIBBERISH | REPEATED: ("ß",),  # it counts as two letters
        QUOTED: ('"', "[^a-z]'", "'[^a-z]"),
        UNIT: tuple(rf"\d{space}[mpkgtb]{rest}" for space in ("", r"\s") for rest in _OF_UNIT),
        FORMULA: (rf"[\d)\]\s]{_OPERATOR}", rf"\W[a-z]{_OPERATOR}", r"\w[(\[{]", r"[(\[][\s\d-]"),
        KEPT: (
            r"[<>=+|~^&*/%\\$@#_]",
            r"[^\w)\]]-",
            r"-[\s.,;:!?)\0]",
            "--",
            r"\d[-.,:][-.,:\d]",
            r"[^\w.)\]]\.\w",
            r"[\[\d:]:[\d:\]]",
            r"\w::",
            r"[^\w!?.]![\w(]",
            r"[\d)]!",
        ),
        _HARD: (CONSONANT * 4, CONSONANT * 3 + VOWEL + CONSONANT * 3),
    }
)
# Words and parts of words, of which four letters must be in the text.
_STEMS = {
    OBSCENE: STEMS,
    SECRET: [stem for stem in ALL_STEMS if stem not in ("pin", "key")],  # these two are sequences
    REFUSAL: [sign for sign in SIGNS_OF_ITSELF if " " not in sign],
    GIBBERISH: RUNS,
}
_GRAM = 4  # letters that are looked up at once, each as a number of five bits
_DIGIT, _SPACE = table_of(r"\d"), table_of(r"[\s\0]")
_SMALL = np.array([character.islower() for character in CHARACTERS])  # letters that are not of a placeholder
_LETTERS_ONLY = np.array([character.isalpha() for character in CHARACTERS])
_LINE_END = table_of(r"\n")
_LEAST_WORDS = 6  # of which three sequences of four can be repeats
_OF_DIGITS = (1 << 16) - 1  # these bits of a word's hash count its digits
# The hash of a word is the sum of these numbers: equal for words that differ in case only, or in the order of letters.
_HASHES = np.random.default_rng(0).integers(1 << 48, size=0x10000, dtype=np.uint64)[
    [ord(character.lower()) for character in CHARACTERS]
]
_HASHES = np.where(_LETTERS_ONLY, _HASHES << 16, [character.isalnum() for character in CHARACTERS]).astype(np.uint64)
# (least number of digits, most characters from the first to the last of them)
_DIGITS = {PHONE: (7, 25), SSN: (9, 11), CARD: (12, 23)}
_LEAST_LONG = {SECRET: 15, REPEATED: 40}  # characters without a space


def screen(layouts: Sequence[Layout]) -> None:
    """Set the signs of these texts, which are normalised."""
    if not layouts:
        return
    batch = Batch(layout.text for layout in layouts)
    at = _SEQUENCES.at(batch)
    found = np.bitwise_or.reduceat(at, batch.starts)
    signs = np.zeros(len(layouts), np.int64)
    for sign in _SEQUENCES.signs:
        signs[_SEQUENCES.has(sign, found)] |= sign
    signs[4 * batch.counts(batch.looked_up(_SMALL)) <= batch.sizes] |= LITTLE
    digits = np.flatnonzero(batch.looked_up(_DIGIT))
    for sign, (least, most) in _DIGITS.items():
        close = digits[least - 1 :] - digits[: max(len(digits) - least + 1, 0)] < most
        signs[batch.numbers_of(digits[: len(close)][close])] |= sign
    signs[batch.counts(_SEQUENCES.has(_HARD, at)) >= 2] |= GIBBERISH
    spaces = np.flatnonzero(batch.looked_up(_SPACE))
    for sign, least in _LEAST_LONG.items():
        signs[_texts_with_gaps(batch, spaces, least + 1)] |= sign
    signs[_may_repeat_words(batch, spaces)] |= REPEATED
    signs[batch.numbers_of(_runs(batch))] |= REPEATED
    numbers, of_stems = _stems(batch)
    np.bitwise_or.at(signs, numbers, of_stems)
    for layout, sign in zip(layouts, signs.tolist(), strict=True):
        layout.signs = sign


def _texts_with_gaps(batch: Batch, places: Places, least: int) -> Places:
    """Return the numbers of the texts in which two neighbouring places are at least `least` apart."""
    return batch.numbers_of(places[:-1][np.diff(places) >= least])


def _runs(batch: Batch) -> Places:
    """Return the places at which eight equal characters begin."""
    equal = batch.bytes[1:] == batch.bytes[:-1]  # two
    for further in (1, 2, 3):
        equal = equal[:-further] & equal[further:]  # three, five, eight
    return np.flatnonzero(equal)


def _may_repeat_words(batch: Batch, spaces: Places) -> npt.NDArray[np.bool_]:
    """Return for each text whether its words may repeat themselves (`text_quality.is_repetitive`).

    They cannot if the text has a single line, and about half of its words are distinct and have letters but no
    digits, both in the whole text and in its second half. `spaces` are the places of spaces, line ends, and the NULs
    between texts.
    """
    words = np.add.reduceat(batch.looked_up(_HASHES), spaces)  # of the characters from each space to the next
    numbers = np.cumsum(batch.bytes[spaces] == 0) - 1
    filled = np.diff(spaces, append=batch.size) > 1
    words, numbers = words[filled], numbers[filled]
    counts = np.bincount(numbers, minlength=len(batch.starts))
    late = np.arange(len(words)) - (np.cumsum(counts) - counts)[numbers] >= (counts // 2)[numbers]
    one_line = batch.counts(batch.looked_up(_LINE_END)) == 0
    may: npt.NDArray[np.bool_] = ~one_line | (12 * counts <= batch.sizes)  # or else it has no spaces between words
    for part, size in ((slice(None), counts), (late, counts - counts // 2)):
        different = _different(words[part], numbers[part], len(counts))
        may |= (2 * (different - 3) < size - 3) & (size >= _LEAST_WORDS)
    return may


def _different(words: Bits, numbers: Places, count: int) -> Places:
    """Return for each of `count` texts how many distinct words it has with letters and without digits.

    Only their letters are compared. `numbers`: the text of each word.
    """
    of_letters = (words & _OF_DIGITS == 0) & (words > _OF_DIGITS)
    each = np.sort(numbers[of_letters].astype(np.uint64) << 40 | words[of_letters] >> 24)
    first = np.append(True, each[1:] != each[:-1])[: len(each)]
    return np.bincount((each[first] >> 40).astype(np.intp), minlength=count)


def _stems(batch: Batch) -> tuple[Places, npt.NDArray[np.int64]]:
    """Return (numbers of texts, signs): each of these texts may hold one of `_STEMS`, which has the sign."""
    letters = _LETTERS[batch.places]
    ends = np.flatnonzero(letters[1:] != letters[:-1])  # of each run of a letter, which counts once
    letters = letters[ends]
    last = max(len(letters) - _GRAM + 1, 0)
    grams = np.zeros(last, np.uint32)
    for place in range(_GRAM):
        grams |= letters[place : place + last] << 5 * place
    found = _SIGNS_OF_GRAMS[grams]
    places = np.flatnonzero(found)
    return batch.numbers_of(ends[places]), found[places].astype(np.int64)


def _letter(character: str) -> int:
    """Return the number of a letter, from 1 to 26, ignoring case and accents; 0 for any other character.

    A sign that is often written in place of a letter counts as that letter.
    """
    small = unicodedata.normalize("NFD", character.casefold().translate(LEET))[:1]
    return ord(small) - ord("a") + 1 if small.isascii() and small.islower() else 0


def _signs_of_grams() -> npt.NDArray[np.uint16]:
    found = np.zeros(1 << 5 * _GRAM, np.uint16)
    for sign, stems in _STEMS.items():
        for stem in stems:
            if any(part in stem for part in stems if part != stem):
                continue
            letters = [letter for letter, _ in groupby(map(_letter, stem))]
            if not all(letters):
                continue  # it has letters that no text has whose signs are known
            first = 2 if len(letters) >= _GRAM + 3 else 0  # how words begin is what they often share with others
            letters = letters[first : first + _GRAM]
            number = sum(letter << 5 * place for place, letter in enumerate(letters))
            found[number :: 1 << 5 * len(letters)] |= sign
    return found


_LETTERS = np.array([_letter(character) for character in CHARACTERS], np.uint32)
_SIGNS_OF_GRAMS = _signs_of_grams()
