"""Make a model's answer safe Markdown that is shown as intended: no image is loaded, no price becomes a formula.

Streamlit shows HTML in Markdown as text, but it renders images, and `$...$` and `$$...$$` as
formulas. Models also write `\\(...\\)` and `\\[...\\]`, which become formulas too. Only the display
changes; the log keeps the original. Whatever a text contains, the page's Content-Security-Policy
(server.py) also blocks images from elsewhere.
"""

import re

from markdown_it import MarkdownIt

_CODE = re.compile(
    r"""
    ^[ ]{0,3} (?P<fence>`{3,}+|~{3,}+) [^\n]*+ \n .*? (?: ^[ ]{0,3} (?P=fence) [^\n]*$ | \Z )   # a fenced block, maybe still open
    | (?<![`\\]) (?P<tick>`++) .+? (?<!`) (?P=tick) (?!`)                                       # a span
    """,  # noqa: E501
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
# code, or part of a list: only a parser can tell
_INDENTED = re.compile(r"^(?: {4}|\t| *[-*+>\d]).*[$\\!]", re.MULTILINE)
_CODE_MARK = "\0"  # replaces each character of code in the search for formulas

_FORMULA = re.compile(
    r"""
    \\\\                                                                              # a backslash, or TeX's end of a line
    | \\\[ (?P<display> (?: [^\\\0\n] | \n(?![ \t>]*\n) | \\[^][()\0] )+ ) \\\]       # \[...\], within a paragraph
    | \\\( (?P<inline>  (?: [^\\\0\n] | \n(?![ \t>]*\n) | \\[^][()\0] )+ ) \\\)       # \(...\)
    | \$\$ (?P<dollars> [^\0]+? ) \$\$
    | (?<![\\$])\$(?P<dollar>(?=\S)(?:[^$\n\\\0]|\\[^\n\0])+(?<=\S))\$(?![\d$])       # pandoc's rule for single dollars
    """,  # noqa: E501
    re.VERBOSE,
)
_TEX = re.compile(r"[\\^_={}<>+*|]")  # characters that prose in escaped brackets rarely has
_TEX_IN_TEXT = re.compile(r"[\\^]|_\{| [-=<>+*] ")
_WORD = re.compile(r"[^\W\d_]{2,}")
_MARKERS = re.compile(r"[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?")  # marks of quotes and lists before a line


_SIGNS = re.compile(r"[!-/:-@\[-`{-~]")  # every character that may have a meaning in Markdown
# :smile:, :material/home:, :red[...]: Streamlit looks for them after Markdown's escapes
_SHORTCODE = re.compile(r":(?=[\w+/-]+[:\[])")


def literal(text: str) -> str:
    """Return `text`, a single line, as Markdown that shows every character literally.

    An invisible joiner keeps shortcodes such as `:smile:` from becoming pictures.
    """
    return _SIGNS.sub(r"\\\g<0>", _SHORTCODE.sub(":\u2060", text))


def presentable(text: str) -> str:
    """Return `text` as Markdown that shows images as their source text, TeX as formulas, and other dollars literally.

    Code is left unchanged unless it hides an image.
    """
    masked = _without_code(text)
    parts, position = [], 0
    for found in _FORMULA.finditer(masked):
        if (formula := _formula(masked, found)) is not None:
            parts += [_prose(text, masked, position, found.start()), formula]
            position = found.end()
    shown = "".join([*parts, _prose(text, masked, position, len(text))])
    return _without_images(shown) if _has_image(shown) else shown


def _without_code(text: str) -> str:
    """Return `text` with each character of code replaced by a mark, so that all positions stay the same."""
    masked = _CODE.sub(lambda code: _CODE_MARK * len(code[0]), text)
    if not _INDENTED.search(text):
        return masked
    starts = [0, *(end.end() for end in re.finditer("\n", text)), len(text)]
    for block in MarkdownIt("commonmark").enable("table").parse(text):
        if block.type in ("fence", "code_block") and block.map:
            start, end = (starts[min(line, len(starts) - 1)] for line in block.map)
            masked = masked[:start] + _CODE_MARK * (end - start) + masked[end:]
    return masked


def _formula(text: str, found: re.Match[str]) -> str | None:
    """Return the formula that `found` matches, between dollar signs as Streamlit expects it; None if it is not one."""
    kind = found.lastgroup
    if kind is None:
        return None
    tex = found[kind]
    if kind == "dollar" or (kind == "dollars" and "\n" not in tex):
        return found[0]
    if kind == "inline":
        words = _WORD.findall(tex)
        is_prose = not _TEX.search(tex) and (len(words) > 1 or any(len(word) > 3 for word in words))
        return None if is_prose or not tex.strip() else _in_text(tex, 1)
    line = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
    rest = text[found.end() :].partition("\n")[0]
    alone = bool(_MARKERS.fullmatch(line)) and not rest.strip()
    if kind == "display" and not _is_display(tex, alone, rest):
        return None
    return _on_its_own_lines(tex, line) if alone else _in_text(tex, 2)


def _is_display(tex: str, alone: bool, rest: str) -> bool:
    r"""Return whether \[...\] is a formula, and not text in escaped brackets, such as \[1\] or \[x\] done.

    Args:
        tex: The text in the brackets.
        alone: Whether nothing else is on the lines of the brackets.
        rest: The rest of the line after the brackets.
    """
    if alone:
        return bool(_TEX.search(tex)) or not (_WORD.search(tex) or tex.strip().isdigit())
    padded = tex[0].isspace() and tex[-1].isspace()
    return bool(_TEX.search(tex)) if padded else bool(_TEX_IN_TEXT.search(tex)) and not rest.startswith("(")


def _in_text(tex: str, dollars: int) -> str:
    fence = _fence(tex, dollars)
    return f"{fence}{' '.join(tex.split())}{fence}"


def _on_its_own_lines(tex: str, before: str) -> str:
    """Return TeX as a block of lines, each of which begins with the marks of the quote or list around it.

    `before`: the marks before its first line.
    """
    margin = "".join(mark if mark in ">\t" else " " for mark in before)
    lines = [line.strip() for line in tex.split("\n")]
    lines = [line.lstrip("> \t") if ">" in before else line for line in lines]
    fence = _fence(tex, 2)
    return "\n".join([fence, *(margin + line for line in lines if line), margin + fence])


def _fence(tex: str, least: int) -> str:
    """Return a run of at least `least` dollar signs that is longer than any in `tex`."""
    return "$" * max([least, *(len(run) + 1 for run in re.findall(r"\$+", tex))])


def _has_image(text: str) -> bool:
    """Return whether a complete Markdown parser finds an image in the text.

    The simple patterns of this module may mistake text for code, such as backticks in two cells of a
    table, and so miss an image.
    """
    if "![" not in text:
        return False
    blocks = MarkdownIt("commonmark").enable("table").parse(text)
    return any(token.type == "image" for block in blocks for token in block.children or [])


def _without_images(text: str) -> str:
    return text.replace("![", "!\\[")


def _prose(text: str, masked: str, start: int, end: int) -> str:
    """Return `text` from `start` to `end`, where there is no formula, with dollars and images escaped outside of code.

    `masked` is the text with each character of code replaced by a mark.
    """
    parts = re.finditer(f"{_CODE_MARK}+|[^{_CODE_MARK}]+", masked[start:end])
    found = ((part[0][0], text[start + part.start() : start + part.end()]) for part in parts)
    return "".join(part if first == _CODE_MARK else _plain(part) for first, part in found)


def _plain(text: str) -> str:
    return re.sub(r"(?<!\\)\$", r"\\$", _without_images(text))
