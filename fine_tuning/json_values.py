"""Define the types of the values of JSON texts, parse such texts, and prepare values for them."""

import json
import math
from typing import Any, TypeAlias

JsonValue: TypeAlias = str | int | float | bool | list["JsonValue"] | dict[str, "JsonValue"] | None
JsonObject: TypeAlias = dict[str, JsonValue]


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError if it is not JSON, or is nested too deeply.

    `json.loads` raises RecursionError for the latter, which callers forget: a text of a thousand "["
    would end them.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def finite(value: Any) -> Any:
    """Return `value` with None in place of each infinite number and NaN in it.

    JSON has no such numbers, and browsers refuse a text in which Python has written them nevertheless.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value
