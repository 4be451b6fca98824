"""JSON texts from anywhere: their value, or one kind of error."""

import pytest

from fine_tuning.json_values import finite, parse_json


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[" * 100_000, '{"a":' * 100_000, "1" * 5000])
def test_what_is_no_value_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_a_value_is_returned() -> None:
    assert parse_json('{"a": [1, null]}') == parse_json(b'{"a": [1, null]}') == {"a": [1, None]}


def test_numbers_that_json_does_not_have_become_null_however_deep_they_are() -> None:
    inf, nan = float("inf"), float("nan")
    value = {"loss": nan, "bounds": [(0.5, inf), [-inf]], "by part": [{"ratio": inf, "name": "chats", "ok": True}]}
    shown = {"loss": None, "bounds": [[0.5, None], [None]], "by part": [{"ratio": None, "name": "chats", "ok": True}]}
    assert finite(value) == shown and finite(3) == 3
