"""Read plain text, including text that was extracted from a PDF.

Paragraphs, lists, headings and key-value lines are recognised by their form.
"""

import re

from fine_tuning.data_collection.documents.blocks import Block, Heading, Items, Paragraph

_ITEM = re.compile(r"\s{0,8}(?:[-*•‣▪◦–·]|\(?\d{1,2}[.)]|[a-z]\))\s+(?=\S)")
_NUMBERED = re.compile(r"(?P<number>\d{1,2}(?:\.\d{1,2}){0,4})\.?\s+(?P<title>[^\W\d_].*)")
_RULE = re.compile(r"\s*([-=_~*])\1{2,}\s*")
_KEY = re.compile(r"[^\W\d_][^:.!?]{0,40}:\s+\S.*")
_LONGEST_HEADING = 70  # characters


def read(text: str) -> list[Block]:
    """Return the blocks of a plain text."""
    found: list[Block] = []
    for piece in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n")):
        lines = [line for line in piece.split("\n") if line.strip()]
        while lines:
            block, used = _next(lines)
            found += [block] if block else []
            lines = lines[used:]
    return found


def _next(lines: list[str]) -> tuple[Block | None, int]:
    """Return the first block of `lines` (None for a line such as "-----"), and the number of its lines."""
    first = lines[0].strip()
    if len(lines) > 1 and _RULE.fullmatch(lines[1]) and len(first) <= _LONGEST_HEADING:
        return Heading(first, 1 if "=" in lines[1] else 2), 2
    if _RULE.fullmatch(lines[0]):
        return None, 1
    if (
        (numbered := _NUMBERED.fullmatch(first))
        and _may_head(numbered["title"])
        and (len(lines) == 1 or not _ITEM.match(lines[1]))
    ):
        return Heading(numbered["title"], 2 + numbered["number"].count(".")), 1
    if _ITEM.match(lines[0]) or _KEY.fullmatch(first):
        return _items(lines)
    if _may_head(first) and (len(lines) == 1 or first.isupper() or _begins_anew(lines[1])):
        return Heading(first, 1 if first.isupper() else 2), 1
    used = next((at for at in range(1, len(lines)) if _ends_paragraph(lines, at)), len(lines))
    return Paragraph(_joined(lines[:used])), used


def _ends_paragraph(lines: list[str], at: int) -> bool:
    """Return whether the line at the index `at` begins something new, instead of continuing the paragraph.

    Empty lines alone do not show this: text that was extracted from a PDF has none.
    """
    line = lines[at].strip()
    if _ITEM.match(lines[at]) or _RULE.fullmatch(line):
        return True
    numbered = _NUMBERED.fullmatch(line)
    if not _may_head(numbered["title"] if numbered else line) or at + 1 == len(lines):
        return False
    return line.isupper() or (
        lines[at - 1].rstrip().endswith((".", "!", "?", ":")) and (numbered is not None or _begins_anew(lines[at + 1]))
    )


def _may_head(line: str) -> bool:
    """Return whether a line may be a heading: short, with letters, and not a sentence."""
    return len(line) <= _LONGEST_HEADING and line[:1].isupper() and line[-1] not in ".,;:!?" and len(line.split()) <= 9


def _begins_anew(line: str) -> bool:
    """Return whether a line looks like the beginning of a paragraph, and not like a continued one."""
    return line.strip()[:1].isupper() and len(line.strip()) > _LONGEST_HEADING // 2


def _items(lines: list[str]) -> tuple[Block, int]:
    items: list[str] = []
    used = 0
    for line in lines:
        if mark := _ITEM.match(line):
            items.append(line[mark.end() :].strip())
        elif _KEY.fullmatch(line.strip()):
            items.append(line.strip())
        elif items and not items[-1].endswith((".", "!", "?")) and line[:1].isspace():
            items[-1] = _joined([items[-1], line])
        else:
            break
        used += 1
    return Items(tuple(items)), used


def _joined(lines: list[str]) -> str:
    """Return lines as one. Words that are hyphenated at the end of a line are joined."""
    text = " ".join(line.strip() for line in lines)
    return re.sub(r"(?<=[a-zäöüß])- (?=[a-zäöüß])(?!(?:and|or|und|oder)\b)", "", text)
