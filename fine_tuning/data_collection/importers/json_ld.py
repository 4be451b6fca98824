"""Read the questions and answers that a web page states for search engines: its JSON-LD (schema.org).

A page of frequently asked questions has an object of the type FAQPage, a page of a forum one of the type
QAPage, each in a `<script type="application/ld+json">`.
"""

import json
import re
from collections.abc import Iterator, Sequence
from html import unescape

from fine_tuning.data_collection.importers.chats import Chat, Fault
from fine_tuning.data_collection.importers.nested import chats_within
from fine_tuning.data_collection.importers.shape import Importer, Source

_SCRIPT = re.compile(r"<script[^>]*application/ld\+json[^>]*>(.*?)</script\s*>", re.DOTALL | re.IGNORECASE)
_QUESTION = re.compile(r'"@type"\s*:\s*\[?\s*"Question"')
_COMMENT = re.compile(r"^\s*(?:<!--|//<!\[CDATA\[|<!\[CDATA\[)|(?:-->|//\]\]>|\]\]>)\s*$")
_LARGEST = 32 << 20  # characters of a page


def _fits(lines: Sequence[str]) -> bool:
    text = "\n".join(lines)
    return "application/ld+json" in text and bool(_QUESTION.search(text))


def _read(source: Source) -> Iterator[Chat | Fault]:
    with source.member.text(source.read) as text:
        page = text.read(_LARGEST)
        if text.read(1):
            yield Fault("the end", f"expected a page of at most {_LARGEST} characters")
    for found in _SCRIPT.finditer(page):
        if not _QUESTION.search(found[1]):
            continue
        place = f"line {page.count(chr(10), 0, found.start()) + 1}"
        try:
            value = json.loads(_COMMENT.sub("", found[1]), strict=False, object_hook=_unescaped)
        except (ValueError, RecursionError) as error:
            yield Fault(place, f"expected JSON: {error}")
            continue
        yield from chats_within([value], place, source, [])


def _unescaped(found: dict[str, object]) -> dict[str, object]:
    """Return an object with its texts as a page shows them: many pages write "&amp;" in them."""
    return {key: unescape(value) if isinstance(value, str) else value for key, value in found.items()}


JSON_LD = Importer("questions and answers in a web page (JSON-LD)", _fits, _read, frozenset({"text"}))
