"""Generate answers for clients of /v1 in threads, and stop an answer when its client disconnects."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from fine_tuning.api.engine_threads import in_thread
from fine_tuning.engines.base import ChatChunk, Engine
from fine_tuning.errors import Busy
from fine_tuning.integration import chat_titles

Speak = Callable[[threading.Event], Generator[ChatChunk]]
"""A function that generates an answer. The event that it gets is set when the client has disconnected."""

_AT_ONCE = {"embedded": 1}  # maximum number of simultaneous answers, by the engine's name
_MOST = 8  # the same for other engines; Ollama has a queue of its own
_PARTING = 5.0  # seconds that a closing server waits for stopped answers
_WAITING = 64  # maximum number of waiting requests

_T = TypeVar("_T")


class Answers:
    """Generates the answers for the clients of one app, in threads of its own.

    An answer takes long, and would otherwise occupy one of the few threads that all routes share.
    """

    def __init__(self) -> None:
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._waiting = 0
        self._reading: set[asyncio.Future[None]] = set()

    async def pieces(self, engine: Engine, speak: Speak, stopping: threading.Event) -> AsyncGenerator[ChatChunk]:
        """Run `speak` in a thread, and yield its chunks as they arrive.

        `stopping` is given to `speak`, and is set when this generator ends, is closed or cancelled.
        While too many answers of `engine` are being generated, the call waits, without holding a
        thread. Raises the errors of `speak`, and Busy if too many requests wait already.
        """
        chat_titles.interrupt()
        turn = self._turns.setdefault(engine.name, asyncio.Semaphore(_AT_ONCE.get(engine.name, _MOST)))
        await self._wait(turn)
        queue: asyncio.Queue[ChatChunk | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def read() -> None:
            with contextlib.closing(speak(stopping)) as spoken:
                for chunk in spoken:
                    loop.call_soon_threadsafe(queue.put_nowait, chunk)

        def ended(reading: "asyncio.Future[None]") -> None:
            self._reading.discard(reading)
            turn.release()
            queue.put_nowait(None)
            if not reading.cancelled():
                reading.exception()  # retrieved here, in case the client has left and nobody awaits it below

        reading = in_thread(read)
        self._reading.add(reading)
        reading.add_done_callback(ended)
        try:
            while (chunk := await queue.get()) is not None:
                yield chunk
            await reading
        finally:
            stopping.set()

    async def parted(self) -> None:
        """Wait at most a few seconds until the threads have ended and recorded their answers.

        Called when the server closes, so that no engine runs when Python exits.
        """
        if self._reading:
            await asyncio.wait(self._reading, timeout=_PARTING)

    async def _wait(self, turn: asyncio.Semaphore) -> None:
        if self._waiting >= _WAITING:
            raise Busy(f"{_WAITING} requests are already waiting for an answer: try again later")
        self._waiting += 1
        try:
            await turn.acquire()
        finally:
            self._waiting -= 1


def answers_of(app: Starlette) -> Answers:
    """Return the app's Answers, created on first use."""
    state = app.state
    if not hasattr(state, "answers"):
        state.answers = Answers()
    found: Answers = state.answers
    return found


async def while_there(request: Request, work: Awaitable[_T]) -> _T | None:
    """Return the result of `work`; if the client disconnects first, cancel `work` and return None.

    Raises the errors of `work`.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_leaves(request))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Streamed(StreamingResponse):
    """A response of server-sent events that sets the event `stopping` when it ends for any reason.

    Without this event the thread that generates the answer would not notice that the client has
    disconnected.
    """

    def __init__(self, pieces: AsyncGenerator[str], stopping: threading.Event, headers: dict[str, str]) -> None:
        super().__init__(pieces, media_type="text/event-stream", headers={"cache-control": "no-cache", **headers})
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stopping.set()
