"""Prepare a text for the search for private details: digits, hyphens, spaces and punctuation become ASCII.

So full-width or Arabic digits, for example, are found too. Every character keeps its position.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cache, cached_property

from fine_tuning.data_collection.cleaning.plain_text import Layout

Span = tuple[int, int]

# Ranges of letters for character classes: Latin letters, and those of other scripts with spaces
# between words.
LATIN = "A-Za-zªºÀ-ÖØ-öø-ɏḀ-ỿ"
SPACED = "Ͱ-ͽͿ-ΆΈ-҂Ҋ-֏\u05d0-\u05ea\u0620-\u064a\u0671-\u06d3\u0900-\u0963\u0966-\u0dffႠ-ჿሀ-\u135aἀ-\u1fff"
# Scripts without spaces between words, and Korean, whose particles are attached to the word before.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"  # noqa: E501

# Next to a number there must be no ASCII letter or digit, not even after an underscore, as in names
# of variables. Letters of scripts without spaces are allowed, as are underscores for emphasis.
STARTS = r"(?<![A-Za-z0-9])(?<![A-Za-z0-9]_)"
ENDS = r"(?![A-Za-z0-9]|_[A-Za-z0-9])"

_HYPHENS = "\u2010\u2011\u2012\u2013\u2212\ufe63"
_SPACES = "\u00a0\u1680\u2002-\u200a\u202f\u205f\u3000"
_UNUSUAL = re.compile(rf"[{_HYPHENS}{_SPACES}\uff01-\uff5e]|(?![0-9])\d")
_INLINE = re.compile(r"(`{1,2})(?=\S)[^`\n]+\1")


class Reading:
    """A text for the search for private details.

    `plain` is the text in which digits, hyphens, spaces and punctuation of other scripts are replaced
    by those of ASCII. All positions are the same as in the text.
    """

    def __init__(self, text: str | Layout) -> None:
        self._layout = Layout.of(text)
        self.text = text = self._layout.text
        self.plain = text if text.isascii() or not _UNUSUAL.search(text) else text.translate(_ascii_forms())

    def blank(self, spans: Iterable[Span]) -> None:
        """Overwrite details that were found in `plain`, so that later searches do not find them again."""
        pieces, end = [], 0
        for start, stop in spans:
            pieces += [self.plain[end:start], "\0" * (stop - start)]
            end = stop
        self.plain = "".join([*pieces, self.plain[end:]])

    def before(self, position: int, length: int = 40) -> str:
        """Return up to `length` characters before `position`, in the same line."""
        return self.plain[max(0, position - length) : position].rpartition("\n")[2]

    def in_code(self, position: int) -> bool:
        """Return whether the text at `position` is code: between fences, in backticks, or with the look of code."""
        number = bisect_right(self._code, (position, len(self.text)))
        return number > 0 and position < self._code[number - 1][1]

    @cached_property
    def _code(self) -> Sequence[Span]:
        spans, start = [], 0
        for part in self._layout.parts:
            end = start + len(part.text)
            if part.kind == "code":
                spans.append((start, end))
            elif "`" in part.text:
                spans += [(start + match.start(), start + match.end()) for match in _INLINE.finditer(part.text)]
            start = end
        return spans


@cache
def _ascii_forms() -> dict[int, str]:
    forms = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFF5F)}
    forms |= {ord(hyphen): "-" for hyphen in _HYPHENS}
    forms |= dict.fromkeys((0xA0, 0x1680, *range(0x2002, 0x200B), 0x202F, 0x205F, 0x3000), " ")
    digits = (code for code in range(0x100, 0x20000) if chr(code).isdecimal())
    return forms | {code: str(unicodedata.decimal(chr(code))) for code in digits}
