"""Divide a text into prose, code and tables, line by line, so that rules for prose are applied to prose only.

Code is text between fences (CommonMark), and lines that look like code of a common language or like
formulas. Each line has one kind: code within a sentence counts as prose.
"""

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from fine_tuning.data_collection.cleaning.text_signs import ALL, CODE, ROWS

Kind = Literal["prose", "code", "table"]


class Part(NamedTuple):
    """Consecutive lines of one kind, with their line ends."""

    kind: Kind
    text: str


def parts(text: str, signs: int = ALL) -> list[Part]:
    """Divide `text` into parts. Neighbouring parts differ in kind; their texts, joined, are `text` exactly.

    `signs` are those of the text (`text_signs.py`).
    """
    if not _may_hold_any(text, signs):
        return [Part("prose", text)] if text else []
    if "\n" not in text:
        return [Part("code" if _FENCE.match(text) or is_code_line(text) else "prose", text)]
    lines = _LINES.findall(text)
    kinds = _kinds(lines)
    runs = groupby(zip(kinds, lines, strict=True), key=lambda pair: pair[0])
    return [Part(kind, "".join(line for _, line in run)) for kind, run in runs]


def _kinds(lines: Sequence[str]) -> list[Kind]:
    fenced = _fenced(lines)
    kinds = _tables(lines, fenced)
    for number, line in enumerate(lines):
        if fenced[number] or (kinds[number] == "prose" and is_code_line(line)):
            kinds[number] = "code"
    _join_below(lines, kinds, fenced)
    _join_above(lines, kinds, fenced)
    return kinds


# Fences

_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r"[ \t>]*(?:(?:[-*+]|\d+[.)])[ \t]+)?(`{3,}(?=[^`]*$)|~{3,})[ \t]*(\S?)")


def _fenced(lines: Sequence[str]) -> list[bool]:
    """Return for each line whether it is a fence or between fences.

    A fence that is never closed ends with the text, as CommonMark says.
    """
    flags = []
    fence = ""
    for line in lines:
        match = _FENCE.match(line)
        flags.append(bool(fence or match))
        if match and not fence:
            fence = match[1]
        elif match and match[1].startswith(fence) and not match[2]:
            fence = ""
    return flags


# Lines that look like code


def _any(words: str) -> str:
    return "(?:" + "|".join(words.split()) + ")"


_KEYWORDS = _any("return yield raise assert del await throw new not")
_CLAUSES = _any(
    "INSERT CREATE ALTER DROP DELETE UPDATE LEFT RIGHT INNER OUTER CROSS WHERE FROM JOIN GROUP ORDER HAVING VALUES"
)
_TOOLS = _any("sudo apt apt-get brew pip3? npm npx yarn cargo git docker kubectl systemctl conda uv poetry")
_TASKS = _any(
    "install update upgrade remove run build add commit push pull clone checkout status diff log init test exec "
    "compose get apply start"
    " stop restart enable sync merge rebase fetch ps"
)
_COMMANDS = _any(
    "cd ls cat cp mv rm mkdir chmod chown grep sed awk find tar curl wget ssh scp rsync ping echo make go "
    "python3? node bash sh source"
)
_SIGNS = r"[={}\[\]<>|`~$\\\t@\"\#;]"
_SIGN = re.compile(rf"(?m)[={{}}\[\]<>|`~$\\\t@\"\#;(/:](?:(?<={_SIGNS})|(?<=\S\()|(?<=/)[/*]|(?<=:)$)")
_BEGINS = rf"""[ ]*(?: [-+.]?\d | [-+(] | >>> | \w+\ [!<>]=?
      | (?: import | from | select | SELECT | {_KEYWORDS} | {_CLAUSES} | {_TOOLS} | {_COMMANDS} | index | diff )[ ] )"""
_FIRST_LINE, _LINE_BELOW = re.compile(_BEGINS, re.VERBOSE), re.compile(rf"\n{_BEGINS}", re.VERBOSE)

_CELL = r"(?:[\d%.–—-]|\bnan|\binf)"
# Signs of a table without pipes: two commas within a row, or two cells with numbers in a row.
_ROWS = re.compile(rf"(?i),(?=\S)[^\n]*?,(?=\S)|{_CELL}(?:(?!\n)[\s,;\[\](){{}}])+[-+−]?{_CELL}")


