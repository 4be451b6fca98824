"""Reduce a text to its wording: its words without differences in case, spacing and punctuation.

`fold` is coarse, for finding texts that look alike. `wording` keeps every sign that changes the
meaning: -3 and 3, `x != y` and `x = y`, 10² and 102, 5 mW and 5 MW. Code and tables are kept as
they are.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain

from rapidfuzz.distance import OSA

from fine_tuning.data_collection.cleaning.plain_text import Layout
from fine_tuning.data_collection.cleaning.text_signs import ALL, FORMULA, KEPT, QUOTED, UNIT


def fold(text: str) -> str:
    """Return the words of `text`, case folded and separated by single spaces.

    Punctuation, brackets and control characters are removed; symbols (+, £) are kept.
    """
    return " ".join(folded_words(text))


def folded_words(text: str) -> list[str]:
    """Return the words of `fold(text)`."""
    return _spaced(unicodedata.normalize("NFKC", text).casefold()).split()


def _spaced(text: str) -> str:
    """Return `text` with a space for each punctuation mark, bracket and control character (see `_Marks`)."""
    # str.translate is slow: it looks up each character in the table
    tidy = text.encode("utf-8", "surrogatepass").translate(_ASCII_MARKS).decode("utf-8", "surrogatepass")
    return tidy if tidy.isascii() else _OTHER_SIGN.sub(lambda sign: _MARKS[ord(sign[0])], tidy)


class Wording:
    """The words of a text in order, case folded; a block of code or a table counts as one word.

    Two wordings with equal words have the same meaning.
    """

    def __init__(self, pieces: Sequence[tuple[str, bool]], text: str) -> None:
        """Take the pieces of a text, each with whether it is prose (without marks) or a block; `text` is all of it."""
        self._pieces, self._text = pieces, text
        words = [piece.casefold().split() if is_prose else [piece] for piece, is_prose in pieces]
        self.words = tuple(words[0] if len(words) == 1 else chain(*words))

    @cached_property
    def _written(self) -> list[str]:
        """The words in their case; "" for a block."""
        return [word for piece, is_prose in self._pieces for word in (piece.split() if is_prose else [""])]

    @cached_property
    def _shouted(self) -> bool:
        """Whether the text is all capitals, so that they mark no names."""
        return self._text == self._text.upper()

    @property
    def names(self) -> tuple[bool, ...]:
        """Whether each word is written like a name (with a capital letter), or is code."""
        return tuple(map(self.is_name, range(len(self.words))))

    def is_name(self, index: int) -> bool:
        """Return whether the word with this index is written like a name, or is code."""
        word = self._written[index]
        return not word or (_has_capital(word) and not self._shouted)


def _has_capital(word: str) -> bool:
    return word != word.lower() if word.isascii() else any(map(str.isupper, word))


def wording(text: str | Layout) -> Wording:
    """Return the wording of `text`."""
    layout = Layout.of(text)
    pieces: list[tuple[str, bool]] = []
    for kind, said in layout.parts:
        if kind != "prose":
            pieces.append((said.strip("\n"), False))
        elif "`" not in said:
            pieces.append((_without_marks(said, layout.signs if said == layout.text else ALL), True))
        else:
            parts = enumerate(_QUOTED_CODE.split(said))
            pieces += [(piece, False) if index % 2 else (_without_marks(piece, ALL), True) for index, piece in parts]
    return Wording(pieces, layout.text)


_QUOTED_CODE = re.compile(r"(`[^`\n]{1,200}`)")


# Marks that change the meaning

_POWER = re.compile("[\u00b2\u00b3\u00b9\u2070-\u207f]+")
_SINGLE, _DOUBLE = "\u2018\u2019\u201a\u201b\u02bc\u00b4", "\u201c\u201d\u201e\u201f\u00ab\u00bb"
_SELECTORS = "\ufe0e\ufe0f\u200e\u200f\u061c"  # how an emoji is drawn, the direction of a line
_TYPED_ALIKE = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\u301c", "-"),
        **dict.fromkeys(_SINGLE, "'"),
        **dict.fromkeys(_DOUBLE, '"'),
        **dict.fromkeys(_SELECTORS, ""),
    }
)
_QUOTED = re.compile(r"""(?<!\w)(["'])((?:(?!\1)[^\n]){0,200})\1(?!\w)""")
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])'(?=[^\W\d_])")
_FORMULA = re.compile(
    r"""(?x) [\d)\]]\s*[-+*/^=<>×÷·%]\s*[\d(\[a-z] | \b[a-z]\s?[-+*/^=<>×÷·]=?\s?[\w(]  # 2*(3, x = y
      | \w[(\[{]\S | [\[(]\s*-?\d[\d.]*\s*[,;]                                           # f(x), [0, 1)"""
)
_COUNTS = r"""
    [-!:?.]{0,3}[<>=+|~^&*/%\\$@\#](?:[-!:.<>=+|~^&*/%\\$@\#?]{0,5}[-<>=+|~^&*/%\\$@\#])?  # operators: !=, ->, :=
  | (?<![\w)\]]) -{1,3} (?=[\w.(√∞$£€]) | (?<=\w) - (?=[\s.,;:!?)]|$) | (?<=\w) --   # -3, -x, --force; A-, i--
  | (?:(?<=[\d)]\s)|(?<=\b\w\s)) - (?=\s(?:[\d(]|\w\b))                            # 5 - 3, x - y
  | (?<=\d) [-.,:\u066b\u066c]{1,3} (?=\d) | (?<![\w.)\]]) \. (?=\w)               # 3-5, 3.5, 10:30; .5, .env
  | (?<=[\[\d:]) : (?=[\d:\]]) | (?<=\w) :: (?=\w)                                 # [1::2], std::sort
  | (?<![\w!?.]) ! (?=[\w(]) | (?<=[\d)]) ! (?=\s{0,2}[^\s!.])                      # !x, 5! = 120
  | (?<=\W) \u200d | [_\u00b7\u2030-\u2033\u066a] | [\U000e0020-\U000e007f]        # joined emoji, my_list, ‰, 5′, regional flags
"""  # noqa: E501
_KEPT = re.compile(f"(?x){_COUNTS}")
_KEPT_IN_FORMULA = re.compile(rf"(?x){_COUNTS}|[()\[\]{{}}]")
# First characters of all that `_COUNTS` matches: searching for one of them is much faster than trying
# the pattern everywhere.
_BEGINS = r"-!:?.,<>=+|~^&*/%\\$@\#_\u066a-\u066c\u00b7\u200d\u2030-\u2033\U000e0020-\U000e007f"
# Excludes marks that end a sentence or a part of one.
_ENDS_PART = r"(?!(?<=[.,?:])(?:\s|\Z))"
_BEGINS_KEPT = re.compile(f"[{_BEGINS}]{_ENDS_PART}")
_BEGINS_KEPT_IN_FORMULA = re.compile(rf"[{_BEGINS}()\[\]{{}}]{_ENDS_PART}")
# What every formula contains: an operator after an operand, a bracket after a name or before a number.
_IN_FORMULA = re.compile(
    r"""(?x) [-+*/^=<>×÷·%(\[{] (?: (?<=[\d)\]\s][-+*/^=<>×÷·%]) | (?<=\b[a-z][-+*/^=<>×÷·%])
      | (?<=\w[(\[{]) | (?<=[(\[]) (?=\s*-?\d) )"""
)
_BEGINS_UNIT = re.compile(r"\d\s?[mMpPkKgGtTbB]")
# Units after a number, whose case matters: mW and MW, Mb and MB, 5 M and 5 m.
_UNIT = re.compile(
    r"(?<=\d)(\s?)((?:[mMpPkKgGtT](?:W|V|A|Hz|g|J|N|Pa|eV|Wh|i?[bB](?:ps)?)?|[bB])(?:/s)?)(?![\w.'])",
)


