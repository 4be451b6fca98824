"""Find numbers of bank accounts, payment cards and social security, by their check digits and forms."""

import re
from collections.abc import Iterator

from fine_tuning.data_collection.private_details.reading import ENDS, STARTS, Reading, Span

# Bank accounts

_IBAN = re.compile(rf"(?ai)(?:{STARTS}|(?<=IBAN))[A-Z]{{2}}\d{{2}}(?:[ -]?[A-Z0-9]){{8,30}}")
# Lengths by country (SWIFT, IBAN Registry).
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR "
                                         "SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA",
        30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


_IBAN_WORD = re.compile(r"(?i)iban|счёт|счет|account|konto|compte|cuenta|账号|帐号|账户|口座|계좌|บัญชี|खाता|حساب")


def ibans(reading: Reading) -> Iterator[Span]:
    """Yield the positions of IBANs whose check digits are right.

    The length must be that of the country, unless a word before the number says that it is an IBAN, or
    the number is written in capitals and no text follows it.
    """
    position = 0
    while match := _IBAN.search(reading.plain, position):
        lengths = [_IBAN_LENGTHS.get(match[0][:2].upper(), 0)]
        if _IBAN_WORD.search(reading.before(match.start(), 25)):
            lengths += range(34, 11, -1)
        elif lengths[0] and match[0].isupper() and not reading.in_code(match.start()):
            lengths.append(sum(map(str.isalnum, match[0])))
        ends = (_end_of(match, length) for length in lengths)
        end = next((end for end in ends if end and _mod97(match[0][:end])), 0)
        if end:
            yield match.start(), match.start() + end
        position = match.start() + max(end, 1)  # the rest of the match may contain the next IBAN


def _end_of(match: re.Match[str], length: int) -> int:
    """Return where an IBAN of `length` letters and digits ends within the match, which may include later words.

    Return 0 if a word would be cut there.
    """
    seen = 0
    for end, character in enumerate(match[0], 1):
        seen += character.isalnum()
        if seen == length:
            after = match.string[match.start() + end : match.start() + end + 1]
            return 0 if after.isascii() and after.isalnum() else end
    return 0


def _mod97(iban: str) -> bool:
    """Return whether the check digits of an IBAN are right (ISO 7064)."""
    plain = re.sub(r"[ -]", "", iban).upper()
    return int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97 == 1


# Payment cards

_DIGITS = re.compile(rf"(?a)(?<![.,+-]){STARTS}\d(?:[ -]?\d){{11,39}}")
_GROUP = re.compile(r"(?a)\d+")
# Issuers' ranges (ISO/IEC 7812): Visa, Mastercard, American Express, Diners, JCB, Discover and UnionPay.
_ISSUED = re.compile(
    r"(?a)4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}"
    r"|35\d{14}|6(?:011|4[4-9]\d|5\d\d)\d{12}|62\d{14,17}"
)
_OLD_JCB = re.compile(r"(?a)(?:2131|1800)\d{11}")
_AS_ON_CARDS = re.compile(r"(?a)\d{4}([ -])\d{4}\1\d{4}(?:\1\d{1,4}){0,2}|\d{4}([ -])\d{6}\2\d{4,5}")
_IN_FOURS = re.compile(r"(?a)[2-6]\d{3}([ -])\d{4}(?:\1\d{4}){1,2}")
_ENDS = re.compile(rf"(?a){ENDS}(?!-\w|[.,]\d)")
_CARD_WORD = re.compile(
    r"(?i)\b(?:pa(?:y|id)|charged?|bezahl\w*|zahl\w*|pag\w+|pay[ée]r?|оплат\w*)\b|支付|付款|支払|払|결제|จ่าย|ชำระ|भुगतान|دفع|ادفع|card|karte|tarjeta|carte|cartão|visa|master|amex|карт|卡|カード|카드|บัตร|कार्ड|بطاق"
)
_OTHER = re.compile(
    r"(?i)(?:order|ticket|invoice|tracking|serial|imei|isbn|ean|gtin|sku|upc|part|article|item|parcel|shipment|case|reference|ref|id|bestell\w*"
    r"|auftrag\w*|sendung\w*|rechnung\w*|artikel\w*|serien\w*|pedido|factura|commande|facture|заказ\w*|артикул|счет|трек\w*"
    r"|订单|訂單|单号|單號|编号|編號|运单|发票|注文|伝票|品番|주문|송장|운송장|คำสั่งซื้อ|พัสดุ|ऑर्डर|طلب|الطلب|फ़ॉर्म)"
    r"\W{0,3}(?:no|nr|number|nummer|num|número|numéro|id|code|号|號|番号|번호|หมายเลข|номер|नंबर|رقم)?[\W_]{0,3}(?:is|ist|est|es|是|为|は|은|는)?\s*$"
)


