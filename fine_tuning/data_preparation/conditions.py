"""Parse the conditions with which users filter the records of a dataset.

An example is `length > 10 and not contains("http")`. A condition consists of:

text, question, answer          the text of the whole record, its question, its answer
length, words                   the number of characters or words of `text`; of another text: length(answer), words(question)
contains("x"), matches("x")     whether `text` contains x, or the regular expression x matches in it;
                                in another text: contains(answer, "x")
and, or, not, ( ), numbers, "texts", < <= == != >= >, also chained: 10 < length <= 500

The condition is parsed by Python's parser (https://docs.python.org/3/library/ast.html), but never
evaluated as Python: everything that is not listed here is refused.
"""  # noqa: E501

import ast
import difflib
import operator
import re
import re._parser as regular  # type: ignore[import-not-found]
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from fine_tuning.errors import ConfigError

Texts = Mapping[str, str]  # by name: text, question, answer
Kind = Literal["text", "number", "truth"]

TEXTS = ("text", "question", "answer")
_MEASURES: dict[str, Callable[[str], int]] = {"length": len, "words": lambda text: len(text.split())}
_SEARCHES = ("contains", "matches")
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_LONGEST = 1000  # characters of a condition
_PATTERN = 200  # characters of a regular expression


@dataclass(frozen=True)
class _Part:
    """A part of a condition: the kind of its value, and the function that computes the value from a record's texts."""

    kind: Kind
    of: Callable[[Texts], Any]


def read_condition(condition: str) -> Callable[[Texts], bool]:
    """Return a function of a record's texts (see `raw_data.texts_of`) that returns whether they meet the condition.

    Raises ConfigError, which names the position of the fault, for an invalid condition.
    """
    if not isinstance(condition, str) or not condition.strip():
        raise ConfigError('the condition is empty: write one such as "length > 10"')
    if len(condition) > _LONGEST:
        raise ConfigError(
            f"the condition has {len(condition)} characters, but at most {_LONGEST} are allowed: shorten it"
        )
    return _Reader(condition).read()


