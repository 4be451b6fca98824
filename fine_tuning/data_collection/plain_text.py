"""Plain text of what was said: one form of line ends, and in prose one of spaces. Code, tables and drawings stay to the byte."""

import re
import unicodedata
from itertools import groupby

from fine_tuning.data_collection.code_parts import parts

_LINE_ENDS = re.compile("\r\n?")
_LINE_ENDS_OF_PROSE = re.compile("[\v\f\x85\u2028\u2029]")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
# The flag of a part of a country: a black flag, the part's code in tag characters, and their end (Unicode UTS #51).
_FLAG = "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f"
# Controls, half characters, and what nobody sees: soft hyphens, zero-width spaces, reversed directions, tags. Joiners stay: they spell.
_UNSEEN = re.compile(
    f"({_FLAG})|"
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060-\u2064\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def normalise(text: str) -> str:
    """Return `text` in Unicode NFC with plain line ends and nothing invisible, without blank lines around it.

    In prose, spaces become plain and single, and empty lines too; indentation stays.
    """
    text = _UNSEEN.sub(lambda match: match[1] or "", _LINE_ENDS.sub("\n", text))
    text = unicodedata.normalize("NFC", text)
    while (tidy := _tidy(text)) != text:  # again, for fewer spaces may show that a line is code
        text = tidy
    return text


def pieces(text: str) -> list[tuple[bool, str]]:
    """Return the text in pieces that are prose (True), or code, tables and drawings (False); joined they are `text`."""
    found: list[tuple[bool, str]] = []
    for part in parts(text):
        found += _drawings(part.text) if part.kind == "prose" else [(False, part.text)]
    return found


def _tidy(text: str) -> str:
    found = pieces(text)
    tidied = [_tidy_prose(piece) if prose else piece for prose, piece in found]
    if not tidied:
        return ""
    tidied[1:] = [re.sub(r"^\n{2,}", "\n", piece) if prose else piece for piece, (prose, _) in zip(tidied[1:], found[1:], strict=True)]
    tidied[0] = tidied[0].lstrip() if found[0][0] else re.sub(r"^(?:[ \t]*\n)+", "", tidied[0])
    tidied[-1] = tidied[-1].rstrip() if found[-1][0] else tidied[-1].rstrip("\n")
    return "".join(tidied)


def _tidy_prose(text: str) -> str:
    text = _SPACES.sub(" ", _LINE_ENDS_OF_PROSE.sub("\n", text))
    text = re.sub(r"(?<=\S)(?:[ \t]{2,}|\t)", " ", text)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.split("\n")))


def _drawings(text: str) -> list[tuple[bool, str]]:
    """Return prose as it is, and three lines or more of which most signs are neither letters nor digits as no prose."""
    lines = text.splitlines(keepends=True)
    found: list[tuple[bool, str]] = []
    for drawn, run in groupby(lines, _mostly_signs):
        block = list(run)
        drawn = drawn and len({line.strip() for line in block}) >= 3
        if found and found[-1][0] == (not drawn):
            found[-1] = (not drawn, found[-1][1] + "".join(block))
        else:
            found.append((not drawn, "".join(block)))
    return found


def _mostly_signs(line: str) -> bool:
    seen = line.split()
    return bool(seen) and 2 * sum(map(str.isalnum, "".join(seen))) < len("".join(seen))
