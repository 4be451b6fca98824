"""Define patterns for the parts of an English sentence (times, amounts, places, names), and lists of verbs."""

import re
from functools import lru_cache

from fine_tuning.data_collection.documents.word_sets import words

BE = words("is are was were")
MODALS = words("may must can should will cannot could shall")
VERBS = words(  # infinitives; a sentence whose verbs are not in the lists gets no question
    """answer apply begin belong close collect come contain cost cover earn end expire gather get give go grant hang hold include join keep
    last lead leave lie lift look make match meet need offer open operate pay permit provide reach read receive remain repay replace
    report require rest return run sell serve show sit sleep stand start stay stop store take travel use visit walk wear weigh win work"""  # noqa: E501
)
STANDING = words("go gather hang lie meet sit stand")  # verbs with which "where" can be asked
RELATIVE = words("that which who whom whose where")
NO_SUBJECT = words(
    "it they this these those that there he she here such if when and or but so then please not what whoever whatever"
)
LEADS = words("on in at during for by with from under as to within until")
NOT_BEFORE_A_VERB = words("the a an every each your our of for to in on at and or with under")

_UNIT = r"(?:working |calendar )?(?:seconds?|minutes?|hours?|days?|nights?|weeks?|months?|years?)\b"
NUMBER = r"(?:\d[\d.,]*\d|\d|one|two|three|four|five|six|seven|eight|nine|ten|twelve)"
BOUND = r"(?:up to|at most|at least|no more than|not more than|more than|less than|only|about) "
_DAY = r"(?:mon|tues|wednes|thurs|fri|satur|sun)days?"
_MONTH = r"(?:january|february|march|april|may|june|july|august|september|october|november|december)\b"
_TIDE = r"(?:morning|evening|night|weekend|quarter|spring|summer|autumn|winter)\b"
_MOMENT = (
    rf"(?:\d{{1,2}}[:.]\d\d|\d{{1,2}} "
    rf"?[ap]\.?m\b|noon|midnight|{_DAY}|\d{{1,2}}(?:st|nd|rd|th)|\d{{1,2}} {_MONTH}|{_MONTH})"
)
_NTH = rf"(?:{NUMBER}|second|third|fourth|few|other)"
_ORDER = r"(?:(?:the|every|each|first|second|third|fourth|last|early|late|end of) )*"
_MONEY = r"(?:[£$€]\s?\d[\d.,]*\d|[£$€]\d|\d[\d.,]* (?:euros?|pounds?|pence|dollars?|cents?))"

TIMES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (asks, re.compile(rf"(?:^|\s)(?P<tail>(?:{pattern}).*)", re.IGNORECASE))
    for asks, pattern in (
        (
            "how often",
            rf"(?:once|twice) (?:a|per) (?:day|week|month|year)|(?:once )?every (?:{_NTH} "
            rf")?(?:{_UNIT}|{_DAY}|{_MONTH}|{_TIDE})",
        ),
        ("by when", rf"(?:by|before) {_ORDER}{_MOMENT}"),
        ("until when", rf"until {_ORDER}{_MOMENT}"),
        ("when", rf"(?:only )?(?:on|at|from|after|since|in) {_ORDER}{_MOMENT}"),
        ("within what time", rf"within {NUMBER} {_UNIT}"),
        ("after how long", rf"(?:only )?after {NUMBER} {_UNIT}"),
        ("how early", rf"(?:{BOUND})?{NUMBER} {_UNIT} (?:before|ahead|in advance|earlier)"),
        ("for how long", rf"for (?:{BOUND})?(?:(?:your|my|the) first )?{NUMBER} {_UNIT}"),
    )
)
"""Pairs of a question word for a time, and a pattern. Its group "tail" is the sentence's end, from the time on."""

