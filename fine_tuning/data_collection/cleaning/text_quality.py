"""Recognise text that a model should not learn to write: text that repeats itself, and text with hardly any words.

The rules are for prose: code, tables, drawings, numbers, encoded files and emoji are not judged.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from fine_tuning.data_collection.cleaning.plain_text import Layout, letters_and_digits
from fine_tuning.data_collection.cleaning.text_signs import LITTLE, REPEATED
from fine_tuning.data_collection.placeholders import PLACEHOLDER

_WORD = re.compile(r"[\W_]*[^\W\d_]")  # not a number: 0, 0x00, 0px
_LEAST_RUN = 8
_RUN = re.compile(rf"([^\W\d_])\1{{{_LEAST_RUN - 1},}}")


def is_repetitive(text: str | Layout) -> bool:
    """Return whether more than half of the sequences of four words in the prose, or in its second half, are repeats.

    Small models write such text when they are stuck (duplicate n-grams: Rae et al., arXiv 2112.11446).
    In scripts without spaces between words, characters count instead of words.
    """
    layout = Layout.of(text)
    if not layout.signs & REPEATED and _is_prose(layout):
        return False
    prose = "\n".join([piece for is_prose, piece in layout.pieces if is_prose])
    if max(map(len, prose.split()), default=0) >= _LEAST_ENCODED:
        prose = _ENCODED.sub(_unless_encoded, prose)
    prose = _without_refrains(prose)
    long = filter(_LEAST_RUN.__le__, map(len, prose.split()))  # only long words can contain a run
    if 2 * sum(long) > len(prose) > 2 * len(_RUN.sub(r"\1", prose)):
        return True
    words: Sequence[str] = prose.casefold().split()
    units = words if 12 * len(words) > len(prose) else list(filter(str.isalpha, "".join(words)))
    return _circles(units) or _circles(units[len(units) // 2 :])


def _is_prose(layout: Layout) -> bool:
    pieces = layout.pieces
    return len(pieces) == 1 and pieces[0][0]


def _circles(units: Sequence[str]) -> bool:
    # a quick exit for nearly every text: enough distinct words begin distinct sequences
    if 2 * (sum(map(str.isalpha, set(units))) - 3) >= len(units) - 3:
        return False
    worded = [_WORD.match(unit) is not None for unit in units]
    grams = [tuple(units[start : start + 4]) for start in range(len(units) - 3) if any(worded[start : start + 4])]
    return len(grams) >= 3 and 2 * len(set(grams)) < len(grams)


def _without_refrains(text: str) -> str:
    """Return the text without lines that are repeated after new ones, like the refrain of a song.

    A text that ends in a long loop is returned unchanged.
    """
    lines = text.splitlines()
    if len(lines) == 1:
        return lines[0]
    lines = [line for line in lines if line.strip()]
    if len(lines) < 2:
        return "\n".join(lines)
    keys = [line.strip().casefold() for line in lines]
    last: dict[str, int] = {}
    newest, kept = -1, []
    for index, key in enumerate(keys):
        if key not in last:
            newest = index
            kept.append(lines[index])
        elif newest <= last[key]:
            kept.append(lines[index])
        last[key] = index
    return "\n".join(kept) if 2 * (len(lines) - 1 - newest) <= len(lines) else text


# Base64 and similar encodings, over any number of lines.
_LEAST_ENCODED = 40
_ENCODED = re.compile(rf"[A-Za-z0-9+/_-]{{{_LEAST_ENCODED},}}(?:\n[A-Za-z0-9+/_-]{{4,}})*={{0,2}}")


def _unless_encoded(match: re.Match[str]) -> str:
    mixed = all(any(map(kind, match[0])) for kind in (str.isdigit, str.islower, str.isupper))
    return " " if mixed else match[0]


# Characters that join emoji, colour them, or spell the region of a flag.
_OF_EMOJI = re.compile("[\u200d\ufe0e\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")

_LINE = re.compile(r"([^\w\s]|_)\1{3,}")  # one sign repeated: an underline, or a blank to fill in


def says_little(text: str | Layout) -> bool:
    """Return whether the prose has too few letters and digits, or too much of the text was decoded wrongly.

    Too few is less than a quarter of the visible characters, without placeholders. Too much is more than
    5 % replacement characters (U+FFFD).
    """
    layout = Layout.of(text)
    if not layout.signs & LITTLE and _is_prose(layout):
        return False
    found = _without_placeholders(layout).pieces
    told = "".join(piece for is_prose, piece in found if is_prose)
    if 4 * letters_and_digits(told) > len(told) and not any("\ufffd" in piece for _, piece in found):
        return False  # a quick exit for nearly every text
    seen = Counter("".join(piece for _, piece in found))
    if 20 * seen["\ufffd"] > sum(count for character, count in seen.items() if not character.isspace()):
        return True
    prose = Counter(_LINE.sub(r"\1", told))
    visible = sum(count for character, count in prose.items() if not character.isspace())
    words = sum(count for character, count in prose.items() if unicodedata.category(character)[0] in "LMN")
    return 4 * words <= visible and (visible > 0 or all(is_prose for is_prose, _ in found))


def _without_placeholders(layout: Layout) -> Layout:
    text = PLACEHOLDER.sub("", layout.text) if "[" in layout.text else layout.text
    text = text if text.isascii() else _OF_EMOJI.sub("", text)
    return layout if text == layout.text else Layout(text)
