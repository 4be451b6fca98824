"""Words that no model of ours should learn to say.

A short list on purpose: words that are obscene, or a slur, in nearly every use. Kept libraries were tried on texts about Scunthorpe,
butt joints, sex education, tit for tat, Moby Dick and fire retardants: each takes some of them for filth, up to half. What a list cannot
know, people exclude.
"""

import re
from functools import cache

_ANYWHERE = "fuck cocksuck dickhead bullshit asshole arsehole faggot hurensohn arschloch vaffanculo"
_WHOLE = """
    shit shits shitty shitting shithead shithole shitshow horseshit cunt cunts bitch bitches wanker wankers whore whores slut sluts slutty
    twat twats douchebag blowjob blowjobs gangbang cumshot nigger niggers nigga niggas wetback raghead towelhead gook gooks
    fick ficken fotze fotzen hurensöhne wichser schlampe schlampen missgeburt
    connard connards connasse enculé enculés salope salopes puta putas gilipollas maricón pendejo pendejos coño
    caralho viado stronzo stronza stronzi coglione coglioni kurwa spierdalaj skurwysyn блядь хуй пизда пиздец ебать
    f*ck f**k f**king sh*t s**t c*nt c**t b*tch
"""

_LEET = str.maketrans("@$013457", "asoieast")
_REPEATED = re.compile(r"(.)\1+")
_WORD = re.compile(r"(?:[^\W_]|\*)+")
_SPELLED = re.compile(r"\b(?:\w[ ._-]){2,}\w\b")


def is_inappropriate(text: str) -> bool:
    """Whether a word of the list is in `text`, also as "sh1t", "fuuuck" or "f u c k"."""
    plain = text.casefold().translate(_LEET)
    spelled = [re.sub(r"[ ._-]", "", match) for match in _SPELLED.findall(plain)]
    return _holds(plain) or any(map(_holds, spelled))


def _holds(text: str) -> bool:
    """First with every letter once, which is quick; then those that are double in the word must be so in the text: Niger is a country."""
    short = _once(text)
    suspects = [word for once, word in _shortened(_ANYWHERE) if once in short]
    suspects += [word for once, word in _shortened(_WHOLE) if once in short and once in _WORD.findall(short)]
    return any(_pattern(word).search(_REPEATED.sub(r"\1\1", text)) for word in suspects)


def _once(text: str) -> str:
    return _REPEATED.sub(r"\1", text)


@cache
def _shortened(words: str) -> list[tuple[str, str]]:
    return [(_once(word), word) for word in words.split()]


@cache
def _pattern(word: str) -> re.Pattern[str]:
    letters = re.sub(r"(.)\1|(.)", lambda match: re.escape(match[0]) + ("" if match[1] or match[2] == "*" else "{1,2}"), word)
    return re.compile(letters if word in _ANYWHERE.split() else rf"(?<![^\W_]){letters}(?![^\W_])")
