"""What routes are given: the service of this process, and the page of a long list that is asked for."""

import base64
import binascii
import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Path, Query
from pydantic import BaseModel, ConfigDict
from starlette.requests import HTTPConnection

from fine_tuning.errors import ConfigError
from fine_tuning.integration.service import Service

Item = TypeVar("Item")


def _service(connection: HTTPConnection) -> Service:
    service: Service = connection.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]
Limit = Annotated[int, Query(ge=1, le=500, description="the most that one page holds")]
Cursor = Annotated[str | None, Query(max_length=400, description="`next` of the page before; none: the first page")]


# Ids of turns and sessions. What a program wrote into the log under another one is listed, and has no address.
TEXT_ID = r"^[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,199}$"
TurnId = Annotated[str, Path(pattern=TEXT_ID, description="a turn's id")]
SessionId = Annotated[str, Path(pattern=TEXT_ID, description="a conversation's id: its session's")]


class Asked(BaseModel):
    """The base of all bodies: unknown fields are refused, since a misspelt one would be ignored, and so are values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Page(BaseModel, Generic[Item]):
    """A part of a long list. `next` asks for the one after it; None at the end."""

    items: list[Item]
    next: str | None = None


def to_cursor(*place: str | float | int) -> str:
    """Return a place in a list as a word for an address."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def from_cursor(cursor: str, *kinds: type) -> Sequence[Any]:
    """Return the place that `to_cursor` was given. ConfigError for any other text."""
    try:
        place = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        place = None
    if not isinstance(place, list) or [type(each) for each in place] != list(kinds) or not all(map(_is_plain, place)):
        raise ConfigError(f"cursor: {cursor[:40]!r} is none of ours: take `next` of the page before")
    return place


def _is_plain(value: str | float) -> bool:
    """Return whether a database takes a value: no half of a character, and a number that is one."""
    return value.isprintable() if isinstance(value, str) else math.isfinite(value)
