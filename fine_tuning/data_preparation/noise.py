"""Add typing errors to questions, so that the model learns to answer hurriedly typed questions too.

A letter is dropped, doubled, or replaced by its neighbour on the keyboard, a word is written in
capitals, the first word loses its capital, or the final punctuation mark is dropped. Code, numbers,
placeholders, quotations, addresses and words written like names are not changed, because an error
in one of them would change what the question is about.
"""

import re
from collections.abc import Collection, Iterator
from random import Random

from fine_tuning.data_collection.cleaning.code_parts import parts

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_SHORTEST = 4  # minimum letters of a word that may be mistyped: an error in "not" could make "no"
_TOKEN = re.compile(r"\S+")
_OPENS, _CLOSES = "(¿¡", "),.;:?!…"
_LATIN_END = "\u0250"
# text in quotes, brackets of any kind, or backticks
_KEPT = re.compile(
    r"`[^`]*`|\[[^\[\]]*\]|\{[^{}]*\}|<[^<>]*>|\"[^\"]*\"|“[^”]*”|„[^“”]*[“”]|«[^»]*»|(?<!\w)[‘'][^'’\n]*['’](?!\w)"
)
_LAST_MARK = re.compile(r"(?<!\S)[^\W\d_]+([?.!]+)\s*\Z")
# words that begin questions; those that can also be names (Will, May, Mark) are left out
_QUESTIONS = """
    what where when who whom whose why how which can could do does did is are was were would should shall has have had
    tell please explain the there this that my our your
    wo wann wer wem wen warum wie welche welcher welches kann können darf dürfen ist sind hat haben gibt bitte muss
    où quand qui pourquoi comment quel quelle est qué dónde cuándo quién cómo cuál
"""
_OPENERS = frozenset(_QUESTIONS.split())


def noisy(question: str, chance: Random, rate: float, names: Collection[str] = (), known: Collection[str] = ()) -> str:
    """Return the question with typing errors, drawn with `chance`; unchanged if nothing can be mistyped.

    Args:
        question: The question.
        chance: The source of random numbers.
        rate: The share (0 to 1) of the words that are mistyped, of those that may be; at least one
            word is.
        names: Words in lower case that are never mistyped.
        known: Words in lower case that no error may produce.
    """
    places = [(start, end) for start, end in _words(question) if question[start:end] not in names]
    chosen = {place for place in places if chance.random() < rate} or set(chance.sample(places, min(1, len(places))))
    edits = {place: _mistyped(question[slice(*place)], chance, known) for place in sorted(chosen)}
    if (mark := _LAST_MARK.search(question)) and not _kept(question, mark.start(1)) and chance.random() < 1 / 3:
        edits[mark.span(1)] = ""
    if (opener := _opener(question, names)) and chance.random() < 1 / 3:
        edits[opener] = question[slice(*opener)].lower()
    return _edited(question, edits)


def names_in(text: str) -> set[str]:
    """Return, in lower case, the words of a text that look like names.

    These are words with a capital letter, except the first word of a sentence if it is one that
    often begins questions.
    """
    found = set()
    for sentence in re.split(r"[.?!:]\s|\n", text):
        words = re.findall(r"[^\W\d_]+", sentence)
        found |= {word.lower() for word in words[1:] if not word.islower()}
        if words and not words[0].islower() and words[0].lower() not in _OPENERS:
            found.add(words[0].lower())
    return found


def _edited(text: str, edits: dict[tuple[int, int], str]) -> str:
    pieces, end = [], 0
    for (start, stop), new in sorted(edits.items()):
        pieces += [text[end:start], new]
        end = stop
    return "".join([*pieces, text[end:]])


def _words(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the words into which a typing error may be put.

    These are words of at least _SHORTEST lower-case Latin letters outside code and quotes.
    """
    for first, last in _prose(text):
        for token in _TOKEN.finditer(text, first, last):
            word = token[0].lstrip(_OPENS)
            start = token.end() - len(word)
            word = word.rstrip(_CLOSES)
            if len(word) >= _SHORTEST and word.isalpha() and word.islower() and max(word) < _LATIN_END:
                yield start, start + len(word)


def _prose(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the parts of `text` that may be changed: those outside code, quotes and brackets."""
    start = 0
    for part in parts(text):
        end = start + len(part.text)
        if part.kind == "prose":
            for kept in _KEPT.finditer(text, start, end):
                yield start, kept.start()
                start = kept.end()
            yield start, end
        start = end


def _kept(text: str, place: int) -> bool:
    return not any(start <= place < end for start, end in _prose(text))


def _opener(text: str, names: Collection[str]) -> tuple[int, int] | None:
    """Return (start, end) of the first word if it has a capital only because it begins the sentence; else None."""
    first = re.match(r"\s*([^\W\d_]+)(?!\S)", text)
    if not first or not first[1].istitle() or first[1].lower() not in _OPENERS or first[1].lower() in names:
        return None
    return None if _kept(text, first.start(1)) else first.span(1)


def _mistyped(word: str, chance: Random, known: Collection[str]) -> str:
    """Return the word with one random typing error; unchanged if four attempts all gave a known word."""
    errors = (_dropped, _doubled, _beside, _beside, _shouted)
    for _ in range(4):
        made = chance.choice(errors)(word, chance)
        if made.isupper() or made not in known:
            return made
    return word


def _dropped(word: str, chance: Random) -> str:
    at = chance.randrange(1, len(word))
    return word[:at] + word[at + 1 :]


def _doubled(word: str, chance: Random) -> str:
    at = chance.randrange(1, len(word))
    return word[:at] + word[at] + word[at:]


def _beside(word: str, chance: Random) -> str:
    at = chance.randrange(1, len(word))
    keys = _NEIGHBOURS.get(word[at])
    return word[:at] + chance.choice(keys) + word[at + 1 :] if keys else word


def _shouted(word: str, chance: Random) -> str:
    return word.upper()


def _neighbours() -> dict[str, str]:
    """Return for each letter the letters on the adjacent keys of an English keyboard (QWERTY)."""
    places = {letter: (row, column) for row, letters in enumerate(_ROWS) for column, letter in enumerate(letters)}

    def touch(one: tuple[int, int], other: tuple[int, int]) -> bool:
        down, across = other[0] - one[0], other[1] - one[1]
        return (down, across) in ((0, 1), (0, -1), (1, -1), (1, 0), (-1, 0), (-1, 1))

    return {letter: "".join(near for near in places if touch(places[letter], places[near])) for letter in places}


_NEIGHBOURS = _neighbours()
