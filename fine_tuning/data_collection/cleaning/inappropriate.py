"""Recognise words that a model should not learn to say.

The list is short on purpose: it contains words that are obscene, or a slur, in nearly every use.
Maintained libraries were tried on texts about Scunthorpe, butt joints, sex education, tit for tat,
Moby Dick and fire retardants: each of them flags some of these texts, up to half. Texts that the
list misses can be excluded by hand.

Some of the words are ordinary words of another language, or names. They count only in a text of the
language in which they are obscene, and not in a text that is too short to tell its language. A
masked word ("f**k") counts in a sentence of words, but not in code or in a formula.
"""

import re
from collections import Counter
from functools import cache

from fine_tuning.data_collection.cleaning.plain_text import Layout
from fine_tuning.data_collection.cleaning.text_signs import OBSCENE

_ANYWHERE = "fuck cocksuck dickhead bullshit asshole arsehole faggot hurensohn arschloch vaffanculo"
_WHOLE = """
    shit shits shitty shitting shithead shithole shitshow horseshit cunt cunts bitch bitches wanker wankers whore whores slutty
    twat twats douchebag blowjob blowjobs gangbang cumshot nigger niggers nigga niggas wetback raghead towelhead gook gooks
    ficken fotze fotzen hurensöhne wichser schlampe schlampen missgeburt
    connard connards connasse enculé enculés salope salopes gilipollas maricón pendejo pendejos coño
    caralho viado stronzo stronza stronzi coglione coglioni kurwa spierdalaj skurwysyn блядь пизда пиздец ебать
"""  # noqa: E501
# For each word the languages in which it is obscene, and those in which it is an ordinary word
# ("end", "got", "times", "foam", "sheath").
_SHARED = {
    "slut": ({"en"}, {"sv", "da"}),
    "sluts": ({"en"}, {"sv", "da"}),
    "fick": ({"de"}, {"sv"}),
    "puta": ({"es", "pt"}, {"hr", "lv"}),
    "putas": ({"es", "pt"}, {"lv"}),
    "хуй": ({"ru"}, {"mn"}),
}
_SHARED_WORD = re.compile(rf"(?i)(?<![^\W_])(?:{'|'.join(_SHARED)})(?![^\W_])")
_SHARED_STEMS = ("slut", "fick", "puta", "хуй")
STEMS = (*_ANYWHERE.split(), *_WHOLE.split(), *_SHARED_STEMS)  # of which one is in each text with a word of the lists
_SURELY = re.compile(
    r"(?i)\b(?:(?:you|dirty|stupid|little|fat|such a|what a|like a|is a|called me a|fucking) sluts?|fick "
    r"(?:dich|euch|mich|deine?)"
    r"|hij[oa]s? de (?:la gran )?puta|puta madre|puta que|filh[oa]s? da puta|(?:на|иди|пошел|пошёл) хуй)\b"
)
# Frequent words of each language, and its name in some languages: enough to recognise a text's language.
_FREQUENT = {
    "en": "the a an is are was were and of to in that it you i my your she he they this not do what with for at",
    "de": "der die das und ist nicht ein eine ich du er wir mit auf für den von zu dem sich mal dich dir mich was wie",
    "sv": "och är att det som en ett jag inte på av för med han hon den till har om vi du var när men kan svenska "
    "swedish schwedisch sueco",
    "da": "og er at det som en et jeg ikke på af for med han hun den til har om vi du var når men kan dansk danish "
    "dänisch",
    "es": "de la el que y en un una es los no con por las se eres tu su mi me lo para como",
    "pt": "de a o que e em um uma é os não com por as se você tu seu meu para como do da",
    "hr": "je i u se na da sam si nije što za su od li ne dva tri četiri nekoliko više ovog puno bila bilo",
    "lv": "un ir no ar uz kas par ka es tu viņš viņa pie balts baltas virs",
    "ru": "и в не на что я он она это с как ты а по но мы вы у",
    "mn": "нь юм бол байна байсан энэ тэр гэж болон салхи",
}
_LANGUAGES = {
    word: [language for language, frequent in _FREQUENT.items() if word in frequent.split()]
    for words in _FREQUENT.values()
    for word in words.split()
}

_MASKED = re.compile(
    r"(?<![\w*])(?:f\*{1,2}(?:c?k(?:ing|er|ed|s)?)|f\*ck\w{0,3}|sh\*ts?|sh\*tty|s\*\*t|c\*nts?|c\*\*t|b\*tch(?:es)?|a\*\*hole)(?![\w*])"
)
_BESIDE = re.compile(r"[^\W\d_]{2,}|\b[aioy]\b")
_OPERATOR = re.compile(r"[=+/^%<>|&~\[\](){}\d]|\*\*|\\|_")
_VARIABLE = re.compile(r"(?<![\w'’])[b-hj-nqs-z](?![\w'’])")
_WORDS_OF_CODE = (
    "return print lambda yield assert value values power exponent compute computes calculate calculates python "
    "formula expression variable"
    " multiply product operator equals plus minus times sum let given term result results where evaluates raised code"
)
_OF_CODE = frozenset(_WORDS_OF_CODE.split())

