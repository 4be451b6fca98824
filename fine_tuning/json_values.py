"""Define the types of the values of JSON texts, and parse such texts."""

import json
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
