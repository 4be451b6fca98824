"""Open what records hold in packed form: JSON as text, and names with dots, such as "prompt.0.role".

Logs of traces, tables and databases store their messages so. Since an answer may be JSON, too, a text is
opened only if it holds messages, or if the name of its field ends in "json".
"""

import re
from typing import Any

from fine_tuning.data_collection.importers.message_forms import is_message
from fine_tuning.json_values import parse_json

_STARTS = ('{"', "[{", "[[{")
_DOTTED = re.compile(r"\w+(?:\.\w+)+")
_OF_MESSAGES = re.compile(r".*(?:\.\d+\.|[._]messages$|^message\.).*")
_NAMED_JSON = re.compile(r"(\w+?)(?:_json|Json|JSON)")
_DEEPEST = 5  # values within values
_MOST_DIGITS = 10  # of a place in a list; Python refuses to read a number of thousands of digits


def unpacked(value: Any, all: bool = False, depth: int = 0) -> Any:
    """Return a record with what it holds in packed form opened; the very same object if there is nothing to open.

    `all`: open each JSON text outside messages, since the columns of a database are typed by the program.
    """
    if isinstance(value, str):
        return _opened(value, all)
    if depth == _DEEPEST or not isinstance(value, dict | list) or not value:
        return value
    if isinstance(value, list):
        items = [unpacked(each, all, depth + 1) for each in value]
        return value if [*map(id, items)] == [*map(id, value)] else items
    if is_message(value) and isinstance(value.get("content"), str):
        return value
    found: dict[str, Any] = {}
    for name, each in value.items():
        json_name = _NAMED_JSON.fullmatch(name) if isinstance(each, str) else None
        inner = unpacked(each, all or bool(json_name), depth + 1)
        is_opened = json_name and inner is not each and json_name[1] not in value
        found[json_name[1] if json_name and is_opened else name] = inner
    if any(map(_OF_MESSAGES.fullmatch, found)):
        return _nested(found)
    return value if [*map(id, found.values())] == [*map(id, value.values())] else found


def _opened(text: str, all: bool) -> Any:
    """Return the parsed value of a text if it is JSON with messages in it, else the text.

    `all`: parse any JSON object or list.
    """
    if not text.startswith(_STARTS):
        return text
    try:
        found = parse_json(text)
    except ValueError:
        return text
    return found if all or _holds_messages(found) else text


def _holds_messages(value: Any, depth: int = 0) -> bool:
    if depth == _DEEPEST:
        return False
    if isinstance(value, list):
        return any(_holds_messages(each, depth + 1) for each in value[:3])
    return isinstance(value, dict) and (
        is_message(value) or any(_holds_messages(each, depth + 1) for each in value.values())
    )


def _nested(record: dict[str, Any]) -> Any:
    """Return {"prompt": [{"role": "user"}]} for {"prompt.0.role": "user"}; a name that contradicts another is kept."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        *before, last = name.split(".") if _DOTTED.fullmatch(name) and _OF_MESSAGES.fullmatch(name) else [name]
        inner: Any = found
        for part in before:
            inner = inner.setdefault(part, {}) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and last not in inner:
            inner[last] = value
        else:
            found[name] = value
    return _with_lists(found)


def _with_lists(value: Any) -> Any:
    """Return a value in which objects with the keys "0", "1", … are lists."""
    if not isinstance(value, dict):
        return value
    inner = {name: _with_lists(each) for name, each in value.items()}
    is_list = inner and all(len(name) < _MOST_DIGITS and name.isdecimal() for name in inner)
    return [inner[name] for name in sorted(inner, key=int)] if is_list else inner
