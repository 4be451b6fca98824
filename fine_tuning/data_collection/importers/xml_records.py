"""Read XML as records: each element below the root, as an object with its attributes and the elements in it.

An element without attributes and elements is a text; so is one whose text has marks in it, such as
`<b>` or `<pause/>`. An element that occurs several times is a list. Namespaces are left out.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any

from lxml import etree

from fine_tuning.data_collection.importers.chats import Fault
from fine_tuning.data_collection.importers.files import Member, Read, unwatched
from fine_tuning.data_collection.importers.html_text import text_of_html
from fine_tuning.data_collection.importers.json_stream import LONGEST

_PIECE = 1 << 16  # bytes read at once
# elements that mark a text and hold nothing of their own
_MARKS = frozenset(("a", "b", "blockquote", "br", "code", "div", "em", "font", "i", "li", "ol", "p", "pre", "span"))
_ROOT = re.compile(r"<([A-Za-z_][\w.:-]*)")
# an emoji as the two halves that it has in UTF-16, which SMS Backup & Restore writes and XML does not allow
_HALVES = re.compile(rb"&#(5[5-7]\d{3});&#(5[5-7]\d{3});")


def is_xml(start: str, suffix: str) -> bool:
    """Return whether a text that begins with `start` is XML; a web page is not, even if it is written as XML."""
    if not start.startswith("<?xml") and not (suffix == ".xml" and start.startswith("<")):
        return False
    root = _ROOT.search(start)
    return root is not None and root[1].lower() != "html"


def elements(member: Member, read: Read = unwatched) -> Iterator[tuple[str, object] | Fault]:
    """Yield (place, value) for each element below the root. After damage, reading goes on as far as the parser can."""
    parser = etree.XMLPullParser(
        ("start", "end"), resolve_entities=False, no_network=True, recover=True, remove_comments=True, remove_pis=True
    )
    depth = unread = 0
    with member.opened(read) as content:
        try:
            for piece in _pieces(content):
                parser.feed(piece)
                unread += len(piece)
                for event, element in parser.read_events():
                    depth += 1 if event == "start" else -1
                    if event == "end" and depth == 1:
                        yield _found(element)
                        unread = 0
                        _forget(element)
                if unread > LONGEST:
                    yield Fault("the end", f"expected elements of at most {LONGEST} bytes below the first one")
                    return
        except etree.LxmlError as error:
            yield Fault("", f"expected XML: {error}")
    if damage := next(iter(parser.error_log), None):
        yield Fault(f"line {damage.line}", f"expected XML: {damage.message}")


def _found(element: Any) -> tuple[str, object] | Fault:
    place = f"line {element.sourceline}"
    try:
        return place, _value(element)
    except UnicodeError:  # such as half an emoji, which the parser lets pass
        return Fault(place, "expected characters that XML allows")


def _pieces(content: IO[bytes]) -> Iterator[bytes]:
    """Yield the bytes of a file in pieces that end with an element, with emoji in a form that XML allows."""
    rest = b""
    while piece := content.read(_PIECE):
        piece = rest + piece
        end = piece.rfind(b">") + 1 or len(piece)
        yield _HALVES.sub(_emoji, piece[:end])
        rest = piece[end:]
    yield rest


def _emoji(halves: re.Match[bytes]) -> bytes:
    high, low = (int(half) for half in halves.groups())
    is_pair = 0xD800 <= high < 0xDC00 <= low < 0xE000
    return b"&#%d;" % (0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)) if is_pair else halves[0]


def _forget(element: Any) -> None:
    """Free the memory of an element that has been read, and of all before it."""
    element.clear()
    while element.getprevious() is not None:
        del element.getparent()[0]


def _value(element: Any) -> object:
    inner = [each for each in element if isinstance(each.tag, str)]
    names = [_name(each.tag) for each in inner]
    has_text = any((text or "").strip() for text in (element.text, *(each.tail for each in element)))
    if inner and not has_text and not _MARKS.issuperset(names):
        found = {_name(key): value for key, value in element.attrib.items()}
        counts = Counter(names)
        lists: dict[str, list[object]] = {name: [] for name, count in counts.items() if count > 1}
        for name, each in zip(names, inner, strict=True):
            if name in lists:
                lists[name].append(_value(each))
            else:
                found[name] = _value(each)
        return {**found, **lists}
    source = etree.tostring(element, encoding="unicode", with_tail=False)
    text = text_of_html(source) if inner else "".join(element.itertext()).strip()
    facts = {_name(key): value for key, value in element.attrib.items()}
    return {**facts, "text": text} if facts and text else facts or text


def _name(tag: str) -> str:
    return tag.rpartition("}")[2]
