"""Find the words that the owner listed as private: names, projects and places that no rule can recognise."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from fine_tuning.data_collection.private_details.reading import UNSPACED, Reading, Span

_UNSPACED = re.compile(f"[{UNSPACED}]")


def own_words(reading: Reading, words: Sequence[str]) -> Iterator[Span]:
    """Yield the positions of `words` as whole words, in any case and with any white space between their parts.

    Scripts without spaces between words have no whole words: there a word is also found within a longer
    text, or next to letters of another script.
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
    """Return a regex for the words, the longest first, so that "Ann Lee" is found rather than "Ann".

    Return None if all words are blank.
    """
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
    """Return whether a word ends next to the character at the index `beside` of `text`.

    `last` is the word's first or last character, whichever is next to that index. The word goes on if
    both characters are letters or digits, except in scripts without spaces between words. It ends
    if the index is outside of the text.
    """
    if not 0 <= beside < len(text):
        return True
    other = text[beside]
    kind = unicodedata.category(other)[0]
    if kind == "M":  # an accent or a vowel sign, which belongs to the letter before it
        return False
    joins = kind in "LN" and unicodedata.category(last)[0] in "LNM"
    return not joins or bool(_UNSPACED.match(other) or _UNSPACED.match(last))