def _without_marks(text: str, signs: int) -> str:
    """Return the words of prose, separated by spaces, without punctuation that does not change the meaning.

    `signs` are those of the text (`text_signs.py`).
    """
    if not text.isascii():
        signs = ALL  # NFKC may add any of them
        text = _POWER.sub(lambda match: "^" + match[0], text)  # NFKC would make 10² into 102
        text = unicodedata.normalize("NFKC", text.translate(_TYPED_ALIKE))
    if "'" in text:
        text = _APOSTROPHE.sub("", text)
    if signs & QUOTED and ("'" in text or '"' in text):
        text = _QUOTED.sub(r" \2 ", text)
        # a quotation mark that closes nothing means feet or inches
        text = re.sub(r"(?<=\d)\s?'", "\u2032", re.sub(r'(?<=\d)\s?"', "\u2033", text))
    if signs & (QUOTED | UNIT):
        signs = ALL  # what is replaced may add any of them
    if signs & UNIT and _BEGINS_UNIT.search(text):
        text = _UNIT.sub(lambda match: match[1] + re.sub(r"([A-Z])", "⇧\\1", match[2]), text)
    if not signs & (FORMULA | KEPT):
        return _spaced(text)
    in_formula = _IN_FORMULA.search(text) and _FORMULA.search(text)
    pieces, end = [], 0
    for match in _found(*(_KEPT_IN_FORMULA, _BEGINS_KEPT_IN_FORMULA) if in_formula else (_KEPT, _BEGINS_KEPT), text):
        pieces += [_spaced(text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*pieces, _spaced(text[end:])])


