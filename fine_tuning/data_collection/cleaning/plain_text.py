"""Normalise messages to plain text: one form of line ends, and in prose one form of spaces.

Code, tables and drawings stay unchanged, apart from line ends and invisible characters.
"""

import re
import unicodedata
from collections.abc import Sequence
from itertools import groupby

from fine_tuning.data_collection.cleaning.code_parts import Part, parts
from fine_tuning.data_collection.cleaning.text_signs import ALL

_LINE_ENDS = re.compile("\r\n?")
_LINE_ENDS_OF_PROSE = re.compile("[\v\f\x85\u2028\u2029]")
# Several spaces or a tab within a line, or else code in backticks, which is kept.
_WIDE_SPACES = re.compile(r"(?P<code>(?<!`)(?P<ticks>`+)(?!`)[^\n]+?(?<!`)(?P=ticks)(?!`))|(?<=\S)(?:[ \t]{2,}|\t)")
_EMPTY_LINES = re.compile(r"\n{3,}")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
# The flag of a region: a black flag, the region's code in tag characters, and a tag that ends it (Unicode UTS #51).
_FLAG = "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f"
# Controls, unpaired surrogates, and invisible characters: soft hyphens, zero-width spaces, marks of
# direction, tags. Joiners stay: some scripts need them for spelling.
_UNSEEN = re.compile(
    f"({_FLAG})|"
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060-\u2064\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


class Layout:
    """A text divided into prose, code and tables. The division is computed on first use, and only once.

    `signs` says which rules may apply to the text (`text_signs.py`); by default all.
    """

    __slots__ = ("_parts", "_pieces", "signs", "text")

    def __init__(self, text: str, signs: int = ALL) -> None:
        self.text, self.signs = text, signs
        self._parts: list[Part] | None = None
        self._pieces: list[tuple[bool, str]] | None = None

    @staticmethod
    def of(text: "str | Layout") -> "Layout":
        """Return the layout of a text. A layout is returned as it is."""
        return text if isinstance(text, Layout) else Layout(text)

    @property
    def parts(self) -> list[Part]:
        """The parts of the text: prose, code and tables (`code_parts.parts`)."""
        if self._parts is None:
            self._parts = parts(self.text, self.signs)
        return self._parts

    @property
    def pieces(self) -> list[tuple[bool, str]]:
        """The text in pieces, each with whether it is prose (True) or code, a table or a drawing (False)."""
        if self._pieces is None:
            found, text = self.parts, self.text
            is_one = len(found) == 1 and text.count("\n") < 2 and "\t" not in text  # it has neither cells nor a drawing
            self._pieces = [(found[0].kind == "prose", text)] if is_one else _pieces(found)
        return self._pieces


def small_letters(text: str) -> str:
    """Return `text` in lower case. Letters that a case-insensitive regex treats as the same become the same.

    So the letter i becomes the same with or without its dot.
    """
    small = text.casefold()
    return small if small.isascii() else small.replace("i\u0307", "i").replace("ı", "i")


_ASCII_SIGNS = bytes(code for code in range(128) if not chr(code).isalnum())


def letters_and_digits(text: str) -> int:
    """Return the number of letters and digits of any script."""
    return len(text.encode().translate(None, _ASCII_SIGNS)) if text.isascii() else sum(map(str.isalnum, text))


def normalise(text: str) -> str:
    """Return `text` in Unicode NFC with plain line ends, without invisible characters and outer blank lines.

    In prose, several spaces become one, and several empty lines become one; indentation is kept.
    """
    return normalised(text).text


def normalised(text: str) -> Layout:
    """Return `normalise(text)` as a Layout, whose parts are already known from normalising."""
    if _is_plain(text):
        return Layout(text)
    text = _UNSEEN.sub(lambda match: match[1] or "", _LINE_ENDS.sub("\n", text) if "\r" in text else text)
    layout = Layout(unicodedata.normalize("NFC", text))
    while (tidy := _tidy(layout)) != layout.text:  # repeated, since without some spaces a line may look like code
        layout = Layout(tidy)
    return layout


def _is_plain(text: str) -> bool:
    """Return whether a text is normalised already, so that nothing has to be done.

    Such a text has only single spaces within lines, at most one empty line in a row, and no invisible
    characters, which `str.isprintable` rejects.
    """
    return (
        (text.replace("\n", "") if "\n" in text else text).isprintable()
        and "  " not in text
        and " \n" not in text
        and "\n\n\n" not in text
        and text[:1] not in _GAPS
        and text[-1:] not in _GAPS
        and unicodedata.is_normalized("NFC", text)
    )


_GAPS = (" ", "\n")


def _pieces(parts: Sequence[Part]) -> list[tuple[bool, str]]:
    lines = [(part.kind == "prose", line) for part in parts for line in _LINES.findall(part.text)]
    prose = [
        is_prose and not cells for (is_prose, _), cells in zip(lines, _cells([line for _, line in lines]), strict=True)
    ]
    found: list[tuple[bool, str]] = []
    for (is_prose, signs), run in groupby(
        zip(prose, lines, strict=True), lambda each: (each[0], _mostly_signs(each[1][1]))
    ):
        block = [line for _, (_, line) in run]
        drawn = signs and len({line.strip() for line in block}) >= 3
        kind = is_prose and not drawn
        if found and found[-1][0] == kind:
            block.insert(0, found.pop()[1])
        found.append((kind, "".join(block)))
    return found


_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_CELL_ENDS = re.compile(r"\S\t")


def _cells(lines: Sequence[str]) -> list[bool]:
    """Return for each line whether it is a row of a table whose cells are separated by tabs.

    It is one if it contains a tab and a line next to it has a tab after a cell. A row itself may begin
    or end with empty cells.
    """
    divided = [bool(_CELL_ENDS.search(line)) for line in lines]
    return [
        "\t" in line and any(divided[max(index - 1, 0) : index] + divided[index + 1 : index + 2])
        for index, line in enumerate(lines)
    ]


def _mostly_signs(line: str) -> bool:
    seen = "".join(line.split())
    return bool(seen) and 2 * letters_and_digits(seen) < len(seen)


def _tidy(layout: Layout) -> str:
    found = layout.pieces
    tidied = [_tidy_prose(piece) if prose else piece for prose, piece in found]
    if not tidied:
        return ""
    tidied[1:] = [
        re.sub(r"^\n{2,}", "\n", piece) if prose else piece
        for piece, (prose, _) in zip(tidied[1:], found[1:], strict=True)
    ]
    tidied[0] = tidied[0].lstrip() if found[0][0] else re.sub(r"^(?:[ \t]*\n)+", "", tidied[0])
    tidied[-1] = tidied[-1].rstrip() if found[-1][0] else tidied[-1].rstrip("\n")
    return "".join(tidied)


def _tidy_prose(text: str) -> str:
    text = _LINE_ENDS_OF_PROSE.sub("\n", text)
    if not text.isascii():
        text = _SPACES.sub(" ", text)
    if "  " in text or "\t" in text:
        text = _WIDE_SPACES.sub(lambda match: match["code"] or " ", text)
    text = "\n".join(map(str.rstrip, text.split("\n")))
    return _EMPTY_LINES.sub("\n\n", text) if "\n\n\n" in text else text
