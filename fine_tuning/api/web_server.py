"""Serve an ASGI app with uvicorn, with time limits for slow clients and for shutting down."""

import asyncio
import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from fine_tuning.api.background import listening
from fine_tuning.api.repeated import IS_CURRENT, Kept
from fine_tuning.api.security import Access

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PARTING = 3  # seconds that open streams have to finish when the server ends
WINDOW = 20.0  # seconds; in each such window a client must send at least LEAST bytes of an incomplete request
LEAST = 10_000  # bytes; a request that is complete within the window may be smaller
UNREAD = 20.0  # seconds within which a client must read some of what was sent to it and still waits here
MOST_HEADERS = 64 * 1024  # bytes of a request before its body, or after it (trailers)
IDLE = 5  # seconds that an idle connection is kept open between requests
FILES = 8192  # open files that the server asks the system for; each connection is one
SPARED = 200  # files that are kept for the log, the database and jobs, however many connections there are

_REQUEST = "byoai_request"  # key in a request's `state`: its bytes, if they came in one piece


class _UnreadLimit(asyncio.Protocol):
    """A mixin for protocols: abort a connection whose client does not read for UNREAD seconds.

    asyncio pauses the writing when 64 KiB wait to be sent, and resumes it when 16 KiB are left. Merely
    closing such a connection would not end it, since asyncio sends the rest first.
    """

    unread = UNREAD
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _abort: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._abort = self.loop.call_later(self.unread, self.transport.abort)

    def resume_writing(self) -> None:
        self._keep()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep()
        super().connection_lost(exc)

    def _keep(self) -> None:
        if self._abort is not None:
            self._abort.cancel()
            self._abort = None


class ImpatientSocket(_UnreadLimit, WebSocketsSansIOProtocol):
    """A WebSocket protocol that drops clients that do not read."""


class ImpatientProtocol(_UnreadLimit, HttpToolsProtocol):
    """An HTTP/1.1 protocol that closes connections whose requests arrive too slowly, or whose answers are not read.

    Many such connections would exhaust the server, and uvicorn limits only the time between two
    requests. The rate is checked in windows of WINDOW seconds, except in windows in which the client
    had to wait for the app. Headers of more than MOST_HEADERS bytes end the connection, too, since
    httptools collects them without a limit. When `most` connections are open, a new one is closed at once.

    A request whose answer is kept (`kept`) is answered without being parsed.
    """

    window = WINDOW
    most = FILES - SPARED  # connections
    kept: Kept | None = None  # the answers to repeat; None: answers are not repeated
    _timer: asyncio.TimerHandle | None = None
    _came = 0  # bytes received in this window
    _had_to_wait = False  # whether the client had to wait for the app in this window
    _begun = 0  # number of requests that began in the last piece of data
    _is_complete = False  # whether all of the last request was received
    _is_whole = True  # whether no request was received in part
    _headers_came = 0  # bytes received since the last piece of a body, or since the last complete request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._app, self.app = self.app, self._run
        if len(self.connections) > self.most:
            transport.abort()
        else:
            self._begin_window()

    def data_received(self, data: bytes) -> None:
        is_idle = self._is_idle()
        if is_idle and self.kept and (answer := self.kept.answer(data, self.server_state.default_headers)):
            self._end_window()
            self.transport.write(answer)
            self.on_response_complete()
            return
        self._came += len(data)
        self._headers_came += len(data)
        self._begun = 0
        super().data_received(data)
        self._is_whole = self._is_complete
        if is_idle and self._begun == 1 and self._is_complete and self.cycle and self.cycle.keep_alive:
            self.scope["state"][_REQUEST] = data
        if self._headers_came > MOST_HEADERS and not self.transport.is_closing():
            self.send_400_response("The headers of this request are too long.")
        self._had_to_wait |= self._has_to_wait()
        if self._is_complete or self.transport.get_protocol() is not self:  # a WebSocket now
            self._end_window()
        elif self._timer is None:
            self._begin_window()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun += 1
        self._is_complete = False

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._headers_came = 0

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_complete, self._headers_came = True, 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_window()
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        """Return whether the next byte begins a request that can be answered at once."""
        is_answered = self.cycle is None or self.cycle.response_complete
        return self._is_whole and is_answered and not self.flow.write_paused and not self.transport.is_closing()

    async def _run(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Run the app, and keep its answer if it may be repeated."""
        request: bytes | None = scope["state"].pop(_REQUEST, None)
        answer: list[Message] = []

        async def tell(message: "Message") -> None:
            if answer or IS_CURRENT in message:
                answer.append(message)
            await send(message)

        await self._app(scope, receive, tell)
        if self.kept and request and answer:
            self.kept.keep(request, answer)

    def _has_to_wait(self) -> bool:
        return self.flow.read_paused or (self.cycle is not None and self.cycle.waiting_for_100_continue)

    def _begin_window(self) -> None:
        self._came, self._had_to_wait = 0, self._has_to_wait()
        self._timer = self.loop.call_later(self.window, self._judge)

    def _end_window(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _judge(self) -> None:
        self._timer = None
        if self._came >= LEAST or self._had_to_wait or self._has_to_wait():
            self._begin_window()
        else:
            self.transport.close()


def protocol_for(access: Access) -> type[ImpatientProtocol]:
    """Return the protocol of a server. It repeats answers, unless the token of each request must be checked."""

    class Protocol(ImpatientProtocol):
        kept = None if access.lan else Kept()

    return Protocol


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a log record should be shown: not if it reports a stream that was cut off at shutdown."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, asyncio.CancelledError) and "timeout graceful shutdown" not in record.getMessage()


def _files() -> int:
    """Return how many files this process may open, FILES at most, after asking the system for so many."""
    if sys.platform == "win32":
        return FILES
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (FILES if limit == resource.RLIM_INFINITY else min(limit, FILES) for limit in limits)
    if soft < hard:
        with suppress(OSError, ValueError):  # the system has a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, limits[1]))
            return hard
    return soft


def run(app: "ASGIApp", access: Access) -> None:
    """Serve `app` at the address and port of `access` until SIGINT or SIGTERM.

    The server then ends within seconds, even if streams are open. Raises ByoaiError, before the app
    starts, if another program has taken the port.
    """
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    ImpatientProtocol.most = max(_files() - SPARED, SPARED)
    config = uvicorn.Config(
        app,
        http=protocol_for(access),
        ws=ImpatientSocket,
        ws_per_message_deflate=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=PARTING,
        ssl_certfile=access.certificate,
        ssl_keyfile=access.key,
    )
    server = uvicorn.Server(config)
    with listening(access) as own, suppress(KeyboardInterrupt):
        server.run(sockets=[own])
    if not server.started:
        sys.exit(STARTUP_FAILURE)
