"""Personal data out of training text: each find becomes a placeholder such as [EMAIL].

A model repeats what it was trained on (Carlini et al., arXiv 2012.07805), so what is private must not get that far. Each kind is told by
its own check digits or rules where it has any, so that order numbers, years, prices and dates stay. Names and postal addresses are not
found.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import phonenumbers


class PII(StrEnum):
    URL = "url"
    EMAIL = "email"
    SECRET = "secret"
    IBAN = "iban"
    CARD = "card"
    IP = "ip"
    PHONE = "phone"

    @property
    def placeholder(self) -> str:
        return f"[{self.name}]"


@dataclass(frozen=True)
class Scrubbed:
    text: str
    counts: dict[PII, int]


def scrub(text: str) -> Scrubbed:
    """`text` with a placeholder for each find, and how many there were of each kind."""
    counts: Counter[PII] = Counter()
    for kind, sign, replace in _STEPS:
        if sign(text):
            text, found = replace(text)
            counts[kind] += found
    return Scrubbed(text, dict(+counts))


# Links and addresses

_URL = re.compile(
    r"""(?ix) (?<![\w@]) (?:
        (?:https?|ftps?|sftp|ssh|git|wss?|file) :// [^\s<>"`]+
      | www \. [^\s<>"`]{3,}
      | (?:[a-z0-9-]{1,63}\.){1,4}
        (?:com|org|net|edu|gov|io|dev|app|info|eu|de|uk|fr|es|it|nl|at|ch|pl|ru|br|in|jp|cn|au|ca|us) / [^\s<>"`]*
    )"""
)
_EMAIL = re.compile(r"(?<![\w.+%'-])[\w.+%'-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_CLOSING = {")": "(", "]": "[", "}": "{"}


def _url(match: re.Match[str]) -> str:
    """The link without the punctuation of the sentence around it; a bracket belongs to it if it was opened in it."""
    link = match[0]
    while link[-1] in ".,;:!?'\"*_…»”’。，)]}" and link.count(link[-1]) > link.count(_CLOSING.get(link[-1], "\0")):
        link = link[:-1]
    return PII.URL.placeholder + match[0][len(link) :]


# Secrets

_TOKENS = re.compile(
    r"""(?x) (?<![\w-]) (?:
        sk-[\w-]{16,} | [sr]k_(?:live|test)_\w{10,} | gh[pousr]_\w{20,} | github_pat_\w{20,} | glpat-[\w-]{16,} | xox[abeoprs]-[\w-]{10,}
      | (?:AKIA|ASIA)[A-Z0-9]{16} | AIza[\w-]{30,} | hf_\w{20,} | npm_\w{20,} | pypi-[\w-]{20,} | SG\.[\w-]{16,}\.[\w-]{16,}
      | eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}
    )
    | -----BEGIN\ (?:[A-Z]+\ )*PRIVATE\ KEY----- [\s\S]*? (?: -----END\ (?:[A-Z]+\ )*PRIVATE\ KEY----- | \Z )"""
)
_ASSIGNED = re.compile(
    r"""(?ix) \b( (pass(?:word|wd|phrase|code)|pwd|passwort|kennwort|contraseña|pin) | secret|token|api[ _-]?key|access[ _-]?key )
        ( (?: \s?[:=]\s? | \s(?:is|ist|lautet|est|es)\s ) ["'`]? ) ([^\s"'`,;]{4,}?) (?= [.!?)\]]* (?:[\s"'`,;]|$) )"""
)
_LONG = re.compile(r"(?<![\w/.+-])[A-Za-z0-9]{32,}(?![\w/])")


def _secret(text: str) -> tuple[str, int]:
    found = 0

    def replace(secret: str) -> str:
        nonlocal found
        found += 1
        return PII.SECRET.placeholder

    text = _TOKENS.sub(lambda match: replace(match[0]), text)
    text = _LONG.sub(lambda match: replace(match[0]) if _random(match[0]) else match[0], text)
    text = _ASSIGNED.sub(lambda match: match[1] + match[3] + replace(match[4]) if _chosen(match) else match[0], text)
    return text, found


def _random(token: str) -> bool:
    """Cases and digits mixed, as in keys: not a checksum in hexadecimal, nor a long name."""
    return sum(map(str.isdigit, token)) >= 3 and any(map(str.islower, token)) and any(map(str.isupper, token))


def _chosen(match: re.Match[str]) -> bool:
    """What people choose, not the next word of a sentence: "hunter2", not "required". A key is never digits alone, as in "token: 4096"."""
    password, value = match[2], match[4]
    return any(map(str.isdigit, value)) and (bool(password) or any(map(str.isalpha, value))) and not value.startswith("[")


# Numbers with check digits

_IBAN = re.compile(r"(?i)(?<![A-Z0-9])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}")
# Lengths by country (SWIFT, IBAN Registry).
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA",
        30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
_CARD = re.compile(r"(?<![\w.,+-])\d(?:[ -]?\d){12,18}(?![\w-]|[.,]\d)")
# Issuers' ranges (ISO/IEC 7812): Visa, Mastercard, American Express, Diners, JCB, Discover and UnionPay.
_ISSUED = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}"
    r"|35\d{14}|6(?:011|4[4-9]\d|5\d\d)\d{12}|62\d{14,17}"
)


def _iban(match: re.Match[str]) -> str:
    """The regular expression takes words after the number with it: the country says where it ends."""
    length, seen = _IBAN_LENGTHS.get(match[0][:2].upper(), 0), 0
    for end, character in enumerate(match[0], 1):
        seen += character.isalnum()
        if seen == length:
            rest = match[0][end:]
            joined = rest[:1].isalnum() or (not rest and match.string[match.end() : match.end() + 1].isalnum())
            return PII.IBAN.placeholder + rest if not joined and _mod97(match[0][:end]) else match[0]
    return match[0]


def _mod97(iban: str) -> bool:
    """ISO 7064."""
    plain = re.sub(r"[ -]", "", iban).upper()
    return int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97 == 1


def _card(match: re.Match[str]) -> str:
    digits = re.sub(r"\D", "", match[0])
    return PII.CARD.placeholder if _ISSUED.fullmatch(digits) and _luhn(digits) else match[0]


def _luhn(digits: str) -> bool:
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(map(int, digits[::-2]))) % 10 == 0


# Network addresses

_IP = re.compile(
    r"""(?xi) (?<![\w.:-]) (?:
        (?<!version\ ) (?<!release\ ) (?:\d{1,3}\.){3}\d{1,3} (?![\w-]|\.\d)
      | (?=[0-9a-f:.]*\d) (?:[0-9a-f]{0,4}:){2,7} [0-9a-f]{0,4} (?![\w:]|\.\d)
    )"""
)


def _ip(match: re.Match[str]) -> str:
    """Of a machine in the world: this machine's own (127.0.0.1, ::1, 0.0.0.0) tells nothing about anyone."""
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return match[0]
    return match[0] if address.is_loopback or address.is_unspecified else PII.IP.placeholder


# Phone numbers

# Numbers written the national way are read as these countries do (US: all of the North American plan); others need their +code.
_REGIONS = ("US", "GB", "DE", "FR")
_SEVEN_DIGITS = re.compile(r"(?:\d[^\w\n]{0,3}){6}\d")
_CALL = re.compile(
    r"(?i)\b(?:tele?(?:phone|fon|f[oó]n[oe]?)?|t[ée]l[ée]phone|phones?|mobil[e]?|cell|handy|whats ?app|signal|sms|text|fax|call|ring|dial"
    r"|reach|anruf\w*|ruf\w*|hotline|appel\w*|ll[aá]ma\w*)\b[^\d\n]{0,20}$"
)
_DATE = re.compile(r"\d\d?([./ -])\d\d?\1(?:19|20)\d\d\b")
_NATIONAL = re.compile(r"0\d{1,5}[\s/.)-]\s?\d[\d\s/.-]{4,}|\(0?\d{2,5}\)[\s-]?\d[\d\s.-]{4,}|1?[ .-]?\(?\d{3}\)?[ .-]{1,2}\d{3}[ .-]\d{4}")


def _phone(text: str) -> tuple[str, int]:
    spans: dict[int, int] = {}
    for region in _REGIONS:
        for match in phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.VALID):
            if _dialled(match.raw_string, text[max(0, match.start - 40) : match.start], text[match.end : match.end + 2]):
                spans[match.start] = max(match.end, spans.get(match.start, 0))
    pieces, end = [], 0
    for start, stop in sorted(spans.items()):
        if start >= end:
            pieces += [text[end:start], PII.PHONE.placeholder]
        end = max(end, stop)
    return "".join([*pieces, text[end:]]), len(pieces) // 2


def _dialled(number: str, before: str, after: str) -> bool:
    """Whether it is written as a phone number, or a word says so. Ten digits in a row may as well be an order number."""
    if number.startswith(("+", "＋", "00")) or _CALL.search(before):
        return True
    return bool(_NATIONAL.fullmatch(number)) and not _DATE.match(number) and not re.match(r"[-/]\w", after)


# In this order: a link may hold an address, a card number may look like a phone number.


def _by(pattern: re.Pattern[str], kind: PII, replace: Callable[[re.Match[str]], str] | None = None) -> Callable[[str], tuple[str, int]]:
    def apply(text: str) -> tuple[str, int]:
        found = 0

        def substitute(match: re.Match[str]) -> str:
            nonlocal found
            replacement = replace(match) if replace else kind.placeholder
            found += replacement != match[0]
            return replacement

        return pattern.sub(substitute, text), found

    return apply


_DIGIT = re.compile(r"\d").search

# The step is skipped, which saves most of the time, when its first sign is not there.
_STEPS: tuple[tuple[PII, Callable[[str], object], Callable[[str], tuple[str, int]]], ...] = (
    (PII.URL, re.compile(r"(?i)://|www\.|\.[a-z]{2,}/").search, _by(_URL, PII.URL, _url)),
    (PII.EMAIL, re.compile("@").search, _by(_EMAIL, PII.EMAIL)),
    (PII.SECRET, re.compile(r"\d|-----BEGIN").search, _secret),
    (PII.IBAN, _DIGIT, _by(_IBAN, PII.IBAN, _iban)),
    (PII.CARD, _DIGIT, _by(_CARD, PII.CARD, _card)),
    (PII.IP, _DIGIT, _by(_IP, PII.IP, _ip)),
    (PII.PHONE, _SEVEN_DIGITS.search, _phone),
)
