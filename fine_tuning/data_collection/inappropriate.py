"""Words that no model of ours should learn to say.

A short list on purpose: words that are obscene, or a slur, in nearly every use. Kept libraries were tried on texts about Scunthorpe, butt joints,
sex education, tit for tat, Moby Dick and fire retardants: each takes some of them for filth, up to half. What a list cannot know, people exclude.
"""

import re
from functools import cache

_ANYWHERE = "fuck motherfuck cocksuck dickhead bullshit asshole arsehole nigger faggot hurensohn arschloch vaffanculo"
_WHOLE = """
    shit shits shitty shitting shithead shithole shitshow horseshit cunt cunts bitch bitches wanker wankers whore whores slut sluts slutty
    twat twats douchebag blowjob blowjobs gangbang cumshot nigga niggas wetback raghead towelhead gook gooks
    fick ficken fotze fotzen hurensöhne wichser schlampe schlampen missgeburt
    connard connards connasse enculé enculés salope salopes hijo~de~puta puta putas gilipollas maricón pendejo pendejos coño
    caralho filho~da~puta viado stronzo stronza stronzi coglione coglioni kurwa spierdalaj skurwysyn блядь хуй пизда пиздец ебать
"""
_CENSORED = r"f\*ck|f\*\*k|sh\*t|s\*\*t|c\*nt|c\*\*t|b\*tch"  # but not f*k: that is a product

_LEET = str.maketrans("@$013457", "asoieast")
_STRETCHED = re.compile(r"(.)\1{2,}")
_SPELLED = re.compile(r"(?<![^\W_])(?:[^\W_][ ._-]){2,}[^\W_](?![^\W_])")


def is_inappropriate(text: str) -> bool:
    """Whether a word of the list is in `text`, also as "sh1t", "fuuuck" or "f u c k"."""
    plain = _STRETCHED.sub(r"\1\1", text.casefold().translate(_LEET))
    spelled = " ".join(re.sub(r"[ ._-]", "", match) for match in _SPELLED.findall(plain))
    return bool(_pattern().search(f"{plain} {spelled}"))


@cache
def _pattern() -> re.Pattern[str]:
    anywhere = "|".join(map(_letters, _ANYWHERE.split()))
    whole = "|".join(map(_letters, _WHOLE.split()))
    return re.compile(rf"{anywhere}|(?<![^\W_])(?:{whole}|{_CENSORED})(?![^\W_])")


def _letters(word: str) -> str:
    """Each letter once or twice; where it is double in the word it must be: Niger is a country."""
    return re.sub(r"(\w)\1|(\w)", lambda match: match[0] if match[1] else match[0] + "{1,2}", word).replace("~", " ")
