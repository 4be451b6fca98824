"""Personal data out of training text: each find becomes a placeholder such as [EMAIL].

A model repeats what it was trained on (Carlini et al., arXiv 2012.07805), so what is private must not get that far. Each kind is told by
its own check digits or rules where it has any, so that order numbers, years, prices and dates stay. Names and postal addresses are not
found.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

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


@dataclass(frozen=True)
class Find:
    """A private detail: `text[start:end]` of the text that was searched."""

    kind: PII
    start: int
    end: int


@dataclass(frozen=True)
class Scrubbed:
    text: str
    counts: dict[PII, int]


def scrub(text: str) -> Scrubbed:
    """Return `text` with a placeholder for each find, and how many there were of each kind."""
    pieces, end = [], 0
    counts: Counter[PII] = Counter()
    for find in finds(text):
        pieces += [text[end : find.start], find.kind.placeholder]
        end = find.end
        counts[find.kind] += 1
    return Scrubbed("".join([*pieces, text[end:]]), dict(counts))


def finds(text: str) -> list[Find]:
    """Return the private details in `text`, in order; none overlaps another."""
    if not _ANY.search(text):
        return []
    reading = Reading(text)
    found: list[Find] = []
    for kind, sign, search in _SEARCHES:
        if sign(reading.plain) and (spans := list(search(reading))):
            found = [*_outside(found, spans), *(Find(kind, *span) for span in spans)]
            reading.blank(spans)
    return sorted(found, key=lambda find: find.start)


def _outside(found: list[Find], spans: list[Span]) -> list[Find]:
    """Return the finds that lie in none of `spans`: a private key's block may hold a link."""
    starts = [start for start, _ in spans]
    return [find for find in found if (at := bisect_right(starts, find.start)) == 0 or find.start >= spans[at - 1][1]]


_ANY = re.compile(r"[\d@＠]|://|www\.|\.[a-z]{2,}/|-----BEGIN|[a-z][-_]\w{16}|AIza", re.IGNORECASE)
_DIGIT = re.compile(r"[0-9]").search

# In this order: a link may hold an address, a card's number may look like a phone's. A search is left out, which saves most of the time,
# when its first sign is not there.
_SEARCHES: tuple[tuple[PII, Callable[[str], object], Callable[[Reading], Iterator[Span]]], ...] = (
    (PII.URL, re.compile(r"(?i)://|www\.|\.[a-z]{2,}/").search, links),
    (PII.EMAIL, re.compile("@").search, mails),
    (PII.SECRET, re.compile(r"[0-9]|-----BEGIN|[A-Za-z][-_]\w{16}|AIza").search, credentials),
    (PII.IBAN, re.compile(r"(?ai)[A-Z]{2}\d\d").search, ibans),
    (PII.CARD, re.compile(r"[0-9](?:[ -]?[0-9]){11}").search, cards),
    (PII.SSN, re.compile(r"[0-9]{3}([ -]?)[0-9]{2}\1[0-9]{4}").search, ssns),
    (PII.IP, re.compile(r"[0-9]\.[0-9]|[0-9A-Fa-f]:").search, machines),
    (PII.PHONE, re.compile(r"(?:[0-9][^\w\n]{0,3}){6}[0-9]").search, phones),
)