_NO_COUNT = words(  # words before a number that is not an amount
    "after at bay bays by counter day every extension first for from hall in my next of on ramp room to with "
    "within your"
)
_BEHIND_A_COUNT = "".join(rf"(?<!\b{word})" for word in sorted(_NO_COUNT))
COUNT = re.compile(
    rf"(?:^|{_BEHIND_A_COUNT}\s)(?P<tail>(?:{BOUND})?{NUMBER} "
    r"(?P<unit>(?!(?:of|or|and|to|times|every)\b)(?:working |calendar )?[a-z]+(?: of (?:paid "
    r")?(?!(?:the|your|my|paid)\b)[a-z]+)?))"
    r"(?=[ ,]|$)(?! (?:before|ahead|in advance|earlier)\b)"
)
COUNTED_SUBJECT = re.compile(
    rf"(?P<tail>(?:{BOUND})?{NUMBER} (?P<unit>[a-z]+(?: of [a-z]+)?)) (?P<rest>(?:may|must|can|is|are)\b.+)",
    re.IGNORECASE,
)
AMOUNT = re.compile(rf"(?P<tail>(?:{BOUND})?{_MONEY})", re.IGNORECASE)
MEASURE = re.compile(
    rf"(?:{BOUND})?(?P<number>{NUMBER} {_UNIT}|{_MONEY}|\d\d?[:.]\d\d to \d\d?[:.]\d\d|(?:extension |room )?\d\S*%?)",
    re.IGNORECASE,
)
RATE = re.compile(
    r"(?:^|\s)(?P<tail>(?P<with>with|against|at) an? (?P<noun>[a-z]+) of [£$€]?\d[\d.,]*%?"
    r"(?: [a-z]*(?:metres?|meters?|grams?|litres?|liters?)\b)?)"
)
SHARE = re.compile(r"(?:^|\s)(?P<tail>an? \d[\d.,]*% (?P<noun>[a-z]+))")
PLACE = re.compile(
    r"(?:^|\s)(?P<tail>(?:only )?(?:in|on|at|behind|beside|next "
    r"to|under|into|through|inside|outside|opposite|between|near) "
    r"(?!.*\b(?:day|days|week|month|year|time)$)(?:(?:the|a|an|our|hall|ramp|bay|bays|room|building|gate|counter|floor)\b|[A-Z]).*)"
)
WHOM = re.compile(r"(?:^|\s)(?P<tail>(?:only )?by (?:the|our|your|a|an|people) .*)")
NAMED = re.compile(r"(?P<called>called|named) (?!(?:in|on|at|by|after|for)\b)(?P<name>.*)")
NAMED_KIND = re.compile(r"(?:^|\s)(?P<tail>(?:the|a|an) (?P<noun>[a-z]+) (?:called|named) (?P<name>.*))")
VAGUE = re.compile(  # subjects too vague to ask about
    r"(?:I|we|staff|people|the "
    rf"company|everyone|everybody)$|(?:every|each|any|anybody|anyone|no|one|{NUMBER}|{BOUND.strip()})\b"
    r"|.*\b(?:who|that|which)\b",
    re.IGNORECASE,
)
PARTICIPLE = ("ed", "en", "pt", "ld", "wn", "id", "wed")

_NUMERIC_END = re.compile(
    rf"[ ,]*\b(?:(?:of|for|within|after|by|at|from|with|before|every|to|{BOUND.strip()}) )*[£$€]?\d.*$", re.IGNORECASE
)
_LOOSE_END = re.compile(
    r"(?: (?:an?|the|of|with|for|to|by|at|up|from|day|counter|room|ramp|hall|bays?|longer|shorter|more|less|than|free of charge|first|my"  # noqa: E501
    r"|your))+$"
)
_KEY = re.compile(
    r"(?:(?:extension|day|bays?|ramp|counter|room) |[£$€]\s?)?\d(?:[\d.,:]*\d)?(?:st|nd|rd|th|[A-Z]\b)?"
    rf"(?: {_MONTH}| to \d[\d.,:]*\d| {_UNIT}|%)?|\b{NUMBER} {_UNIT}",
    re.IGNORECASE,
)
_LOOSE_KEY = re.compile(r"(?: (?:an?|the|and|or|of|with|for|to|by|at|in|into|on|from|it|is|are|be|your|my|each|one))+$")
_SHORT_LEAD = re.compile(
    rf"^(?:{BOUND}|only )*(?:(?:by|on|at|from|in|into|for|within|after|until) )?(?:the )?", re.IGNORECASE
)


def without_number(text: str) -> str:
    """Return the text before its first number, without the words that lead up to the number ("of", "within").

    Return the whole text if it contains no number in digits.
    """
    cut = _NUMERIC_END.sub("", text).strip(" ,")
    return text if cut == text else _LOOSE_END.sub("", cut)


def key_of(text: str, most: int = 4) -> str:
    """Return the essential part of a text: its first number with its unit, else its first words."""
    if number := _KEY.search(text):
        return number[0].strip(" .,:")
    return as_written(_LOOSE_KEY.sub("", " ".join(re.split(r"[,;.]", text)[0].split()[:most])))


def short_key(tail: str) -> str:
    """Return the essential part of a time, a place or a name: "your desk" for "at my desk before noon"."""
    if re.search(r"\d", tail):
        return key_of(tail)
    return as_written(
        " ".join(re.split(r"[,;]| and | with | before | when ", _SHORT_LEAD.sub("", tail))[0].split()[:5])
    )


def as_written(text: str) -> str:
    """Return a text with "my" replaced by "your", as the document has it.

    Answers quote the document, so the words that a correct answer must contain are in its form.
    """
    return re.sub(r"\bmy\b", "your", text)


def verb(word: str) -> tuple[str, str] | None:
    """Return the kind ("be", "modal" or "lexical") and the infinitive of a finite verb; None for any other word."""
    if word in BE:
        return "be", "be"
    if word in MODALS:
        return "modal", word
    return _lexical(word)


@lru_cache(maxsize=10_000)
def _lexical(word: str) -> tuple[str, str] | None:
    if word in VERBS:
        return "lexical", word
    for end, new in (("ies", "y"), ("es", ""), ("s", "")):
        if word.endswith(end) and (base := word.removesuffix(end) + new) in VERBS:
            return "lexical", base
    return None


def is_plural(word: str) -> bool:
    """Return whether a noun or pronoun is followed by the plain form of a verb ("you open", "they open")."""
    return word.lower() in ("you", "we", "i", "staff", "people", "police") or (
        word.endswith("s") and not word.endswith("ss")
    )