class _Reader:
    """Parses one condition, part by part, and refuses what is not allowed in it."""

    def __init__(self, condition: str) -> None:
        self.text = re.sub(r"\s", " ", condition).strip()

    def read(self) -> Callable[[Texts], bool]:
        try:
            tree = ast.parse(self.text, mode="eval")
            part = self.part(tree.body)
        except SyntaxError as error:
            self.refuse(error.offset - 1 if error.offset else len(self.text), "this is not valid in a condition")
        except (RecursionError, MemoryError, ValueError):
            self.refuse(0, "it is nested too deeply, or contains a character that is not allowed")
        if part.kind != "truth":
            self.refuse(0, f"it is a {part.kind}, and must say yes or no, such as `length > 10`")
        return part.of

    def refuse(self, column: int, why: str) -> NoReturn:
        raise ConfigError(f"the condition, character {column + 1}: {why}\n  {self.text}\n  {' ' * column}^")

    def at(self, node: ast.AST) -> int:
        """Return the index in the condition of a node's first character.

        Python's parser counts bytes of UTF-8, so its number is converted to characters.
        """
        return len(self.text.encode("utf-8", "replace")[: getattr(node, "col_offset", 0)].decode("utf-8", "replace"))

    def part(self, node: ast.expr) -> _Part:
        match node:
            case ast.BoolOp(op=op, values=values):
                parts = [self.wanted(value, "truth") for value in values]
                both = all if isinstance(op, ast.And) else any
                return _Part("truth", lambda texts: both(part.of(texts) for part in parts))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.wanted(operand, "truth")
                return _Part("truth", lambda texts: not inner.of(texts))
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)) if not isinstance(
                number, bool
            ):
                return _Part("number", lambda texts: -number)
            case ast.Compare():
                return self.comparison(node)
            case ast.Call():
                return self.call(node)
            case ast.Name(id=name):
                return self.name(node, name)
            case ast.Constant(value=bool() as truth):
                return _Part("truth", lambda texts: truth)
            case ast.Constant(value=str() | int() | float() as value):
                return _Part("text" if isinstance(value, str) else "number", lambda texts: value)
        return self.refuse(self.at(node), f"a {type(node).__name__.lower()} is not allowed in a condition; {_KNOWN}")

    def wanted(self, node: ast.expr, kind: Kind) -> _Part:
        part = self.part(node)
        if part.kind != kind:
            self.refuse(self.at(node), f"this is a {part.kind}, but a {kind} is expected here")
        return part

    def comparison(self, node: ast.Compare) -> _Part:
        nodes = [node.left, *node.comparators]
        parts = [self.part(each) for each in nodes]
        compare: list[Callable[[Any, Any], bool]] = []
        for op, before, after, place in zip(node.ops, parts, parts[1:], nodes[1:], strict=False):
            if type(op) not in _COMPARISONS:
                self.refuse(self.at(place), 'this comparison is not known: use < <= == != >= >, or contains("...")')
            if before.kind != after.kind or before.kind == "truth":
                self.refuse(self.at(place), f"a {before.kind} cannot be compared with a {after.kind}")
            compare.append(_COMPARISONS[type(op)])

        def holds(texts: Texts) -> bool:
            values = [part.of(texts) for part in parts]
            return all(check(before, after) for check, before, after in zip(compare, values, values[1:], strict=False))

        return _Part("truth", holds)

    def name(self, node: ast.expr, name: str) -> _Part:
        if name in TEXTS:
            return _Part("text", lambda texts: texts[name])
        if name in _MEASURES:
            measure = _MEASURES[name]
            return _Part("number", lambda texts: measure(texts["text"]))
        if name in _SEARCHES:
            self.refuse(self.at(node), f'{name} needs a text: {name}("...")')
        near = difflib.get_close_matches(name, [*TEXTS, *_MEASURES, *_SEARCHES], 1)
        return self.refuse(self.at(node), f"{name[:40]} is not known; {f'did you mean {near[0]}?' if near else _KNOWN}")

    def call(self, node: ast.Call) -> _Part:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in _MEASURES and name not in _SEARCHES:
            self.name(node.func, name) if name else None
            self.refuse(self.at(node), f"this cannot be called; {_KNOWN}")
        if node.keywords:
            self.refuse(self.at(node), f"{name} takes no named arguments")
        if name in _MEASURES:
            return self.measure(node, name)
        return self.search(node, name, node.args)

    def measure(self, node: ast.Call, name: str) -> _Part:
        if len(node.args) != 1:
            self.refuse(self.at(node), f"{name} takes one text: {name}(answer)")
        inner, measure = self.wanted(node.args[0], "text"), _MEASURES[name]
        return _Part("number", lambda texts: measure(inner.of(texts)))

    def search(self, node: ast.Call, name: str, given: Sequence[ast.expr]) -> _Part:
        if len(given) not in (1, 2):
            self.refuse(self.at(node), f'{name} takes a text to look for: {name}("..."), or {name}(answer, "...")')
        within = self.wanted(given[0], "text") if len(given) == 2 else _Part("text", lambda texts: texts["text"])
        sought = given[-1]
        if not isinstance(sought, ast.Constant) or not isinstance(sought.value, str):
            self.refuse(self.at(sought), f"what {name} looks for must be a text in quotes")
        value: str = sought.value
        if name == "contains":
            return _Part("truth", lambda texts: value in within.of(texts))
        pattern = self.pattern(sought, value)
        return _Part("truth", lambda texts: pattern.search(within.of(texts)) is not None)

    def pattern(self, node: ast.expr, text: str) -> re.Pattern[str]:
        if len(text) > _PATTERN:
            self.refuse(
                self.at(node), f"the regular expression has {len(text)} characters: at most {_PATTERN} are read"
            )
        try:
            compiled = re.compile(text)
            endless = _may_take_for_ever(regular.parse(text))
        except (re.error, OverflowError, RecursionError) as error:
            self.refuse(self.at(node), f"this is not a regular expression: {error}")
        if endless:
            self.refuse(
                self.at(node), "a repetition within a repetition can take forever: write the expression without one"
            )
        return compiled


_KNOWN = (
    f"allowed are {', '.join([*TEXTS, *_MEASURES, *_SEARCHES])}, and, or, not, comparisons, numbers and texts in quotes"
)
_REPEATS = (regular.MAX_REPEAT, regular.MIN_REPEAT)


def _may_take_for_ever(pattern: Any, repeated: bool = False) -> bool:
    """Return whether matching a parsed regular expression may take a time exponential in the text's length.

    This can happen if a part that is itself repeated, or has alternatives, is repeated many times,
    or if many repeats follow each other. `repeated` says whether `pattern` is inside such a repeat.
    """
    for kind, value in pattern:
        if kind in (*_REPEATS, regular.BRANCH, regular.GROUPREF) and repeated:
            return True
        inner = repeated or (kind in _REPEATS and value[1] > _FEW)
        if any(_may_take_for_ever(each, inner) for each in _inside(value)):
            return True
    repeats: int = sum(kind in _REPEATS and value[1] > _FEW for kind, value in pattern)
    return repeats > _MOST


_FEW, _MOST = 10, 3  # repeats of at most 10 times are harmless, and so are up to 3 longer ones in one sequence


def _inside(value: Any) -> list[Any]:
    """Return the parsed subexpressions within an item of a parsed regular expression."""
    if isinstance(value, regular.SubPattern):
        return [value]
    if isinstance(value, (tuple, list)):
        return [found for each in value for found in _inside(each)]
    return []
