"""What routes are given: the service of this process, and the page of a long list that is asked for."""

import base64
import binascii
import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import HTTPConnection

from fine_tuning import paths
from fine_tuning.errors import Busy, ConfigError
from fine_tuning.integration.service import Service

Item = TypeVar("Item")
Found = TypeVar("Found")


def _service(connection: HTTPConnection) -> Service:
    service: Service = connection.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]
Limit = Annotated[int, Query(ge=1, le=500, description="the most that one page holds")]
Cursor = Annotated[str | None, Query(max_length=400, description="`next` of the page before; none: the first page")]


SAFE_ID = f"^{paths.SAFE_NAME}$"
NewJobId = Annotated[
    str | None,
    Field(
        pattern=SAFE_ID, description="made by the client: asked twice with one id, as after a lost reply, it is one job"
    ),
]

# Ids of turns and sessions. What a program wrote into the log under another one is listed, and has no address.
TEXT_ID = r"^[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,199}$"
TurnId = Annotated[str, Path(pattern=TEXT_ID, description="a turn's id")]
SessionId = Annotated[str, Path(pattern=TEXT_ID, description="a conversation's id: its session's")]


class Asked(BaseModel):
    """The base of all bodies: unknown fields are refused, since a misspelt one would be ignored,
    and so are values of another type.
    """

    model_config = ConfigDict(extra="forbid", strict=True)


class NoFields(Asked):
    """A body without fields: {}."""


class Page(BaseModel, Generic[Item]):
    """A part of a long list. `next` asks for the one after it; None at the end."""

    items: list[Item]
    next: str | None = None


def page_of(
    found: Sequence[Found],
    limit: int,
    shown: Callable[[Found], Item],
    place: Callable[[Found], tuple[str | float | int, ...]],
) -> Page[Item]:
    """Return the first `limit` of what was found; if there are more, `place` of the last one says
    where the next page begins.
    """
    items = [shown(each) for each in found[:limit]]
    return Page(items=items, next=to_cursor(*place(found[limit - 1])) if len(found) > limit else None)


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


@contextmanager
def one_at_a_time(lock: threading.Lock, busy: str) -> Iterator[None]:
    """Hold the lock meanwhile. Busy, with this message, if another request holds it."""
    if not lock.acquire(blocking=False):
        raise Busy(busy)
    try:
        yield
    finally:
        lock.release()
