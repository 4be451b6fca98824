"""Convert simple HTML to Markdown: paragraphs, lists, headings, bold text and code."""

import re
from html.parser import HTMLParser

_MARKS = {"strong": "**", "b": "**", "em": "*", "i": "*"}
_BLOCKS = frozenset(("p", "div", "table", "blockquote"))
_UNSEEN = frozenset(("script", "style"))


def text_of_html(source: str) -> str:
    """Return the text of HTML as Markdown."""
    reader = _Reader()
    reader.feed(source)
    reader.close()
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", reader.text)).strip()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self._lists: list[int | None] = []  # for each open list the next number; None if it is not numbered
        self._verbatim = self._unseen = 0  # number of open verbatim and invisible elements

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen += 1
        elif tag == "pre":
            self._verbatim += 1
        elif tag in ("ul", "ol"):
            self.text += "" if self._lists else "\n\n"
            self._lists.append(1 if tag == "ol" else None)
            return
        elif tag == "li" and self._lists and (number := self._lists[-1]):
            self._lists[-1] = number + 1
        self.text += self._mark(tag, begins=True)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("ul", "ol"):
            self._lists = self._lists[:-1]
            self.text += "" if self._lists else "\n\n"
            return
        if tag == "pre" and not self._verbatim:
            return  # an end tag without a beginning
        if tag == "pre":
            self.text = self.text.rstrip()
        self.text += self._mark(tag, begins=False)
        self._verbatim -= tag == "pre" and self._verbatim > 0
        self._unseen -= tag in _UNSEEN and self._unseen > 0

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        if not self._verbatim:
            data = re.sub(r"\s+", " ", data)
            data = data.lstrip() if self.text.endswith("\n") else data
        self.text += data

    def _mark(self, tag: str, begins: bool) -> str:
        if tag == "pre":
            return "\n\n```\n" if begins else "\n```\n\n"
        if tag == "code":
            return "" if self._verbatim else "`"
        if tag in _MARKS:
            return _MARKS[tag]
        if tag == "li" and begins:
            number = (self._lists[-1] or 0) - 1 if self._lists else -1
            return "\n" + "  " * (len(self._lists) - 1) + (f"{number}. " if number > 0 else "- ")
        if tag[:1] == "h" and tag[1:2] in "123456" and len(tag) == 2:
            return f"\n\n{'#' * int(tag[1])} " if begins else "\n\n"
        if tag in _BLOCKS and not self._lists:
            return "\n\n"
        return {"br": "\n", "tr": "\n", "td": " | ", "th": " | "}.get(tag, "") if begins else ""
