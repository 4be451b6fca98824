"""Find phone numbers.

The package phonenumbers knows which numbers may be issued; their form and the words around them
decide the rest.
"""

import re
from collections.abc import Iterable, Iterator

import phonenumbers

from fine_tuning.data_collection.private_details.numbers import names_another_number
from fine_tuning.data_collection.private_details.reading import Reading, Span

# Digits in groups, with the separators between them.
_GROUPS = re.compile(r"(?a)(?:\+|\(\+?)?\d(?:[ ./()-]{0,3}\d){6,24}")
_ALONE_BEFORE = re.compile(r"[A-Za-z0-9]$|[A-Za-z0-9][_.,:/=#-]$|[$€£¥#=^*]\s?$|\d[.,]$")
_ALONE_AFTER = re.compile(r"(?a)[A-Za-z0-9%€$£¥°]|[_.,:/^*-]\w|\s?(?:[€$£¥%°]|(?:USD|EUR|km|kg|MB|GB|ms|px|Hz)\b)")
# Regions whose rules are tried for numbers without a country code: those that use the text's script,
# then these (US stands for the whole North American plan).
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
    r"\b(?:tele?(?:phone|fon|f[oó]n[oe]?)?(?:nummer|number)?|t[ée]l[ée]phone|tél|telefon\w*|phones?(?:[ "
    r"_]?(?:number|no|nr))?|mobil[e]?\w*"
    r"|cell(?:phone|ular)?|handy(?:nummer)?|whats "
    r"?app|fax|hotline|portable|móvil|celular|rufnummer|komórka|puhelin|contact(?: number)?"
    r"|(?:my|your|his|her|our|their|meine|deine|seine|ihre|mon|son|mi|su|meu) (?:\w+ )?(?:number|nummer|numéro|número)"
    r"|телефон\w*|тел|моб\w*)\b|[☎☏📞📱]|电话|電話|手机|手機|座机|联系方式|携帯|連絡先|ファックス|전화|휴대폰|핸드폰|연락처|팩스"
    r"|điện thoại|sđt|numaram\w*|ទូរស័ព្ទ|ໂທ|ເບີ|ဖုန်း"
    r"|โทร|เบอร์|มือถือ|फ़ोन|फोन|मोबाइल|दूरभाष|هاتف|جوال|موبايل|رقمي|تلفون|טלפון|τηλέφωνο"
)
_VERBS = (
    r"\b(?:signal|sms|text|call|ring|dial|reach|anruf\w*|erreich\w*|joins\w*|contact\w*|ruf\w*|appel\w*|ll[aá]m\w*|позвон\w*|звон\w*"
    r"|number is|numéro|número)\b|打给|拨|かけ|걸어|कॉल|اتصل|اتّصل"
)
_CALL = re.compile(rf"(?i)(?P<noun>{_NOUNS})|(?P<verb>{_VERBS})")
_EXTENSION = re.compile(r"(?i) ?(?:x|ext\.?|доб\.?|内線|转|내선|ต่อ) ?\d{1,6}(?!\w)")
_CALLED_AFTER = re.compile(
    r"(?i)(?P<verb>(?:に|へ|まで)お?(?:電話|かけ|連絡)|으?로 ?(?:전화|연락|문자)|(?:联系|聯繫|找)我| ?पर (?:कॉल|फ़ोन|फोन|संपर्क))"  # noqa: E501
    r"|(?P<noun> ?\((?:home|work|office|mobile|cell|privat|büro|mobil|maison|bureau|casa|oficina|дом|раб|自宅|会社|家|公司|집|회사|บ้าน|घर))"  # noqa: E501
)
_DATE = re.compile(r"(?a)\d\d?([./ -])\d\d?\1(?:19|20|25)\d\d\b|(?:19|20|25)\d\d([./ -])\d\d?\2\d\d?\b")
_SPACE = re.compile(r" / | +(?=[\d+(])")
_SIGNS = re.compile(r"[-+(./]")  # without such a sign, only a whole row of groups is a phone number
_NATIONAL = re.compile(
    r"(?a)0\d{1,5}[ /.)-] ?\d[\d /.-]{4,}|\(0?\d{2,5}\)[ -]?\d[\d .-]{4,}|1?[ .-]?(?:\(\d{3}\)[ .-]{0,2}\d{3}[ "
    r".-]|\d{3}([.-])\d{3}\1)\d{4}"
)
_INTERNATIONAL = re.compile(r"(?a)\+\d{1,3}(?:[ -]?\(\d{1,5}\)|[ -]\d{2,5})(?:[ -]?\d{2,8}){1,4}")
_SOMEHOW = re.compile(r"(?a)[+(]|(?<!\d)0\d|\d{3}([.-])\d{3}[ .-]\d{4}|(?<!\d)(?:1[3-9]|[78]9)\d{9}(?!\d)")
_HOME_MOBILE = re.compile(r"(?a)1[3-9]\d{9}|0[1-9]\d{8,9}|[78]9\d{9}")
_ONLY_PHONES = re.compile(
    r"""(?xa) \(?\+\d{1,3}\)? [ .-]? (?: \(\d{1,5}\) [ .-]? )? \d{2,5} (?:[ .-]\d{2,8}){1,4}
      | (?:1[ .-])? \(\d{3}\)\ ?\d{3}-\d{4} | (?:1-)?\d{3}-\d{3}-\d{4} | 0\d{1,3}-\d{3,4}-\d{4}
      | [78][ -]?\(\d{3,4}\)[ -]?\d{2,3}-\d\d-?\d\d | [78]\ \d{3}\ \d{3}[ -]\d\d[ -]\d\d"""
)


