"""Remove personal data from training text: each private detail becomes a placeholder such as [EMAIL].

A model may repeat what it was trained on (Carlini et al., arXiv 2012.07805), so private details
must not reach it. Each kind is recognised by its check digits or rules, if it has any, so order
numbers, years, prices and dates stay. Names and postal addresses are found only if `names` is set
(the extra byoai[presidio]), and other private words only if their owner lists them (`words`).
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from fine_tuning.data_collection.cleaning.plain_text import Layout, small_letters
from fine_tuning.data_collection.cleaning.text_signs import CARD, EMAIL, IBAN, IP, PHONE, PRIVATE, SECRET, SSN, URL
from fine_tuning.data_collection.private_details.addresses import links, machines, mails
from fine_tuning.data_collection.private_details.credentials import credentials
from fine_tuning.data_collection.private_details.numbers import cards, ibans, ssns
from fine_tuning.data_collection.private_details.own_words import own_words
from fine_tuning.data_collection.private_details.phones import phones
from fine_tuning.data_collection.private_details.reading import Reading, Span


class PII(StrEnum):
    """A kind of private detail (personally identifiable information)."""

    URL = "url"
    EMAIL = "email"
    SECRET = "secret"
    IBAN = "iban"
    CARD = "card"
    SSN = "ssn"
    IP = "ip"
    PHONE = "phone"
    NAME = "name"  # this and the next only with data_collection.scrub_names
    ADDRESS = "address"
    PRIVATE = "private"  # a word that its owner named (data_preparation.own_words)

    @property
    def placeholder(self) -> str:
        return f"[{self.name}]"


class Find(NamedTuple):
    """A private detail: the characters `start` to `end` of the searched text."""

    kind: PII
    start: int
    end: int


@dataclass(frozen=True)
class Scrubbed:
    """A text with placeholders, the number of replaced details by kind, and where they are in the original text."""

    text: str
    counts: dict[PII, int]
    finds: Sequence[Find] = field(default=(), compare=False)


def scrub(text: str | Layout, words: Sequence[str] = (), *, names: bool = False) -> Scrubbed:
    """Return `text` with placeholders for private details, and the number of details by kind.

    The arguments are those of `finds`.
    """
    layout = Layout.of(text)
    found = finds(layout, words, names=names)
    if not found:
        return Scrubbed(layout.text, {}, found)
    return Scrubbed(without(layout.text, found), dict(Counter(find.kind for find in found)), found)


def without(text: str, found: Sequence[Find], name: Callable[[PII, str], str] | None = None) -> str:
    """Return `text` with placeholders for the private details `found`, which are in order.

    `name` returns the placeholder of (kind, detail); by default all details of a kind have the same.
    """
    pieces, end = [], 0
    for find in found:
        pieces += [
            text[end : find.start],
            name(find.kind, text[find.start : find.end]) if name else find.kind.placeholder,
        ]
        end = find.end
    return "".join([*pieces, text[end:]])


def finds(text: str | Layout, words: Sequence[str] = (), *, names: bool = False) -> list[Find]:
    """Return the private details in `text`, in order and without overlaps.

    Args:
        text: The text.
        words: Words that the owner listed as private.
        names: Whether to find names and postal addresses too. Raises ConfigError if presidio is not
            installed.
    """
    layout = Layout.of(text)
    found = _known(layout)
    if names:
        found = _with_names(found, layout)
    return _with_spans(found, PII.PRIVATE, own_words(Reading(layout), words)) if words else found


def _with_names(found: list[Find], layout: Layout) -> list[Find]:
    from fine_tuning.data_collection.private_details.names import names_and_addresses

    spans = list(names_and_addresses(Reading(layout)))
    for kind in (PII.ADDRESS, PII.NAME):  # addresses first: a street may be named after somebody
        found = _with_spans(found, kind, sorted(span for named, span in spans if named == kind))
    return found


def _known(layout: Layout) -> list[Find]:
    if not layout.signs & PRIVATE or not _may_hold_any(layout.text):
        return []
    reading = Reading(layout)
    digits = sum(map(reading.plain.count, "0123456789"))
    found: list[Find] = []
    for kind, least, sign, search in _SEARCHES:
        needed = layout.signs & _SIGNS[kind] and digits >= least and sign(reading.plain)
        if needed and (spans := list(search(reading))):
            found = [*_outside(found, spans), *(Find(kind, *span) for span in spans)]
            reading.blank(spans)
    return sorted(found, key=lambda find: find.start)


def _with_spans(found: list[Find], kind: PII, spans: Iterable[Span]) -> list[Find]:
    """Return the details `found`, with details of the kind `kind` added at the positions `spans`.

    A span within a known detail is dropped; a span that partly overlaps details is merged with
    them.
    """
    merged = list(found)
    for start, end in spans:
        over = [find for find in merged if find.start < end and start < find.end]
        if any(find.start <= start and end <= find.end for find in over):
            continue
        start, end = min([start, *(find.start for find in over)]), max([end, *(find.end for find in over)])
        merged = [*(find for find in merged if find not in over), Find(kind, start, end)]
    return sorted(merged, key=lambda find: find.start)


def _outside(found: list[Find], spans: list[Span]) -> list[Find]:
    """Return the details that do not begin within `spans`: a link within a private key is not a detail of its own."""
    starts = [start for start, _ in spans]
    return [find for find in found if (at := bisect_right(starts, find.start)) == 0 or find.start >= spans[at - 1][1]]


_ANY = re.compile(r"[\d@＠]|://|www\.|\.[a-z]{2,}/|-----BEGIN|[a-z][-_]\w{16}|AIza", re.IGNORECASE)
_LEAST_KEY = 18  # least length of a key without a digit
_ANY_SIGN = re.compile(r"[\d@＠]")
_ANY_DIGIT = re.compile("[0-9]")
_KEY_SIGN = re.compile(r"-----BEGIN|[A-Za-z][-_]\w{16}|AIza")
_LINK = re.compile(r"(?i)://|www\.|\.[a-z]{2,}/")


def _may_hold_any(text: str) -> bool:
    """Return whether the regex `_ANY` matches, that is, whether there may be a private detail.

    Cheap tests come first, since `_ANY` tries every alternative at every character.
    """
    if _ANY_SIGN.search(text):
        return True
    small = small_letters(text)
    quick = "/" in small or "-----begin" in small or "www." in small or "aiza" in small
    return (quick or max(map(len, text.split()), default=0) >= _LEAST_KEY) and _ANY.search(text) is not None


def _may_hold_key(text: str) -> bool:
    return _ANY_DIGIT.search(text) is not None or _KEY_SIGN.search(text) is not None


def _may_hold_link(text: str) -> bool:
    return ("/" in text or "www." in text.lower()) and _LINK.search(text) is not None


# Part of an IPv4 address, or what follows the first group of an IPv6 address.
_OF_MACHINE = re.compile(
    r"(?i)[.:](?:(?<=[0-9]\.)[0-9]{1,3}\.[0-9]|(?<=[0-9a-f]{4}:)[0-9a-f:]{2}|(?<=[0-9a-f]:)[0-9a-f]{1,4}:)"
)

_SIGNS = {
    PII.URL: URL,
    PII.EMAIL: EMAIL,
    PII.SECRET: SECRET,
    PII.IBAN: IBAN,
    PII.CARD: CARD,
    PII.SSN: SSN,
    PII.IP: IP,
    PII.PHONE: PHONE,
}
# (kind, digits it needs, quick test, search), in order of precedence: a link may contain an address,
# and a card number may look like a phone number. Most of the time is saved by skipping a search if
# the text has too few digits or fails the quick test.
_SEARCHES: tuple[tuple[PII, int, Callable[[str], object], Callable[[Reading], Iterator[Span]]], ...] = (
    (PII.URL, 0, _may_hold_link, links),
    (PII.EMAIL, 0, re.compile("@").search, mails),
    (PII.SECRET, 0, _may_hold_key, credentials),
    (PII.IBAN, 2, re.compile(r"(?ai)\d\d(?<=[A-Z]{2}\d\d)").search, ibans),
    (PII.CARD, 12, re.compile(r"[0-9](?:[ -]?[0-9]){11}").search, cards),
    (PII.SSN, 9, re.compile(r"[0-9]{3}([ -]?)[0-9]{2}\1[0-9]{4}").search, ssns),
    (PII.IP, 0, _OF_MACHINE.search, machines),
    (PII.PHONE, 7, re.compile(r"(?:[0-9][^\w\n]{0,3}){6}[0-9]").search, phones),
)
