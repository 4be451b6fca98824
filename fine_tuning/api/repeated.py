"""Repeat answers of the API to clients that ask the same again and again, until the data behind the answers change.

`Repeated` tells which answers of the app may be repeated, and until when. `Kept` holds these answers by
the bytes of their requests, so that the server (web_server.py) neither parses a repeated request nor
runs the app for it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fine_tuning import paths
from fine_tuning.config import overlay as config_overlay
from fine_tuning.errors import ByoaiError
from fine_tuning.integration.service import Service
from fine_tuning.state import Changes

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The key in an answer's first message of a function that returns whether the answer is still right.
IS_CURRENT = "byoai.is_current"

_MOST = 64  # maximum number of answers that are kept
_LARGEST = 1 << 18  # maximum bytes of the body of an answer that is kept
_LONGEST = 1 << 12  # maximum bytes of its request
_GLANCE = 1.0  # seconds for which the progress of jobs is repeated


class Repeated:
    """ASGI middleware that adds `IS_CURRENT` to the answers that may be repeated (`_made_of`)."""

    def __init__(self, app: "ASGIApp", service: Service) -> None:
        self._app, self._service, self._changes = app, service, Changes()
        self._overlay = config_overlay.place()
        self._log = paths.home()  # the log's file
        self._log_by: object = None  # the state of the settings that named it

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        path = scope.get("path", "")
        made = self._made_of(path) if scope["type"] == "http" and scope["method"] == "GET" else None
        if made is None:
            return await self._app(scope, receive, send)

        async def tell(message: "Message") -> None:
            if message["type"] == "http.response.start":
                message = {**message, IS_CURRENT: lambda: self._made_of(path) == made}
            await send(message)

        return await self._app(scope, receive, tell)

    def _made_of(self, path: str) -> object:
        """Return the state of the data that the answer at `path` depends on. States of unchanged data are equal.

        Return None if answers at this path are not repeated, or the state cannot be read.
        """
        try:
            match path:
                case "/api/settings":
                    return self._settings()
                case "/api/versions":
                    return self._changes.version()
                case "/api/jobs":  # the progress of jobs is not in the database
                    return self._changes.version(), time.monotonic() // _GLANCE
                case "/api/conversations" | "/api/turns":
                    return self._changes.version(), self._said()
        except (ByoaiError, OSError):
            pass  # the app reports the error
        return None

    def _settings(self) -> object:
        return paths.stamp(paths.DEFAULT_CONFIG), paths.stamp(self._overlay)

    def _said(self) -> object:
        if (settings := self._settings()) != self._log_by:
            self._log, self._log_by = self._service.config.log_path, settings
        return self._log, paths.stamp(self._log)


@dataclass(frozen=True)
class _Answer:
    is_current: Callable[[], bool]
    rest: bytes  # all after the headers of the server itself: the app's headers, and the body


class Kept:
    """The answers that may be repeated, by the bytes of their requests."""

    def __init__(self) -> None:
        self._answers: OrderedDict[bytes, _Answer] = OrderedDict()

    def answer(self, request: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        """Return the whole answer to a request, beginning with `headers`; None if no current one is kept."""
        found = self._answers.get(request)
        if found is None or not found.is_current():
            return None
        return b"HTTP/1.1 200 OK\r\n" + _lines(headers) + found.rest

    def keep(self, request: bytes, answer: "list[Message]") -> None:
        """Keep an answer, given as the messages of the app, if it may be repeated."""
        if len(answer) != 2 or answer[0]["status"] != 200 or IS_CURRENT not in answer[0]:
            return
        headers, body = answer[0]["headers"], answer[1].get("body", b"")
        has_length = any(name == b"content-length" and value == b"%d" % len(body) for name, value in headers)
        if has_length and len(body) <= _LARGEST and len(request) <= _LONGEST:
            self._answers.pop(request, None)
            self._answers[request] = _Answer(answer[0][IS_CURRENT], _lines(headers) + b"\r\n" + body)
        while len(self._answers) > _MOST:
            self._answers.popitem(last=False)


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)
