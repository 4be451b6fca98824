"""Phone numbers. phonenumbers knows which may have been issued; how they are written, and the words before them, tell them from others."""

import re
from collections.abc import Iterator

import phonenumbers

from fine_tuning.data_collection.private_details.numbers import names_another_number
from fine_tuning.data_collection.private_details.reading import Reading, Span

# Digits in groups, with what is written between them.
_GROUPS = re.compile(r"(?a)(?:\+ ?|\(\+?)?\d(?:[ ./()-]{0,3}\d){6,24}")
_ALONE_BEFORE = re.compile(r"[A-Za-z0-9]$|[A-Za-z0-9][_.,:/=#-]$|[$€£¥#=^*]\s?$|\d[.,]$")
_ALONE_AFTER = re.compile(r"[A-Za-z0-9%€$£¥°]|[_.,:/^*-]\w|\s?(?:[€$£¥%°]|(?:USD|EUR|km|kg|MB|GB|ms|px|Hz)\b)")
# In whose way numbers without a country code are read: where the script is at home (US: all of the North American plan).
_REGIONS = ("US", "GB", "DE", "FR")
_AT_HOME = (
    (re.compile("[\uac00-\ud7a3]"), ("KR",)),
    (re.compile("[\u3040-\u30ff]"), ("JP",)),
    (re.compile("[\u4e00-\u9fff]"), ("CN", "TW", "HK", "JP")),
    (re.compile("[\u0e00-\u0e7f]"), ("TH",)),
    (re.compile("[\u0900-\u0dff]"), ("IN",)),
    (re.compile("[\u0600-\u06ff]"), ("SA", "EG", "AE", "MA", "IR")),
    (re.compile("[\u0400-\u04ff]"), ("RU", "UA", "KZ")),
    (re.compile("[\u0590-\u05ff]"), ("IL",)),
    (re.compile("[\u0370-\u03ff]"), ("GR",)),
)
_NOUNS = (
    r"\b(?:tele?(?:phone|fon|f[oó]n[oe]?)?(?:nummer|number)?|t[ée]l[ée]phone|telefon\w*|phones?(?:[ _]?(?:number|no|nr))?|mobil[e]?\w*|cell(?:phone|ular)?|handy(?:nummer)?"
    r"|whats ?app|fax|hotline|portable|móvil|celular|rufnummer|komórka|puhelin|contact(?: number)?|телефон\w*|тел|моб\w*)\b"
    r"|[☎☏📞📱]|电话|電話|手机|手機|座机|联系方式|携帯|ファックス|전화|휴대폰|핸드폰|연락처|팩스|โทร|เบอร์|มือถือ|फ़ोन|फोन|मोबाइल|दूरभाष|هاتف|الهاتف|هاتفي|جوال|الجوال|موبايل|رقمي|تلفون|טלפון|τηλέφωνο"
)
_VERBS = (
    r"\b(?:signal|sms|text|call|ring|dial|reach|anruf\w*|ruf\w*|appel\w*|ll[aá]m\w*|позвон\w*|звон\w*|number is|numéro|número)\b"
    r"|打给|拨打|拨|かけ|걸어|कॉल|اتصل|اتّصل"
)
_CALL = re.compile(rf"(?i)(?P<noun>{_NOUNS})|(?P<verb>{_VERBS})")
_EXTENSION = re.compile(r"(?i) ?(?:x|ext\.?|доб\.?|内線|转|내선|ต่อ) ?\d{1,6}(?!\w)")
_CALLED_AFTER = re.compile(r"(?:に|へ|まで)お?(?:電話|かけ|連絡)|으?로 ?(?:전화|연락|문자)|(?:联系|聯繫|找)我| ?पर (?:कॉल|फ़ोन|फोन|संपर्क)")
_DATE = re.compile(r"(?a)\d\d?([./ -])\d\d?\1(?:19|20)\d\d\b|(?:19|20)\d\d([./ -])\d\d?\2\d\d?\b")
_NATIONAL = re.compile(
    r"(?a)0\d{1,5}[ /.)-] ?\d[\d /.-]{4,}|\(0?\d{2,5}\)[ -]?\d[\d .-]{4,}|1?[ .-]?(?:\(\d{3}\)[ .-]{0,2}\d{3}[ .-]|\d{3}([.-])\d{3}\1)\d{4}"
)
_INTERNATIONAL = re.compile(r"(?a)\+\d{1,3}(?:[ -]?\(\d{1,5}\)|[ -]\d{2,5})(?:[ -]?\d{2,8}){1,4}")
_SOMEHOW = re.compile(r"(?a)[+(]|(?<!\d)0\d|\d{3}([.-])\d{3}[ .-]\d{4}|(?<!\d)(?:1[3-9]|[78]9)\d{9}(?!\d)")
_HOME_MOBILE = re.compile(r"(?a)1[3-9]\d{9}|0[1-9]\d{8,9}|[78]9\d{9}")
_ONLY_PHONES = re.compile(
    r"""(?xa) \(?\+\ ?\d{1,3}\)? [ .-]? (?: \(\d{1,5}\) [ .-]? )? \d{2,5} (?:[ .-]\d{2,8}){1,4} | (?:1[ .-])? \(\d{3}\)\ ?\d{3}-\d{4} | (?:1-)?\d{3}-\d{3}-\d{4}
      | 0\d{1,3}-\d{3,4}-\d{4} | [78][ -]?\(\d{3,4}\)[ -]?\d{2,3}-\d\d-?\d\d | [78]\ \d{3}\ \d{3}[ -]\d\d[ -]\d\d"""
)


