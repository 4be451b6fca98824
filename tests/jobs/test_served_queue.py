"""A server keeps the table of jobs up to date: it begins jobs, and sees that they end, whoever reads meanwhile."""

import os
import signal
import threading
import time
from typing import Any

import pytest
from timing import in_time, seconds
from waiting import PATIENCE, counted, wait_for

from fine_tuning.jobs import store
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import State

LONG: dict[str, Any] = {"counts": 10_000, "pause": 0.01}


def test_only_a_server_begins_what_would_end_with_it(queue: Queue) -> None:
    """Whoever only looks ends soon, and would take it along."""
    job = store.add("small", {"counts": 2}, detached=False)
    queue.jobs()
    assert queue.get(job.id).state == State.QUEUED
    ended = threading.Event()
    serving = threading.Thread(target=queue.run, args=(ended,))
    serving.start()
    assert queue.wait(job.id, PATIENCE).state == State.COMPLETED
    long = store.add("small", LONG, detached=False)
    wait_for(lambda: counted(long) > 2)
    ended.set()  # the server is stopped: what is its own stops at a safe point
    serving.join()
    assert queue.wait(long.id, PATIENCE).state == State.INTERRUPTED and "SIGTERM" in store.get(long.id).reason


def test_while_a_server_keeps_the_table_up_to_date_reading_it_is_cheap_and_what_it_says_is_true(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    tended: list[None] = []
    tend = queue.tend

    def counted_tend(*, all: bool = False) -> None:
        tended.append(None)
        tend(all=all)

    monkeypatch.setattr(queue, "tend", counted_tend)
    ended = threading.Event()
    serving = threading.Thread(target=queue.run, args=(ended,))
    serving.start()
    try:
        wait_for(lambda: tended, what="the first round")

        def told_of_a_kill() -> float:
            job = queue.submit("small", LONG)
            wait_for(lambda: counted(job) >= 1)
            job = store.get(job.id)
            assert job.process
            os.kill(job.process.pid, signal.SIGKILL)
            return seconds(
                lambda: wait_for(lambda: queue.get(job.id).state == State.INTERRUPTED, what="its end"), time.monotonic
            )

        in_time(told_of_a_kill, 2)
        wait_for(lambda: not store.find((State.RUNNING, State.QUEUED)))
        time.sleep(1.5)  # until nothing changes any more
        tended.clear()
        assert [len(queue.jobs()) for _ in range(100)] == [len(store.find())] * 100
        assert len(tended) <= 1
    finally:
        ended.set()
        serving.join()
    queue.jobs()
    assert len(tended) >= 1  # without the server, reading brings the table up to date