def _found(wanted: re.Pattern[str], begins: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Yield the matches of `wanted` in `text`.

    `begins` matches the first character of each of them, and is much faster to search for.
    """
    end = 0
    for sign in begins.finditer(text):
        if sign.start() >= end and (match := wanted.match(text, sign.start())):
            yield match
            end = match.end()


class _Marks(dict[int, str]):
    """A table for str.translate that is filled on demand.

    Punctuation, brackets and control characters become spaces; symbols (+, £) stay.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        is_mark = unicodedata.category(character)[0] in "PZC" and character not in _MEANINGFUL
        self[code] = " " if is_mark else character
        return self[code]


_MEANINGFUL = frozenset("%#&@*/\\§")  # punctuation that changes the meaning: 5%, C#, R&D
_MARKS = _Marks()
_ASCII_MARKS = bytes(ord(_MARKS[code]) if code < 128 else code for code in range(256))  # leaves parts of others
_OTHER_SIGN = re.compile(r"[^\x00-\x7f\w]")  # no letter or digit beyond ASCII is a mark


# Typing errors

LEAST_MISTYPED = 5  # letters of a word that can be recognised despite a wrong letter
_TYPO = re.compile(rf"[^\W\d_]{{{LEAST_MISTYPED},}}")
_VOWELS = frozenset("aeiouyαεηιουωаеёиоуыэюяіїєў")


def may_be_mistyped(word: str) -> bool:
    """Return whether a word with one wrong letter can still be recognised as the same word.

    This is so for words of at least five letters in an alphabet up to U+052F (Latin, Greek, Cyrillic).
    In other scripts a single character may be a word.
    """
    if word.isascii():
        return len(word) >= LEAST_MISTYPED and word.isalpha()
    return bool(_TYPO.fullmatch(word)) and max(word) < "\u0530"


def same_wording(one: Wording, other: Wording) -> bool:
    """Return whether two wordings differ at most by typing errors.

    Names, which are capitalised, must be equal. The first word of a sentence is always capitalised: if
    two first words differ, this counts as a typing error if one of them often begins a question, or if
    two letters are swapped.
    """
    if len(one.words) != len(other.words):
        return False
    pairs = zip(one.words, other.words, one.names, other.names, strict=True)
    return all(
        first == second
        or (_slip(first, second) and (not (named or named_too) or (index == 0 and _no_name(first, second))))
        for index, (first, second, named, named_too) in enumerate(pairs)
    )


# Words of at least five letters, as only in those typing errors are allowed.
_BEGIN_QUESTIONS = """
    where which whose could would should might shall there these those please about under after until since every
    welche welcher welches wessen warum woher wohin wieso könnte könnten können sollte sollten müssen dürfen bitte
    quelle quels quelles comment pourquoi combien quand pouvez cuándo cuando cuánto cuanto cuántos cuáles dónde donde quién puedo puede
    podría quanto quando quale perché сколько когда почему зачем какой какая какие можно
"""  # noqa: E501
_OPENERS = frozenset(_BEGIN_QUESTIONS.split())


def _no_name(one: str, other: str) -> bool:
    return one in _OPENERS or other in _OPENERS or sorted(one) == sorted(other)


def _slip(one: str, other: str) -> bool:
    """Return whether two words differ by one letter: missing, extra, wrong, or swapped with the next one.

    A different vowel at the end is an inflection, not a typing error.
    """
    if (
        not (may_be_mistyped(one) and may_be_mistyped(other))
        or one[0] != other[0]
        or OSA.distance(one, other, score_cutoff=1) > 1
    ):
        return False
    return not (_inflected(one, other) or _inflected(one.removesuffix("s"), other.removesuffix("s")))


def _inflected(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    if one == other or longer == shorter + shorter[-1] or longer[:-1] != shorter[: len(longer) - 1]:
        return False
    ends = [unicodedata.normalize("NFD", word[-1])[0] for word in (longer, shorter)]
    if len(one) != len(other):
        return ends[0] in _VOWELS
    return _VOWELS.issuperset(ends) or {*ends} == {"h", "y"}  # -o and -a; fifth and fifty


# What is asked

_POLITE_WORDS = (
    "the a an please kindly hi hello hey thanks bitte danke hallo merci bonjour gracias hola пожалуйста привет"
)
_POLITE = frozenset(_POLITE_WORDS.split())
# "what's" is read as "whats", and so on
_SHORT = {f"{word}s": (word, "is") for word in ("what", "who", "where", "when", "how", "why", "that", "there")}
_LEAST_SLIP = 6  # least letters of a word: shorter ones often differ from another word by one letter


def gist(said: Wording) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Return the words of a question without articles and polite words, and for each whether it is a name.

    Words that are written with a capital letter count as names, except the first.
    """
    kept = _without_polite(said)
    if not kept:
        return said.words, said.names
    names = [each for index in kept for each in (_is_name(said, index), False)[: len(_parts(said.words[index]))]]
    return topic(said), tuple(names)


def topic(said: Wording) -> tuple[str, ...]:
    """Return the words of a question without articles and polite words."""
    words = [said.words[index] for index in _without_polite(said)]
    if _SHORT.keys().isdisjoint(words):
        return tuple(words) or said.words
    return tuple(part for word in words for part in _parts(word))


def _without_polite(said: Wording) -> list[int]:
    """Return the indices of the words that are not polite words; a name is none."""
    return [index for index, word in enumerate(said.words) if word not in _POLITE or _is_name(said, index)]


def _is_name(said: Wording, index: int) -> bool:
    return index > 0 and said.is_name(index)  # the first word is capitalised as the beginning of the sentence


def _parts(word: str) -> tuple[str, ...]:
    return _SHORT.get(word, (word,))


def same_gist(words: Sequence[str], names: Sequence[bool], others: Sequence[str], other_names: Sequence[bool]) -> bool:
    """Return whether two questions have the same words, ignoring typing errors in long words.

    Such an error is one letter that is missing, extra, or swapped with the next one. `names` and
    `other_names` mark the words that are names, which must be equal. A wrong letter counts as a
    difference: the answers differ here, so "charge" and "change" must stay two questions.
    """
    if len(words) != len(others):
        return False
    pairs = zip(words, others, names, other_names, strict=True)
    return all(
        one == other or (not (named or named_too) and _misprint(one, other)) for one, other, named, named_too in pairs
    )


def _misprint(one: str, other: str) -> bool:
    if min(len(one), len(other)) < _LEAST_SLIP or not _slip(one, other):
        return False
    return len(one) != len(other) or sorted(one) == sorted(other)
