"""Run what waits for the engine in threads of its own.

A request to a frozen Ollama fails only after half a minute. In the threads that all routes share, a few
such requests would also stop those that need no engine: the log, jobs, uploads and watchers. A server
that ends does not wait for these threads.
"""

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

import anyio
from anyio import CapacityLimiter
from anyio.lowlevel import RunVar

from fine_tuning.errors import EngineUnavailable

THREADS = 16
PATIENCE = 5.0  # seconds that a request waits for one of them

Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")

_free: RunVar[CapacityLimiter] = RunVar("threads that wait for the engine")  # one for each event loop


async def with_engine(work: Callable[[], Result]) -> Result:
    """Return the result of `work`, which uses the engine, after running it in one of THREADS threads.

    Raises the errors of `work`, and EngineUnavailable if none of the threads becomes free in time.
    """
    free, me = _limiter(), object()
    with anyio.move_on_after(PATIENCE) as waiting:
        await free.acquire_on_behalf_of(me)
    if waiting.cancelled_caught:
        raise EngineUnavailable(
            f"{THREADS} requests are waiting for the engine, which does not answer them: try again later. If that "
            "does not help, start the engine again"
        )
    try:
        return await in_thread(work)
    finally:
        free.release_on_behalf_of(me)


def in_thread(work: Callable[[], Result]) -> "asyncio.Future[Result]":
    """Run `work` in a new thread, which Python does not wait for when it exits; return its future result."""
    done: Future[Result] = Future()
    done.set_running_or_notify_cancel()  # it cannot be cancelled any more

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 (raised where the result is awaited)
            done.set_exception(error)

    threading.Thread(target=run, name="engine", daemon=True).start()
    return asyncio.wrap_future(done)


def waits_for_engine(route: Callable[Parameters, Result]) -> Callable[Parameters, Awaitable[Result]]:
    """Decorate the function of a route that uses the engine, so that `with_engine` runs it."""

    @functools.wraps(route)
    async def run(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        return await with_engine(functools.partial(route, *arguments, **named))

    return run


def _limiter() -> CapacityLimiter:
    try:
        return _free.get()
    except LookupError:
        _free.set(limiter := CapacityLimiter(THREADS))
        return limiter
