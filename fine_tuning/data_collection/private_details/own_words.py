"""Words that a person named as private: names, projects, places, which no rule could tell from any other word."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from fine_tuning.data_collection.private_details.reading import UNSPACED, Reading, Span

_UNSPACED = re.compile(f"[{UNSPACED}]")


def own_words(reading: Reading, words: Sequence[str]) -> Iterator[Span]:
    """Yield where one of `words` stands as a whole word, in any case, and with any white space for its own.

    A script that sets no spaces between its words has no whole words: there it is found within any
    text, also beside letters of another script.
    """
    if not words or (pattern := _pattern(tuple(words))) is None:
        return
    at = 0
    while match := pattern.search(reading.plain, at):
        start, end = match.span()
        if _ends_word(reading.plain, start - 1, match[0][0]) and _ends_word(reading.plain, end, match[0][-1]):
            yield start, end
            at = end
        else:
            at = start + 1


@lru_cache(8)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str] | None:
    """Return what finds them, the longest first: of "Ann" and "Ann Lee" the whole name is found."""
    plain = sorted(
        {" ".join(Reading(unicodedata.normalize("NFC", word)).plain.split()) for word in words} - {""},
        key=len,
        reverse=True,
    )
    return (
        re.compile("|".join(r"\s+".join(map(re.escape, word.split())) for word in plain), re.IGNORECASE)
        if plain
        else None
    )


def _ends_word(text: str, beside: int, last: str) -> bool:
    """Return whether a find with this `last` character ends there, and the character at `beside`
    belongs to another word.
    """
    if not 0 <= beside < len(text):
        return True
    other = text[beside]
    kind = unicodedata.category(other)[0]
    if kind == "M":  # an accent or a vowel sign: without it, the letter before is another
        return False
    joins = kind in "LN" and unicodedata.category(last)[0] in "LNM"
    return not joins or bool(_UNSPACED.match(other) or _UNSPACED.match(last))