LEET = str.maketrans("@$013457", "asoieast")
_OF_LEET = re.compile(f"[{''.join(map(chr, LEET))}]")
_REPEATED = re.compile(r"(.)\1+")
_AGAIN = re.compile(r"(.)(?=\1)")
_WORD = re.compile(r"[^\W_]+")
_ASCII_SPACES = {code: " " for code in range(128) if not chr(code).isalnum()}
_SPELLED = re.compile(r"\b(?:\w[ ._-]){2,}\w\b")
_OF_SPELLED = re.compile(r"[ ._-]\w[ ._-]\w\b")
_SENTENCE = re.compile(r"[^.!?\n\"“”„«»()]+")


def is_inappropriate(text: str | Layout) -> bool:
    """Return whether `text` contains a word of the list, also if written as "sh1t", "fuuuck" or "f u c k"."""
    layout = Layout.of(text)
    if not layout.signs & OBSCENE:
        return False
    text = layout.text
    plain = text.casefold()
    if _OF_LEET.search(plain):
        plain = plain.translate(LEET)
    found = _SPELLED.findall(plain) if _OF_SPELLED.search(plain) else ()
    spelled = [re.sub(r"[ ._-]", "", match) for match in found]
    if _holds(plain) or any(map(_holds, spelled)):
        return True
    if any(map(plain.__contains__, _SHARED_STEMS)) and (_SURELY.search(text) or _holds_shared(text)):
        return True
    return "*" in text and _holds_masked(layout)


def _holds(text: str) -> bool:
    """Return whether a text contains a word of `_ANYWHERE` or `_WHOLE`, even with repeated letters ("fuuuck").

    A quick search first reduces every run of a letter to one. Then letters that are double in the
    listed word must be double in the text too: Niger is a country.
    """
    short = _once(text)
    anywhere, whole = _shortened(_ANYWHERE), _shortened(_WHOLE)
    suspects = [*filter(short.__contains__, anywhere), *whole.keys() & _words(short)]
    return bool(suspects) and any(
        _pattern(word).search(_REPEATED.sub(r"\1\1", text))
        for once in suspects
        for word in (*anywhere.get(once, ()), *whole.get(once, ()))
    )


def _holds_shared(text: str) -> bool:
    """Return whether a text contains a word of `_SHARED`, in a language in which the word is obscene.

    The language of the sentence counts; if it is unknown, the language of the whole text.
    """
    whole = _languages(text)
    for sentence in _SENTENCE.findall(text):
        if words := {match[0].casefold() for match in _SHARED_WORD.finditer(sentence) if not _is_name(match)}:
            languages = _languages(sentence) or whole
            if any(
                languages & obscene and not languages & ordinary
                for obscene, ordinary in map(_SHARED.__getitem__, words)
            ):
                return True
    return False


def _is_name(match: re.Match[str]) -> bool:
    """Return whether a match is a name, as in "Adolf Fick": "Fick" with a capital letter within a sentence.

    German also capitalises nouns, but no noun is among the shared words.
    """
    return match[0] == "Fick" and bool(match.string[: match.start()].strip())


def _languages(text: str) -> frozenset[str]:
    """Return the languages to which most of the frequent words in `text` belong.

    There is more than one for a tie, and none if `text` has no such words.
    """
    counts: Counter[str] = Counter()
    for word in _WORD.findall(text.casefold()):
        counts.update(_LANGUAGES.get(word, ()))
    return frozenset(language for language, count in counts.items() if count == max(counts.values()))


def _holds_masked(layout: Layout) -> bool:
    """Return whether a masked word ("f**k") is in a sentence of words: not in code, and not beside a formula."""
    for part in layout.parts:
        if part.kind == "code":
            continue
        for sentence in _SENTENCE.findall(re.sub(r"`[^`\n]*`", "`", part.text.casefold())):
            rest, count = _MASKED.subn(" ", sentence)
            words = _BESIDE.findall(rest)
            formula = _OPERATOR.search(rest) or _VARIABLE.search(rest) or _OF_CODE.intersection(words)
            if count and words and not formula:
                return True
    return False


def _words(text: str) -> list[str]:
    """Return the runs of letters and digits in a text."""
    return text.translate(_ASCII_SPACES).split() if text.isascii() else _WORD.findall(text)


def _once(text: str) -> str:
    return _AGAIN.sub("", text)


@cache
def _shortened(words: str) -> dict[str, list[str]]:
    """Return the words by their shortened form, in which a letter never follows itself ("hello": "helo")."""
    found: dict[str, list[str]] = {}
    for word in words.split():
        found.setdefault(_once(word), []).append(word)
    return found


@cache
def _pattern(word: str) -> re.Pattern[str]:
    letters = re.sub(r"(.)\1|(.)", lambda match: re.escape(match[0]) + ("" if match[1] else "{1,2}"), word)
    return re.compile(letters if word in _ANYWHERE.split() else rf"(?<![^\W_]){letters}(?![^\W_])")
