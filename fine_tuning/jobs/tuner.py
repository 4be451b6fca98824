"""The pipeline for programs: a retrain as an awaitable."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from fine_tuning.config import FineTuningConfig, load_config

if TYPE_CHECKING:
    from fine_tuning.pipeline import Outcome, Plan, Reporter, Request
    from fine_tuning.training.trainer import Progress

_Result = TypeVar("_Result")


class ModelFineTuner:
    """Fine-tunes the configured base on the log.

    >>> outcome = asyncio.run(ModelFineTuner().fine_tune())  # doctest: +SKIP
    """

    def __init__(self, config: FineTuningConfig | None = None, ollama_url: str | None = None) -> None:
        self.config, self._url = config or load_config(), ollama_url

    async def plan(self, request: "Request | None" = None) -> "Plan":
        """Return what would be learned, and what it would take. Cancelled, it ends as `fine_tune` does."""
        from fine_tuning.engines.connect import connect
        from fine_tuning.pipeline import make_plan

        return await _stoppable(lambda asked: make_plan(self.config, connect(self._url, self.config), Silent(), asked), request)

    async def fine_tune(self, request: "Request | None" = None, reporter: "Reporter | None" = None) -> "Outcome":
        """Retrain in a thread of its own.

        Cancelling the task stops it at its next safe point (a training step, an answer of an evaluation); the next retrain goes on from
        there. CancelledError is raised only then: nothing runs any more, and another retrain may begin.
        """
        from fine_tuning.engines.connect import connect
        from fine_tuning.pipeline import retrain

        told = reporter or Silent()
        return await _stoppable(lambda asked: retrain(self.config, connect(self._url, self.config), told, asked), request)


async def _stoppable(work: "Callable[[Request], _Result]", request: "Request | None") -> "_Result":
    """`work` in a thread. When the task is cancelled, `work` is asked to stop, and waited for, however often that is asked."""
    from fine_tuning.pipeline import Request

    stopped, given = threading.Event(), request or Request()
    asked = replace(given, cancelled=lambda: stopped.is_set() or given.cancelled())
    thread = asyncio.get_running_loop().run_in_executor(None, work, asked)
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        stopped.set()
        while not thread.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([thread])
        if not thread.cancelled():
            thread.exception()  # taken note of: that it was stopped, or failed on the way
        raise


class Silent:
    """A pipeline.Reporter that tells nobody."""

    def stage(self, title: str) -> None: ...

    def note(self, text: str) -> None: ...

    def count(self, done: int, total: int) -> None: ...

    def progress(self, progress: "Progress") -> None: ...
