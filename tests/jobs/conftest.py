"""Jobs of a small kind, done by real workers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import small_worker

from fine_tuning.jobs import kinds, processes, store
from fine_tuning.jobs.queue import Queue, settle


@pytest.fixture
def queue(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    """A queue whose workers know the small kinds. What a test leaves behind is ended."""
    monkeypatch.setattr(kinds, "KINDS", dict(kinds.KINDS))
    monkeypatch.setattr("fine_tuning.jobs.queue.KINDS", kinds.KINDS)
    monkeypatch.setattr("fine_tuning.jobs.doing.KINDS", kinds.KINDS)
    monkeypatch.setattr(processes, "WORKER", processes.WORKER)
    small_worker.register()
    yield Queue()
    for job in store.find(limit=1000):
        processes.kill(job)
    settle()
