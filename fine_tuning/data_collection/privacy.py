"""Personal data out of training text: each find becomes a placeholder such as [EMAIL].

A model repeats what it was trained on (Carlini et al., arXiv 2012.07805), so what is private must not get that far. Each kind is told by
its own check digits or rules where it has any, so that order numbers, years, prices and dates stay. Names and postal addresses are not
found.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from fine_tuning.data_collection.plain_text import Layout
from fine_tuning.data_collection.private_details.addresses import links, machines, mails
from fine_tuning.data_collection.private_details.credentials import credentials
from fine_tuning.data_collection.private_details.numbers import cards, ibans, ssns
from fine_tuning.data_collection.private_details.phones import phones
from fine_tuning.data_collection.private_details.reading import Reading, Span


class PII(StrEnum):
    URL = "url"
    EMAIL = "email"
    SECRET = "secret"
    IBAN = "iban"
    CARD = "card"
    SSN = "ssn"
    IP = "ip"
    PHONE = "phone"

    @property
    def placeholder(self) -> str:
        return f"[{self.name}]"


class Find(NamedTuple):
    """A private detail: `text[start:end]` of the text that was searched."""

    kind: PII
    start: int
    end: int


@dataclass(frozen=True)
class Scrubbed:
    text: str
    counts: dict[PII, int]
    finds: Sequence[Find] = field(default=(), compare=False)


def scrub(text: str | Layout) -> Scrubbed:
    """Return `text` with a placeholder for each find, and how many there were of each kind."""
    layout = Layout.of(text)
    found = finds(layout)
    return Scrubbed(without(layout.text, found), dict(Counter(find.kind for find in found)), found)


def without(text: str, found: Sequence[Find]) -> str:
    """Return `text` with a placeholder for each of these finds."""
    pieces, end = [], 0
    for find in found:
        pieces += [text[end : find.start], find.kind.placeholder]
        end = find.end
    return "".join([*pieces, text[end:]])


def finds(text: str | Layout) -> list[Find]:
    """Return the private details in `text`, in order; none overlaps another."""
    layout = Layout.of(text)
    if not (_may_hold_any(layout.text) and _ANY.search(layout.text)):
        return []
    reading = Reading(layout)
    digits = sum(map(reading.plain.count, "0123456789"))
    found: list[Find] = []
    for kind, least, sign, search in _SEARCHES:
        if digits >= least and sign(reading.plain) and (spans := list(search(reading))):
            found = [*_outside(found, spans), *(Find(kind, *span) for span in spans)]
            reading.blank(spans)
    return sorted(found, key=lambda find: find.start)


def _outside(found: list[Find], spans: list[Span]) -> list[Find]:
    """Return the finds that lie in none of `spans`: a private key's block may hold a link."""
    starts = [start for start, _ in spans]
    return [find for find in found if (at := bisect_right(starts, find.start)) == 0 or find.start >= spans[at - 1][1]]


_ANY = re.compile(r"[\d@＠]|://|www\.|\.[a-z]{2,}/|-----BEGIN|[a-z][-_]\w{16}|AIza", re.IGNORECASE)
_LEAST_KEY = 18  # characters without a space, of a key without a digit
_ANY_SIGN = re.compile(r"[\d@＠/]")
_LINK = re.compile(r"(?i)://|www\.|\.[a-z]{2,}/")


def _may_hold_any(text: str) -> bool:
    """Return whether `_ANY` may match: much quicker than trying it, as it tries all at every letter."""
    small = text.casefold()
    quick = _ANY_SIGN.search(text) or not small.isascii() or any(sign in small for sign in ("-----begin", "www.", "aiza"))
    return bool(quick) or max(map(len, text.split()), default=0) >= _LEAST_KEY


def _may_hold_link(text: str) -> bool:
    return ("/" in text or "www." in text.lower()) and _LINK.search(text) is not None


# In this order: a link may hold an address, a card's number may look like a phone's. A search is left out, which saves most of the time,
# when its first sign is not there, or fewer digits than it needs.
_SEARCHES: tuple[tuple[PII, int, Callable[[str], object], Callable[[Reading], Iterator[Span]]], ...] = (
    (PII.URL, 0, _may_hold_link, links),
    (PII.EMAIL, 0, re.compile("@").search, mails),
    (PII.SECRET, 0, re.compile(r"[0-9]|-----BEGIN|[A-Za-z][-_]\w{16}|AIza").search, credentials),
    (PII.IBAN, 2, re.compile(r"(?ai)\d\d(?<=[A-Z]{2}\d\d)").search, ibans),
    (PII.CARD, 12, re.compile(r"[0-9](?:[ -]?[0-9]){11}").search, cards),
    (PII.SSN, 9, re.compile(r"[0-9]{3}([ -]?)[0-9]{2}\1[0-9]{4}").search, ssns),
    (PII.IP, 0, re.compile(r"[.:](?:(?<=[0-9]\.)[0-9]|(?<=[0-9A-Fa-f]:))").search, machines),
    (PII.PHONE, 7, re.compile(r"(?:[0-9][^\w\n]{0,3}){6}[0-9]").search, phones),
)