def phones(reading: Reading) -> Iterator[Span]:
    """Yield where phone numbers stand. In code only those with a country's code, or that a word calls so."""
    regions: tuple[str, ...] | None = None
    for match in _GROUPS.finditer(reading.plain):
        before = reading.before(match.start())
        called = _called(before) or ("verb" if _CALLED_AFTER.match(reading.plain, match.end()) else None)
        if not called and _ALONE_BEFORE.search(before):
            continue
        if regions is None:
            regions = _regions(reading.text)
        yield from _numbers(reading, match, called, before, regions)


def _regions(text: str) -> tuple[str, ...]:
    if text.isascii():
        return _REGIONS
    at_home = next((regions for script, regions in _AT_HOME if script.search(text)), ())
    return tuple(dict.fromkeys((*at_home, *_REGIONS)))


def _numbers(reading: Reading, match: re.Match[str], called: str | None, before: str, regions: tuple[str, ...]) -> Iterator[Span]:
    """Yield the phone numbers among groups of digits."""
    extension = _EXTENSION.match(reading.plain, match.end())
    whole = match.start(), extension.end() if extension else match.end()
    if _possible(match[0]) and not _ALONE_AFTER.match(reading.plain, whole[1]) and _surely(reading, match, called, before):
        yield whole
        return
    if called is None and (names_another_number(before) or not _plausible(match[0])):
        return
    left, right = max(0, match.start() - 1), match.end() + 12
    window, spans = reading.plain[left:right], set()
    for region in regions[:1] if match[0].startswith("+") else regions:
        for number in phonenumbers.PhoneNumberMatcher(window, region, leniency=phonenumbers.Leniency.VALID):
            start, end = left + number.start, left + number.end
            if _dialled(number.raw_string, called, reading, start, end, region not in _REGIONS):
                spans.add((start, end))
        if match.span() in spans:
            break
    end = 0
    for start, stop in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= end:
            yield start, stop
            end = stop


def _surely(reading: Reading, match: re.Match[str], called: str | None, before: str) -> bool:
    """Return whether it is a phone number although its digits may never have been issued: a noun says so, or only such are written so."""
    if called == "noun" or reading.in_code(match.start()):
        return called == "noun"
    if called == "verb" and sum(map(str.isdigit, match[0])) > 8:
        return True
    return _ONLY_PHONES.fullmatch(match[0]) is not None and not names_another_number(before)


def _called(before: str) -> str | None:
    """Return whether the words right before a number say that one phones with it: a noun, a verb, or None."""
    said = list(_CALL.finditer(before))
    return said[-1].lastgroup if said and not re.search(r"\d", before[said[-1].end() :]) and len(before) - said[-1].end() <= 20 else None


def _possible(number: str) -> bool:
    digits = sum(map(str.isdigit, number))
    return 7 <= digits <= 15 and not _DATE.match(number.lstrip("+( "))


def _plausible(number: str) -> bool:
    """Return whether some country's way of writing phone numbers is in it, and it is not a date. phonenumbers would need 1,000 times as long."""
    return _SOMEHOW.search(number) is not None and not (_DATE.match(number) and sum(map(str.isdigit, number)) < 9)


def _dialled(number: str, called: str | None, reading: Reading, start: int, end: int, at_home: bool) -> bool:
    """Return whether it is written as a phone number, or a word says so. Ten digits in a row may as well be an order number."""
    if called or (number.startswith("+") and not reading.in_code(start)):
        return True
    if reading.in_code(start):
        return _INTERNATIONAL.fullmatch(number) is not None
    if _ALONE_AFTER.match(reading.plain, end):
        return False
    if number.startswith("00"):
        return True
    if at_home and _HOME_MOBILE.fullmatch(number):
        return True
    return bool(_NATIONAL.fullmatch(number)) and not _DATE.match(number) and not re.match(r"[-/]\w", reading.plain[end : end + 2])
