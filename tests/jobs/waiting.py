"""What tests of jobs share."""

import time
from collections.abc import Callable

from fine_tuning.events import Count, read_events
from fine_tuning.jobs.store import Job

PATIENCE = 60.0  # seconds that anything has to come about, on a machine however busy


def wait_for(true: Callable[[], object], seconds: float = PATIENCE, what: str = "it") -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.02)


def counted(job: Job) -> int:
    """How far a job of the small kind has counted."""
    return max((event.done for _, event in read_events(job.events) if isinstance(event, Count)), default=0)