_LETTER = re.compile(r"[^\W\d_]")


def names_another_number(before: str) -> bool:
    """Return whether the words before a number say that it is the number of an order, a parcel, a part or the like."""
    return _LETTER.search(before) is not None and _OTHER.search(before) is not None


def cards(reading: Reading) -> Iterator[Span]:
    """Yield the positions of card numbers whose check digit is right.

    In code, they must be in groups, or follow a word such as "card".
    """
    for match in _DIGITS.finditer(reading.plain):
        groups = [(group.start(), group.end()) for group in _GROUP.finditer(reading.plain, *match.span())]
        first = 0
        while first < len(groups):
            last = _card_end(reading, groups, first)
            if last:
                yield groups[first][0], groups[last - 1][1]
            first = last or first + 1


def _card_end(reading: Reading, groups: list[Span], first: int) -> int:
    """Return where the card number that begins with the group of digits `first` ends; 0 if none begins there.

    The result is the index in `groups` after the number's last group.
    """
    start, digits, end = groups[first][0], "", 0
    for last in range(first, min(first + 5, len(groups))):
        left, right = groups[last]
        digits += reading.plain[left:right]
        if len(digits) > 19:
            break
        if (
            len(digits) > 11
            and _luhn(digits)
            and _ENDS.match(reading.plain, right)
            and _is_card(reading, start, right, digits)
        ):
            end = last + 1
        if right - left < 3:
            break
    return end


def _is_card(reading: Reading, start: int, end: int, digits: str) -> bool:
    """Return whether a number whose check digit is right is a card number.

    A word before it, such as "card" or "order no.", decides. If there is none, the issuer's range and
    the division into groups do.
    """
    before, written = reading.before(start), reading.plain[start:end]
    if names_another_number(before):
        return False
    if _CARD_WORD.search(before):
        return True
    if written == digits:
        return _ISSUED.fullmatch(digits) is not None and not reading.in_code(start)
    if _AS_ON_CARDS.fullmatch(written) and (_ISSUED.fullmatch(digits) or _OLD_JCB.fullmatch(digits)):
        return True
    return _IN_FOURS.fullmatch(written) is not None and not reading.plain[max(0, start - 2) : start].strip().isdigit()


def _luhn(digits: str) -> bool:
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(map(int, digits[::-2]))) % 10 == 0


# Social security numbers of the United States

_SSN = re.compile(
    rf"(?ai)(?:{STARTS}|(?<=\bSSN))(?<![\d.,/+-])(?<!\d )(?!000|666)\d{{3}}([- "
    rf"]?)(?!00)\d{{2}}\1(?!0000)\d{{4}}{ENDS}(?!-\w|[.,]\d| \d)"
)
_SSN_WORD = re.compile(
    r"(?i)\bssns?\b|\bitin\b|social.security|sozialversicherung|seguro social|社会安全|社會安全|社会保障|사회보장"
)
_CALLED = re.compile(r"(?i)(?:\b(?:tel|phone|fax|call|mobile|cell|text)|电话|電話|전화|โทร|тел)\W{0,3}$")


def ssns(reading: Reading) -> Iterator[Span]:
    """Yield the positions of numbers of the form 3-2-4 digits that may have been issued as social security numbers.

    After a word such as "SSN", other separators and ranges are accepted too.
    """
    for match in _SSN.finditer(reading.plain):
        before = reading.before(match.start(), 60)
        issued = (
            match[1] == "-" and match[0][0] != "9" and not names_another_number(before) and not _CALLED.search(before)
        )
        if issued or _SSN_WORD.search(before):
            yield match.span()
