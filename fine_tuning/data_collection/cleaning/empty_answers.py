"""Recognise answers that teach nothing: a model talking about itself, mere politeness, random keystrokes.

Each rule finds only clear cases. It does not find a company's own "We are sorry, but we cannot
refund that", or a sentence about an AI engineer.
"""

import re

from fine_tuning.data_collection.cleaning.plain_text import Layout, small_letters
from fine_tuning.data_collection.cleaning.text_signs import GIBBERISH, REFUSAL

_BEGINNING = 240  # characters at the beginning of an answer in which a refusal is looked for

_OF_ITSELF = (
    r"(?:an?\ )?(?:AI|artificial\ intelligence|(?:large\ )?language\ model)(?:\ (?:language\ "
    r")?(?:model|assistant|chatbot))?"
)
_BARE_REFUSAL = re.compile(
    r"""
      (?:I(?:'m|’m|\ am)\ sorry,?\ (?:but\ )?)?I\ (?:can(?:no|'|’)t|am\ unable\ to|am\ not\ able\ to)\ (?:assist|help|comply|continue)
      (?:\ you)?(?:\ with\ (?:that|this|your)(?:\ request|\ question)?)?[.!]?\s*$
    """,  # noqa: E501
    re.VERBOSE | re.IGNORECASE,
)
_TALK_OF_ITSELF = re.compile(
    rf"""
      \bas\ {_OF_ITSELF},?\ (?:developed\ by\ \w+,?\ )?I\b
    | \bI(?:'m|’m|\ am)\ (?:just\ |only\ |sorry,?\ but\ )?{_OF_ITSELF}(?:,|\.|\ and\b|\ without\b)
    | \bals\ (?:eine?\ )?(?:KI|künstliche\ Intelligenz|(?:KI-)?Sprachmodell)(?:-\w+)?,?\ (?:kann|habe|bin)\ ich\b
    | \bich\ bin\ (?:nur\ |lediglich\ )?(?:eine\ KI|ein(?:\ großes)?\ (?:KI-)?Sprachmodell)\b
    | \ben\ tant\ qu(?:e|['’])\ ?(?:modèle\ de\ langage|IA|intelligence\ artificielle|assistant\ (?:IA|virtuel)),?\ je\b
    | \bcomo\ (?:una?\ |uma?\ )?(?:modelo\ de\ (?:lenguaje|linguagem)|IA|intelig[eê]ncia\ artificial),?\ (?:no|não|eu)\b
    | \b(?:come|in\ quanto)\ (?:modello\ linguistico|IA|intelligenza\ artificiale),?\ (?:non|io)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
# Every match of `_TALK_OF_ITSELF` contains one of these texts in lower case: an answer without any of
# them need not be searched.
SIGNS_OF_ITSELF = (
    " ai",
    "artificial",
    "language model",
    " ki",
    "künstliche intelligenz",
    "sprachmodell",
    "en tant qu",
    "modelo de l",
    " ia",
    "modello linguistico",
)
_POLITE = re.compile(
    r"""
      (?:hello|hi|hey|greetings|good\ (?:morning|day|evening))(?:\ there)?
    | sure(?:\ thing)? | of\ course | certainly | okay | ok | great | thanks?(?:\ you)? | you(?:'|’)?re\ welcome | no\ problem
    | my\ pleasure | happy\ to\ help | hallo | guten\ (?:morgen|tag|abend) | gern(?:e)?(?:\ geschehen)? | bonjour | hola
    | (?:how|what)\ (?:can|may)\ I\ (?:help|assist|do\ for)\ (?:you)?(?:\ with)?(?:\ today)? | I(?:'m|’m|\ am)\ here\ to\ help
    | is\ there\ anything\ else\ I\ can\ (?:help|assist)\ you\ with(?:\ today)?
    | let\ me\ know\ if\ you\ (?:need|have)\ (?:anything|any\ (?:other\ )?questions)(?:\ else)?
    | wie\ kann\ ich\ (?:dir|Ihnen|euch)?\ ?(?:heute\ )?(?:helfen|weiterhelfen) | en\ quoi\ puis-je\ vous\ aider
    | ¿?en\ qué\ puedo\ ayudarte
    """,  # noqa: E501
    re.VERBOSE | re.IGNORECASE,
)
_BETWEEN = re.compile(r"[\s.!?,;:¡¿()’'\"-]+")
_WORD = re.compile(r"[^\W\d_]{4,}")
_LATIN = re.compile(r"[a-zß-öø-ÿ]+")
_VOWELS = frozenset("aeiouywàáâãäåæèéêëìíîïòóôõöøœùúûüýÿ")
_LEAST_VOWELS = 0.15  # of the letters of a word
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "yxcvbnm")
_RUN = 4  # neighbouring keys in a row; words rarely have as many ("property" has three)
RUNS = frozenset(way[at : at + _RUN] for row in _ROWS for way in (row, row[::-1]) for at in range(len(row) - _RUN + 1))
# Each run of `RUNS` contains one of these, or the reverse of one.
_OF_RUNS = ["qwe", "wert", "rty", "yui", "uiop", "rtz", "zui", "sdf", "fgh", "hjk", "xcv", "vbn"]
_SIGNS_OF_RUNS = (*_OF_RUNS, *(part[::-1] for part in _OF_RUNS))
# A word with hardly any vowels has four consonants in a row, or three on both sides of a vowel.
CONSONANT, VOWEL = "[bcdfghjklmnpqrstvxzßçðñþ]", f"[{''.join(sorted(_VOWELS))}]"
_HARDLY_VOWELS = re.compile(f"{CONSONANT}{{3}}(?:{CONSONANT}|{VOWEL}{CONSONANT}{{3}})")


def refuses(text: str | Layout) -> bool:
    """Return whether an answer is a model talking about itself ("As an AI, I ..."), or only a refusal to help."""
    layout = Layout.of(text)
    if not layout.signs & REFUSAL:
        return False
    said = layout.text[:_BEGINNING]
    if _BARE_REFUSAL.match(said):
        return True
    small = small_letters(said)
    return any(map(small.__contains__, SIGNS_OF_ITSELF)) and _TALK_OF_ITSELF.search(said) is not None


def is_polite_only(text: str | Layout) -> bool:
    """Return whether an answer consists only of greetings, thanks and offers of help."""
    said = Layout.of(text).text
    return len(said) <= _BEGINNING and not _BETWEEN.sub("", _POLITE.sub("", said)) and bool(said.strip())


def is_gibberish(text: str | Layout) -> bool:
    """Return whether most words of the prose are random keystrokes.

    Only words in Latin letters that are not all capitals are judged.
    """
    layout = Layout.of(text)
    if not layout.signs & GIBBERISH:
        return False
    prose = " ".join([piece for is_prose, piece in layout.pieces if is_prose])
    small = prose.casefold()
    if len(_HARDLY_VOWELS.findall(small)) < 2 and not any(map(small.__contains__, _SIGNS_OF_RUNS)):
        return False  # a quick exit for nearly every text
    words = [word for word in _WORD.findall(prose) if not word.isupper()]
    mashed = [word for word in words if _is_mashed(word.casefold())]
    return len(mashed) >= 2 and 5 * len(mashed) >= 3 * len(words)


def _is_mashed(word: str) -> bool:
    if not _LATIN.fullmatch(word):
        return False
    vowels = sum(letter in _VOWELS for letter in word)
    if len(word) >= 5 and vowels < _LEAST_VOWELS * len(word):
        return True
    return any(word[at : at + _RUN] in RUNS for at in range(len(word) - _RUN + 1))
