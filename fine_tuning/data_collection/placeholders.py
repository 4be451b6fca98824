"""Choose placeholders for the private details of one conversation: [EMAIL], or [EMAIL_1], [EMAIL_2] for several.

Equal details get the same placeholder and different ones never do, so a dialogue about two people
stays intelligible. Numbers follow the order of first appearance. If there is only one detail of a
kind, its placeholder has no number. This is the usual case, and a model that has always seen the
same placeholder answers with it. The placeholders are not stored, but computed from the texts each
time.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from itertools import count

from fine_tuning.data_collection.cleaning.plain_text import normalise
from fine_tuning.data_collection.privacy import PII, Find, finds

PLACEHOLDER = re.compile(rf"\[(?:{'|'.join(kind.name for kind in PII)})(?:_\d+)?\]")


class Placeholders:
    """Chooses the placeholders for the private details of one conversation, and remembers them."""

    def __init__(self, learned: Iterable[tuple[str, Sequence[Find]]], also: Iterable[str] = ()) -> None:
        """Choose the placeholders.

        Args:
            learned: The normalised texts that are learned, in order, each with its private details.
            also: Further texts of the conversation. The details in them get a placeholder when `name` is
                called.
        """
        said = [*learned]
        self._taken = {mark for text in (*also, *(text for text, _ in said)) for mark in PLACEHOLDER.findall(text)}
        self._names: dict[tuple[PII, str], str] = {}
        self._counts: dict[PII, int] = {}
        details = dict.fromkeys(
            (find.kind, identity(find.kind, text[find.start : find.end])) for text, of in said for find in of
        )
        kinds = [kind for kind, _ in details]
        for detail in details:
            self._names[detail] = self._next(detail[0], plain=kinds.count(detail[0]) == 1)

    @classmethod
    def of(cls, texts: Iterable[str], search: Callable[[str], Sequence[Find]] = finds) -> "Placeholders":
        """Return placeholders for the private details that `search` finds in these texts."""
        return cls((text, search(text)) for text in map(normalise, texts))

    def name(self, kind: PII, detail: str) -> str:
        """Return the placeholder of a detail. If it has none yet, one is chosen."""
        key = kind, identity(kind, detail)
        if key not in self._names:
            self._names[key] = self._next(kind, plain=kind not in self._counts)
        return self._names[key]

    def _next(self, kind: PII, *, plain: bool) -> str:
        """Return a new placeholder of a kind. One that a text contains, since somebody typed it, is skipped."""
        if plain and kind.placeholder not in self._taken:
            self._counts[kind] = 1
            return kind.placeholder
        numbers = count(self._counts.get(kind, 0) + 1)
        self._counts[kind] = number = next(n for n in numbers if _numbered(kind, n) not in self._taken)
        return _numbered(kind, number)


def _numbered(kind: PII, number: int) -> str:
    return f"[{kind.name}_{number}]"


def identity(kind: PII, detail: str) -> str:
    """Return a key that is equal for different spellings of the same detail.

    It ignores spaces, marks within numbers, and case unless the detail is case-sensitive.
    """
    said = unicodedata.normalize("NFKC", detail)
    if kind in (PII.PHONE, PII.CARD, PII.SSN):
        return _number(said)
    if kind is PII.URL:
        return _link(said)
    if kind is PII.IBAN:
        return "".join(filter(str.isalnum, said)).casefold()
    if kind is PII.IP:
        try:
            return str(ip_address(said))
        except ValueError:
            return said.casefold()
    # passwords are case-sensitive
    return said if kind is PII.SECRET else "".join(said.casefold().split()) if kind is PII.EMAIL else _words(said)


def _words(text: str) -> str:
    return " ".join(text.casefold().split())


def _number(text: str) -> str:
    """Return the digits of a number. In phone numbers, +49 (0)30 and 0049 30 both become +4930."""
    abroad = re.match(r"\s*\(?\s*(?:\+|00(?=[^0]))", text)
    if abroad:
        text = text[abroad.end() :].replace("(0)", "")
    return "+" * bool(abroad) + "".join(str(unicodedata.decimal(sign)) for sign in text if sign.isdecimal())


def _link(text: str) -> str:
    """Return a link with lower-case scheme and host; only the path is case-sensitive."""
    scheme, mark, rest = text.rpartition("://") if text.count("://") == 1 else ("", "", text)
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    return f"{scheme}{mark}{rest[:end]}".casefold() + ("" if rest[end:] == "/" else rest[end:])