def _may_hold_any(text: str, signs: int) -> bool:
    """Return whether a text may contain code or a table; if not, its lines need not be examined."""
    anywhere = (signs & CODE and ("  " in text or _SIGN.search(text))) or (
        signs & ROWS and "\n" in text and _ROWS.search(text)
    )
    return bool(anywhere or _FIRST_LINE.match(text) or _LINE_BELOW.search(text))


_NAME = r"[A-Za-z_$][\w$]*(?:(?:\.|->|::)[A-Za-z_$][\w$]*|\[[^\]\n]{1,40}\])*"
_ARGUMENT = r"(?:[\"'(\[{-]|\w(?:$|\W)|\w*[\d_.]\w|(?:None|True|False|null|nil|self|this)\b|\w+\s?[-+*/%<>=!|&\[(])"
_TYPE = r"(?:int|char|bool|float|double|void|auto|long|short|unsigned|string|std::\w+|[su]ize_t|u?int\d+_t)"
_DECLARED = _any(
    "const let var val fn func function pub public private protected static struct enum interface typedef "
    "namespace package"
)
# How lines of code begin, as verbose regular expressions; one match is enough.
_BEGINNINGS = {
    "Python": rf"""
        (?:async\ )?(?:def|class)\ \w+\s?[^\s.!?]*[:(] | (?:el)?if\ .*:$ | except\b[^,.?!]*:$ | (?:else|try|finally)\s*:$
      | (?:async\ )?(?:for|with|while)\ [^,?!]*(?:[(.\[<>=]\S*|\bin\ \S+|\bas\ \w+|True):$ | lambda\b.*:
      | import\ \w+(?:\.\w+)*(?:\ as\ \w+)?(?:,\ \w+)*$ | from\ [\w.]+\ import\ [\w(*] | @\w[\w.]*(?:\(.*)?$
      | {_KEYWORDS}\ {_ARGUMENT} | >>>\ | \.\.\.\ \S.*[=(:] | In\ \[\d+\]: | \#\s?(?:type:|noqa|!/)""",  # noqa: E501
    "C, Java, JavaScript, Go, Rust": rf"""
        (?=.*;$).*(?:\w\(|[=\[\]{{}}]|\+\+|--\w|::|->).*;$ | (?:return|break|continue)\b[^.,]*;$ | {_TYPE}\ [\w*&]+(?:\[\w*\])?\s*[;=(]
      | (?=.*\{{$).*(?:[)=>,\]]|\b[a-z_]\w*)\s*\{{$
      | \}}(?:$|[\s;,)]) | \]\s*[,;)]*$ | {_DECLARED}\ [\w<>\[\]:*&., ]+\s?[=({{;<] | (?=.*=>).*\s=>\s*[\w({{\[]
      | \#\s*(?:include|define|ifdef|ifndef|endif|pragma)\b | //\s*\S+.*[;{{}}(] | /\* | \*/""",  # noqa: E501
    "assignments, calls and comparisons": rf"""
        {_NAME}(?:\s?(?:[-+*/%|&^@:]|\*\*|//|<<|>>)?=\s?|\s?:\s?[\w\[\], .|]+\s=\s)[^\s=>] | (?:\w+\s*,\s*)+\w+\s=\s\S
      | {_NAME}\(.*\)(?:[.\[].*)?[;:]?$ | {_NAME}\([^()]*[,(]?$ | {_NAME}\[[^\]]*:[^\]]*\]\s*$
      | \w+(?:\.\w+)+\( | \w+@\w+(?:\.\w+)*\( | (?:\w+\.)*\w+\s(?:[!=]==?|[<>]=|&&|\|\|)\s
      | \w{{1,3}}(?:\([\w, ]{{1,9}}\))?\s?(?:[!=<>]?=|[<>]|\*\*|≠|≤|≥|≈|≡)\s?\S+$""",
    "markup, styles and data": r"""
        </?[A-Za-z][\w:-]*(?:\s[^<>]*)?/?> | <!(?:--|DOCTYPE) | <\?(?:xml|php) | \{%|\{\{
      | [a-z-]+\s*:\s*[^;:.]+;\s*(?:$|\}|[a-z-]+\s*:) | [.\#@]?[A-Za-z][-\w.:\#>+~ ,()]*\{[^{}]*\}$
      | "[^"\n]*"\s*:\s*\S | [{\[]\s*(?:["'\d{\[\]}-].*)?$""",
    "SQL": r"""
        (?:SELECT|select)\ .+\ (?:FROM|from)\b | INSERT\ INTO\b | (?:CREATE|ALTER|DROP)\ (?:TABLE|INDEX|VIEW|DATABASE)\b
      | DELETE\ FROM\b | UPDATE\ \w+\ SET\b | (?:(?:LEFT|RIGHT|INNER|OUTER|CROSS)\ )+JOIN\b | (?:GROUP|ORDER)\ BY\b
      | (?:WHERE|FROM|JOIN|HAVING|VALUES)\ ?[\w."(]+""",
    "a shell": rf"""
        [\w@:~/.-]*[$%]\ [a-z][\w./-]*(?:\s[^A-Z,?!]*)?$ | \#! | (?:export|set|setx|env)\ \w+= | [A-Z][A-Z0-9_]+=\S
      | {_TOOLS}\ (?:-\S|{_TASKS}\b)[^,?!]*$ | {_COMMANDS}\ [^\s,?!]*[-~/$.*"'|>\d][^,?!]*[^.,?!:]$""",
    "diffs": rf"""
        diff\ --git | @@\ -\d | (?:---|\+\+\+)\ \S+[/.]\S* | index\ [0-9a-f]{{7,}}\.\.
      | [+-]\s*(?:{_NAME}\s?[-+*/]?=\s?\S|\S*\(.*[;{{):]$|[\]}})]+[;,]?$)""",
    "formulas": r"""
        \\(?:begin|end|frac|sqrt|sum|prod|int|lim|documentclass|usepackage|(?:sub)*section|item|left|right|alpha|beta)\b
      | \\(?:text|math)\w*\b | \$\$ | \\[\[\]()]""",
}
_CODE = re.compile(r"(?x)\s*(?:" + "|".join(_BEGINNINGS.values()) + ")")
# Lines that are sentences. What looks like code in them is a name or a formula that the sentence mentions.
_SENTENCE = re.compile(r"\s*[^\W\d_]*[a-zà-ÿ][^=;{}\[\]<>\\$]*[a-zà-ÿ]{2} [a-zà-ÿ]{2,}.*[.!?…]['\"”)]*\s*$")

