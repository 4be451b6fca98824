"""Conditions on records: what they mean, and where they are wrong. Nothing in them is run."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timing import in_time, seconds

from fine_tuning.data_preparation.conditions import read_condition
from fine_tuning.errors import ConfigError

TEXTS = {"text": "What is a Door?\nA door is a way in.", "question": "What is a Door?", "answer": "A door is a way in."}


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("length > 10", True),
        ("length > 1000", False),
        ("10 < length <= 35", True),
        ("35 < length", False),
        ("words == 10", True),
        ("words(answer) >= 6 and length(question) < 20", True),
        ('contains("Door")', True),
        ('contains("window")', False),
        ("contains(answer, 'Door')", False),
        ('not contains("window") and (length < 5 or words > 3)', True),
        (r'matches("^What\\s")', True),
        ('matches(answer, "way.*$")', True),
        ('question == "What is a Door?"', True),
        ('answer != "" and not (length < 3)', True),
        ("length > -1", True),
        ("True or length > 1000", True),
        (" \n length>0 ", True),
        ("length > 3.5", True),
    ],
)
def test_what_a_condition_means(condition: str, holds: bool) -> None:
    assert read_condition(condition)(TEXTS) is holds


@pytest.mark.parametrize(
    ("condition", "character", "said"),
    [
        ("lenght > 10", 1, "did you mean length"),
        ("length > 10 and wrods < 3", 17, "did you mean words"),
        ("length >", 9, "not valid"),
        ("length > 10)", 12, "not valid"),
        ("length", 1, "must say yes or no"),
        ("length + 1 > 3", 1, "a binop is not allowed"),
        ('length > "ten"', 10, "cannot be compared"),
        ('text > 3 or contains("x")', 8, "cannot be compared"),
        ("length > 1 and words", 16, "a truth is expected"),
        ("contains(text)", 10, "must be a text in quotes"),
        ("contains()", 1, "takes a text to look for"),
        ("contains", 1, "needs a text"),
        ("contains('a', 'b', 'c')", 1, "takes a text to look for"),
        ("length(3) > 1", 8, "a text is expected"),
        ("length(text, answer) > 1", 1, "takes one text"),
        ('"x" in text', 8, "comparison is not known"),
        ('matches("(")', 9, "not a regular expression"),
        ('matches("(a+)+b")', 9, "take forever"),
        ('matches("(a|aa)*b")', 9, "take forever"),
        ('matches("(x*)*")', 9, "take forever"),
        ('matches(".*.*.*.*=x")', 9, "take forever"),
        ("contains(text, 'ü') and é > 3", 25, "not known"),
        ("length >\n bad", 11, "not known"),
        ("__import__('os').system('true')", 1, "cannot be called"),
        ("text.__class__ == 3", 1, "attribute is not allowed"),
        ("(lambda: 1)() > 0", 1, "cannot be called"),
        ("[x for x in text]", 1, "listcomp is not allowed"),
        ("f'{text}' == ''", 1, "joinedstr is not allowed"),
        ("text[0] == 'a'", 1, "subscript is not allowed"),
        ("2 ** 99999999 > length", 1, "binop is not allowed"),
        ("open('/etc/passwd')", 1, "not known"),
        ("length := 3", 8, "not valid"),
        ("import os", 1, "not valid"),
        ("contains(text='x')", 1, "takes no named arguments"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(condition: str, character: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        read_condition(condition)
    told = str(refused.value).splitlines()
    assert told[0].startswith(f"the condition, character {character}:")
    assert told[2].index("^") == character + 1  # under the place, two spaces in


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "  ",
        "(" * 300 + "1" + ")" * 300,
        "not " * 240 + "True",
        "a" * 2000,
        "length > 1\0",
        "9" * 990,
        "1 and " * 160 + "1",
    ],
)
def test_what_is_empty_too_long_or_too_deep_is_refused(condition: str) -> None:
    try:
        read_condition(condition)(TEXTS)
    except ConfigError:
        return
    assert condition.startswith("not ")  # deep, and yet understood


@given(st.text(max_size=60) | st.text(alphabet="length words()<>=andornot\"'. 0123456789", max_size=60))
def test_whatever_is_written_is_a_condition_or_a_clear_error(condition: str) -> None:
    try:
        assert read_condition(condition)(TEXTS) in (True, False)
    except ConfigError as error:
        assert "condition" in str(error)


@pytest.mark.parametrize(
    "pattern", ["a*b", "(ab)+c", "[a-z]{1,3}x", "^(yes|no)$", "a+b+", "(?i)door", r"\\bdoor\\b", "(a{1,5})+"]
)
def test_what_is_accepted_ends_soon(pattern: str) -> None:
    try:
        condition = read_condition(f'matches("{pattern}")')
    except ConfigError:
        return
    texts: dict[str, Any] = dict.fromkeys(TEXTS, "a" * 5_000 + "!")
    in_time(lambda: seconds(lambda: condition(texts)), 2)
