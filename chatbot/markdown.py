"""A model's answer as Markdown that is safe and reads as it was meant: no picture is fetched, no price becomes a formula.

Streamlit shows HTML in Markdown as text, but renders images and `$...$`. This is only what people see; the log keeps what was said.
Whatever a text contrives, the page's Content-Security-Policy (server.py) still keeps foreign pictures out.
"""

import re

from markdown_it import MarkdownIt

_CODE = re.compile(
    r"""
    ^[ ]{0,3} (?P<fence>`{3,}+|~{3,}+) [^\n]*+ \n .*? (?: ^[ ]{0,3} (?P=fence) [^\n]*$ | \Z )   # a fenced block, maybe still open
    | (?<![`\\]) (?P<tick>`++) .+? (?<!`) (?P=tick) (?!`)                                       # a span
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
_FORMULA = re.compile(r"(\$\$.+?\$\$|(?<![\\$])\$(?=\S)(?:[^$\n\\]|\\.)+(?<=\S)\$(?![\d$]))", re.DOTALL)  # pandoc's rule for single dollars


def presentable(text: str) -> str:
    """`text` with images as plain addresses and lone dollars as dollars; code is left alone unless it hides an image."""
    parts, position = [], 0
    for code in _CODE.finditer(text):
        parts += [_prose(text[position : code.start()]), code[0]]
        position = code.end()
    shown = "".join([*parts, _prose(text[position:])])
    return _without_images(shown) if _has_image(shown) else shown


def _has_image(text: str) -> bool:
    """By a whole parser: what looks like code here may be none there, e.g. backticks in two cells of a table."""
    if "![" not in text:
        return False
    blocks = MarkdownIt("commonmark").enable("table").parse(text)
    return any(token.type == "image" for block in blocks for token in block.children or [])


def _without_images(text: str) -> str:
    return text.replace("![", "!\\[")


def _prose(text: str) -> str:
    pieces = _FORMULA.split(text)  # formulas at the odd places
    return "".join(piece if index % 2 else _plain(piece) for index, piece in enumerate(pieces))


def _plain(text: str) -> str:
    return re.sub(r"(?<!\\)\$", r"\\$", _without_images(text))