def phones(reading: Reading) -> Iterator[Span]:
    """Yield the positions of phone numbers.

    In code, they need a country code, or a word that says that they are phone numbers.
    """
    regions: tuple[str, ...] | None = None
    for match in _GROUPS.finditer(reading.plain):
        before = reading.before(match.start())
        called = _called(before) or _called_after(reading.plain, match.end())
        if not called and (
            _ALONE_BEFORE.search(before) or names_another_number(before) or not _SOMEHOW.search(match[0])
        ):
            continue
        regions = regions or _regions(reading.text)
        yield from _numbers(reading, *match.span(), called, regions)


def _called(before: str) -> str | None:
    """Return "noun" or "verb" if a word just before a number, such as "fax" or "call", marks it as a phone number.

    Return None otherwise.
    """
    said = list(_CALL.finditer(before))
    return (
        said[-1].lastgroup
        if said and not re.search(r"\d", before[said[-1].end() :]) and len(before) - said[-1].end() <= 20
        else None
    )


def _called_after(plain: str, end: int) -> str | None:
    """Return "noun" or "verb" if words just after a number, such as "(home)", mark it as a phone number; else None."""
    after = _CALLED_AFTER.match(plain, end)
    return after.lastgroup if after else None


def _regions(text: str) -> tuple[str, ...]:
    """Return the regions whose national numbers may occur in the text, by the scripts in it."""
    at_home = next((regions for script, regions in _AT_HOME if script.search(text)), ()) if not text.isascii() else ()
    return tuple(dict.fromkeys((*at_home, *_REGIONS)))


def _numbers(reading: Reading, start: int, end: int, called: str | None, regions: tuple[str, ...]) -> Iterator[Span]:
    """Yield the positions of the phone numbers among groups of digits.

    Several numbers may follow each other; from each start the longest one is taken.
    """
    starts = [start, *(match.end() for match in _SPACE.finditer(reading.plain, start, end))]
    ends = [*(match.start() for match in _SPACE.finditer(reading.plain, start, end)), end]
    done = start
    for left in starts:
        if left < done:
            continue
        for right in reversed(ends):
            part = (left, right) != (start, end) and not called and not _SIGNS.search(reading.plain, left, right)
            if (
                right > left
                and not part
                and _is_phone(reading, left + _opens(reading.plain[left:right]), right, called, regions)
            ):
                extension = _EXTENSION.match(reading.plain, right)
                done = extension.end() if extension else right
                yield left + _opens(reading.plain[left:right]), done
                break


def _opens(number: str) -> int:
    """Return 1 if a number begins with a bracket that closes after it, else 0."""
    return int(number.startswith("(") and ")" not in number)


def _is_phone(reading: Reading, start: int, end: int, called: str | None, regions: tuple[str, ...]) -> bool:
    """Return whether digits are a phone number.

    They are if a word says so, if only phone numbers have their form, or if they have the form of one
    and may have been issued.
    """
    number = reading.plain[start:end]
    digits = sum(map(str.isdigit, number))
    extension = _EXTENSION.match(reading.plain, end)
    if (
        not 7 <= digits <= 15
        or _DATE.match(number)
        or _ALONE_AFTER.match(reading.plain, extension.end() if extension else end)
    ):
        return False
    if called == "noun":
        return True
    if reading.in_code(start):
        return _INTERNATIONAL.fullmatch(number) is not None and _issued(number, regions[:1])
    if called:
        return digits > 8 or _issued(number, regions)
    if _ONLY_PHONES.fullmatch(number):
        return True
    if number.startswith(("+", "00")) or _NATIONAL.fullmatch(number):
        return _issued(number, regions)
    return _HOME_MOBILE.fullmatch(number) is not None and _issued(
        number, [region for region in regions if region not in _REGIONS]
    )


def _issued(number: str, regions: Iterable[str]) -> bool:
    """Return whether a number may have been issued in one of the regions, or in the country of its own code."""
    for region in regions:
        try:
            parsed = phonenumbers.parse(number, region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(parsed):
            return True
    return False
