"""The pipeline for programs: a retrain as an awaitable."""

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from fine_tuning.config import FineTuningConfig, load_config

if TYPE_CHECKING:
    from fine_tuning.pipeline import Outcome, Plan, Reporter, Request
    from fine_tuning.training.trainer import Progress


class ModelFineTuner:
    """Fine-tunes the configured base on the log.

    >>> outcome = asyncio.run(ModelFineTuner().fine_tune())  # doctest: +SKIP
    """

    def __init__(self, config: FineTuningConfig | None = None, ollama_url: str | None = None) -> None:
        self.config, self._url = config or load_config(), ollama_url

    async def plan(self) -> "Plan":
        """What would be learned, and what it would take."""
        from fine_tuning.engines.connect import connect
        from fine_tuning.pipeline import make_plan

        return await asyncio.to_thread(lambda: make_plan(self.config, connect(self._url, self.config), Silent()))

    async def fine_tune(self, request: "Request | None" = None, reporter: "Reporter | None" = None) -> "Outcome":
        """Retrain in a thread of its own. Cancelling the task stops the training at its next step; it can be resumed."""
        from dataclasses import replace

        from fine_tuning.engines.connect import connect
        from fine_tuning.pipeline import Request, retrain

        stopped = threading.Event()
        asked = request or Request()
        asked = replace(asked, cancelled=_either(stopped.is_set, asked.cancelled))
        work = asyncio.to_thread(lambda: retrain(self.config, connect(self._url, self.config), reporter or Silent(), asked))
        try:
            return await work
        except asyncio.CancelledError:
            stopped.set()
            raise


def _either(first: Callable[[], bool], second: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: first() or second()


class Silent:
    """A pipeline.Reporter that tells nobody."""

    def stage(self, title: str) -> None: ...

    def note(self, text: str) -> None: ...

    def count(self, done: int, total: int) -> None: ...

    def progress(self, progress: "Progress") -> None: ...
