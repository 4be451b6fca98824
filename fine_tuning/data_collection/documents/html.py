"""Read HTML with lxml. Nothing is fetched, and no script is run."""

from itertools import pairwise

import lxml.html
from lxml import etree

from fine_tuning.data_collection.documents.blocks import Block, Heading, Items, Paragraph, Table
from fine_tuning.data_collection.documents.word_sets import words
from fine_tuning.errors import DataError

_UNSEEN = words("script style noscript template nav footer aside form button iframe svg head object pre")
_INLINE = words(
    "a abbr b bdi bdo br cite code data del dfn em font i ins kbd label mark q s samp small span strong sub sup "
    "time u var wbr img"
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}


def read(text: str) -> list[Block]:
    """Return the blocks of an HTML page. Raises DataError if the text is not HTML."""
    parser = lxml.html.HTMLParser(
        encoding="utf-8", no_network=True, remove_comments=True, remove_pis=True, huge_tree=False
    )
    try:
        root = lxml.html.document_fromstring(text.replace("\0", " ").encode("utf-8", "replace"), parser=parser)
    except (etree.LxmlError, ValueError, AssertionError, LookupError) as error:
        raise DataError(f"the document cannot be read as HTML ({error}): save it again, or as plain text") from error
    found: list[Block] = []
    _walk(root, found)
    return found


def _walk(root: etree._Element, found: list[Block]) -> None:
    """Add the blocks below an element to `found`, in order.

    This is not recursive, since a page may be nested to any depth.
    """
    waiting: list[etree._Element | str] = [root]
    loose = ""  # text outside of any block element
    while waiting:
        now = waiting.pop()
        if isinstance(now, str):
            loose += now
            continue
        tag = now.tag if isinstance(now.tag, str) else ""
        if not tag or tag in _UNSEEN or "hidden" in now.attrib:
            loose += " "
            continue
        if tag in _INLINE:
            loose += _shown(now)
            continue
        found.append(Paragraph(loose))
        loose = ""
        if block := _block(now, tag):
            found.append(block)
            continue
        waiting.append("\n")
        for child in reversed(now):
            waiting += [child.tail or "", child]
        waiting.append(now.text or "")
    found.append(Paragraph(loose))


def _block(element: etree._Element, tag: str) -> Block | None:
    if tag in _HEADINGS:
        return Heading(_shown(element), _HEADINGS[tag])
    if tag == "p":
        return Paragraph(_shown(element))
    if tag in ("ul", "ol"):
        return Items(tuple(_shown(item) for item in element.iterchildren("li")))
    if tag == "dl":
        terms = [(part.tag, _shown(part)) for part in element.iter("dt", "dd")]
        return Items(
            tuple(f"{term}: {told}" for (one, term), (two, told) in pairwise(terms) if (one, two) == ("dt", "dd"))
        )
    if tag == "table" and not element.xpath(".//table"):
        return Table(tuple(tuple(_shown(cell) for cell in row.iterchildren("td", "th")) for row in element.iter("tr")))
    return None


def _shown(element: etree._Element) -> str:
    """Return the visible text of an element."""
    texts: list[str] = []
    skipping = None
    for event, node in etree.iterwalk(element, events=("start", "end")):
        if event == "start" and skipping is None:
            if node.tag in _UNSEEN:
                skipping = node
            else:
                texts.append(node.text or "")
        elif event == "end":
            skipping = None if node is skipping else skipping
            if skipping is None and node is not element:
                texts.append(("" if node.tag in _INLINE and node.tag != "br" else " ") + (node.tail or ""))
    return "".join(texts)