_COMMENT = re.compile(r"\s*(?:#|//|/\*|\*|--|%|;|\"\"\"|\'\'\')")
_OVER = re.compile(rf"{_COMMENT.pattern}|\s*SELECT ")
_REMARK = re.compile(r"(?<=\S)\s{2}#.*$")
_MAYBE = re.compile(r"""[=(){}\[\];<>\\|_]|^["'@]|^\w+:\s|["'],?$|^[a-z_]+$|,$""")
_LONG = 400  # characters that decide a line's kind, half of them from each end


def is_code_line(line: str) -> bool:
    """Return whether a line looks like code, without regard to the lines beside it."""
    line = _REMARK.sub("", line.rstrip())
    if len(line) > _LONG:
        line = line[: _LONG // 2] + line[-_LONG // 2 :]
    return bool(line) and _CODE.match(line) is not None and (line[-1] in ";{}" or not _SENTENCE.match(line))


def _join_below(lines: Sequence[str], kinds: list[Kind], fenced: Sequence[bool]) -> None:
    """Mark lines that continue the code above them as code, in place."""
    above = ""  # the line above, blank lines aside, if it is unfenced code
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        if kinds[number] == "prose" and above and _belongs(line[:_LONG], above):
            kinds[number] = "code"
        above = line[:_LONG] if kinds[number] == "code" and not fenced[number] else ""


def _belongs(line: str, above: str) -> bool:
    """Return whether `line`, which follows the line of code `above`, is code too.

    A line without indentation that looks like a sentence is not code. Any other line is code if it is
    indented more deeply than `above` or by at least two columns, is a comment, or contains a sign that
    is usual in code.
    """
    if _SENTENCE.match(line) and not line[0].isspace():
        return False
    if _indent(line) > _indent(above) or _indent(line) >= 2:
        return True
    return bool(_COMMENT.match(line) or _MAYBE.search(line.strip()))


def _join_above(lines: Sequence[str], kinds: list[Kind], fenced: Sequence[bool]) -> None:
    """Mark blank lines between lines of code, and comments above code, as code, in place.

    A line that begins with "# " may be a Markdown heading, so it is not marked.
    """
    below = False  # whether the next line that is not blank is unfenced code
    blanks: list[int] = []
    for number in range(len(lines) - 1, -1, -1):
        if not lines[number].strip() and not fenced[number]:
            blanks.append(number)
            continue
        remark = below and not blanks and not lines[number].startswith("# ") and _OVER.match(lines[number])
        if kinds[number] == "prose" and remark:
            kinds[number] = "code"
        code = kinds[number] == "code" and not fenced[number]
        if code and below:
            for blank in blanks:
                kinds[blank] = "code"
        below = code
        blanks = []


def _indent(line: str) -> int:
    return len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip())


