"""Define what routes share: their common parameters, base classes of bodies, and the paging of long lists."""

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
from fine_tuning.json_values import parse_json

Item = TypeVar("Item")
Found = TypeVar("Found")


def _service(connection: HTTPConnection) -> Service:
    service: Service = connection.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]
Limit = Annotated[int, Query(ge=1, le=500, description="maximum number of items in one response")]
Cursor = Annotated[str | None, Query(max_length=400, description="`next` of the previous page; omit it for the first")]


SAFE_ID = f"^{paths.SAFE_NAME}$"
NewJobId = Annotated[
    str | None,
    Field(
        pattern=SAFE_ID,
        description="an id chosen by the client: a request that is repeated with the same id, for example after a "
        "lost response, creates only one job",
    ),
]

# Ids of turns and sessions. Turns that a program logged under other ids are listed, but have no URL.
TEXT_ID = r"^[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,199}$"
TurnId = Annotated[str, Path(pattern=TEXT_ID, description="a turn's id")]
SessionId = Annotated[str, Path(pattern=TEXT_ID, description="a conversation's id (`session_id` of its turns)")]


class Asked(BaseModel):
    """The base class of request bodies. It rejects unknown fields and values of the wrong type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NoFields(Asked):
    """A body without fields: {}."""


class Page(BaseModel, Generic[Item]):
    """A page of a long list. `next` is the cursor of the next page; null on the last page."""

    items: list[Item]
    next: str | None = None


def page_of(
    found: Sequence[Found],
    limit: int,
    shown: Callable[[Found], Item],
    place: Callable[[Found], tuple[str | float | int, ...]],
) -> Page[Item]:
    """Return the first `limit` items as a page.

    Args:
        found: The items from this page on; at least one more than `limit` if there is a next page.
        limit: The maximum number of items.
        shown: Converts an item for the response.
        place: Returns the position of an item in the list, which becomes the cursor of the next page.
    """
    items = [shown(each) for each in found[:limit]]
    return Page(items=items, next=to_cursor(*place(found[limit - 1])) if len(found) > limit else None)


def to_cursor(*place: str | float | int) -> str:
    """Encode a position in a list as a cursor: a text that can be used in a URL as it is."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def from_cursor(cursor: str, *kinds: type) -> Sequence[Any]:
    """Return the position that `to_cursor` encoded as `cursor`: values of the types `kinds`, in this order.

    Raises ConfigError if `cursor` encodes no such position.
    """
    try:
        place = parse_json(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error):
        place = None
    if not isinstance(place, list) or [type(each) for each in place] != list(kinds) or not all(map(_is_plain, place)):
        raise ConfigError(
            f"cursor: {cursor[:40]!r} does not belong to this list: use the value of `next` from the previous page"
        )
    return place


def _is_plain(value: str | float) -> bool:
    """Return whether a value can be used in a database query: printable text, or a finite number."""
    return value.isprintable() if isinstance(value, str) else math.isfinite(value)


@contextmanager
def one_at_a_time(lock: threading.Lock, busy: str) -> Iterator[None]:
    """Hold the lock within the `with` block.

    Raises Busy with the message `busy`, without waiting, if another request holds the lock.
    """
    if not lock.acquire(blocking=False):
        raise Busy(busy)
    try:
        yield
    finally:
        lock.release()
