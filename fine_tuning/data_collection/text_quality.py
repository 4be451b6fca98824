"""What a model should not learn to write: text that goes round in circles, and text without words.

These are rules for prose: code, tables, drawings, numbers, encoded files and emoji are not judged by them.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from fine_tuning.data_collection.placeholders import PLACEHOLDER
from fine_tuning.data_collection.plain_text import Layout, letters_and_digits

_WORD = re.compile(r"[\W_]*[^\W\d_]")  # not a number: 0, 0x00, 0px
_LEAST_RUN = 8
_RUN = re.compile(rf"([^\W\d_])\1{{{_LEAST_RUN - 1},}}")


def is_repetitive(text: str | Layout) -> bool:
    """Return whether the prose, or its second half, repeats itself in more than half of its sequences of four words.

    As small models do when they are stuck (duplicate n-grams: Rae et al., arXiv 2112.11446). Where
    words have no spaces, characters count.
    """
    prose = "\n".join([piece for is_prose, piece in Layout.of(text).pieces if is_prose])
    if max(map(len, prose.split()), default=0) >= _LEAST_ENCODED:
        prose = _ENCODED.sub(_unless_encoded, prose)
    prose = _without_refrains(prose)
    # a run is in a word
    long = filter(_LEAST_RUN.__le__, map(len, prose.split()))
    if 2 * sum(long) > len(prose) > 2 * len(_RUN.sub(r"\1", prose)):
        return True
    words: Sequence[str] = prose.casefold().split()
    units = words if 12 * len(words) > len(prose) else list(filter(str.isalpha, "".join(words)))
    return _circles(units) or _circles(units[len(units) // 2 :])


def _circles(units: Sequence[str]) -> bool:
    # each word begins a sequence of its own: nearly always enough
    if 2 * (sum(map(str.isalpha, set(units))) - 3) >= len(units) - 3:
        return False
    worded = [_WORD.match(unit) is not None for unit in units]
    grams = [tuple(units[start : start + 4]) for start in range(len(units) - 3) if any(worded[start : start + 4])]
    return len(grams) >= 3 and 2 * len(set(grams)) < len(grams)


def _without_refrains(text: str) -> str:
    """Return the lines without those that come again after new ones, as in a song. Text that ends
    in a long loop stays as it is.
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


# Base64 and the like, over any number of lines.
_LEAST_ENCODED = 40
_ENCODED = re.compile(rf"[A-Za-z0-9+/_-]{{{_LEAST_ENCODED},}}(?:\n[A-Za-z0-9+/_-]{{4,}})*={{0,2}}")


def _unless_encoded(match: re.Match[str]) -> str:
    mixed = all(any(map(kind, match[0])) for kind in (str.isdigit, str.islower, str.isupper))
    return " " if mixed else match[0]


# What joins emoji to one, colours it, or spells the region of a flag.
_OF_EMOJI = re.compile("[\u200d\ufe0e\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")

_LINE = re.compile(r"([^\w\s]|_)\1{3,}")  # one sign over and over: it underlines, or is to be filled in


def says_little(text: str | Layout) -> bool:
    """Return whether less than a quarter of the prose that is seen are letters and digits of any
    script, placeholders aside, or more than 5 % of all was lost in a wrong decoding.
    """
    found = _without_placeholders(Layout.of(text)).pieces
    told = "".join(piece for is_prose, piece in found if is_prose)
    if 4 * letters_and_digits(told) > len(told) and not any("\ufffd" in piece for _, piece in found):
        return False  # as nearly every text: quickly told
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