# Tables

_RULE = re.compile(r"\s*[|+]?\s*:?[-=]{2,}:?\s*(?:[|+]\s*:?[-=]{2,}:?\s*)*[|+]?\s*$")
_NUMBER = re.compile(r"[-+−]?(?:\d[\d.,]*|\.\d+)(?:e[-+]?\d+)?%?$|[-–—.]$|nan$|inf$", re.IGNORECASE)
_HAS_DIGIT = re.compile(r"\d").search  # dots and dashes alone are a drawing or an ellipsis
_GAP = re.compile(r"(?<=[^\s.!?:;,]) {2,}(?=\S)")


def _tables(lines: Sequence[str], fenced: Sequence[bool]) -> list[Kind]:
    """Return "table" for each line of a table, and "prose" for all others.

    A table is a run of lines of the same shape (`_shape`) that is as long as `_LEAST` requires.
    """
    if len(lines) < min(_LEAST.values()):
        return ["prose"] * len(lines)
    shapes = [None if flag else _shape(line) for flag, line in zip(fenced, lines, strict=True)]
    kinds: list[Kind] = []
    for shape, group in groupby(shapes):
        size = len(list(group))
        enough = shape is not None and size >= _LEAST[shape[0]]
        table = enough and (shape != _PIPES or _piped(lines[len(kinds) : len(kinds) + size]))
        kinds += ["table" if table else "prose"] * size
    return kinds


def _piped(rows: Sequence[str]) -> bool:
    """Return whether lines with pipes form a table: one is a rule ("|---|---|"), or all begin and end with a pipe.

    A pipe alone does not suffice: `|` is also an operator.
    """
    return any(map(_RULE.match, rows)) or all(row.strip()[0] == row.strip()[-1] == "|" for row in rows)


# The least number of lines of one shape that make a table. Commas and gaps occur in prose too, so
# they need more lines.
_PIPES = ("pipes", 0)
_LEAST = {"pipes": 2, "tabs": 2, "numbers": 2, "commas": 3, "gaps": 3}


def _shape(line: str) -> tuple[str, int] | None:
    """Return (how a line's cells are separated, how many separators or cells it has).

    Return None if the line cannot be a row of a table.

    For pipes the number is always 0, since their rows may differ in length.
    """
    line = line.strip()
    rule = _RULE.match(line) and ("+" in line or "|" in line)
    if rule or " | " in line or (line.startswith("|") and line.count("|") > 1):
        return _PIPES
    if "\t" in line:
        return "tabs", line.count("\t")
    if _HAS_DIGIT(line):
        cells = [cell for cell in re.split(r"[\s,;\[\](){}]+", line) if cell]
        numbers = [cell for cell in cells if _NUMBER.match(cell)]
        if len(cells) >= 2 and 4 * len(numbers) >= 3 * len(cells) and any(map(_HAS_DIGIT, numbers)):
            return "numbers", len(cells)
    for mark in ",;":
        if line.count(mark) >= 2 and not re.search(rf"{mark}(?:\s|$)|^{mark}", line):
            return "commas", line.count(mark)
    gaps = len(_GAP.findall(line))
    return ("gaps", gaps) if gaps else None
