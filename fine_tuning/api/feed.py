"""What a running job tells, passed on to any number of watchers: its file of events is read once for all of them."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

from fine_tuning.events import EventReader, to_record
from fine_tuning.jobs import store
from fine_tuning.jobs.progress import facts
from fine_tuning.jobs.store import Job

HEARTBEAT = 15.0  # seconds of silence after which a watcher is told that the connection lives
_GLANCE = 0.2  # seconds between two looks at a job

Told = dict[str, Any]


class Feed:
    """One job's events so far, kept current by a task while anybody watches."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._events: list[tuple[int, Told]] = []
        self._job: Job | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def watch(self, after: int = 0) -> AsyncGenerator[Told]:
        """Yield {"n", "event", ...} for each event above `after`, {"job": ...} whenever its state changed, and {"heartbeat": time} in a
        silence, until the job is over. An error of the reading is raised in every watcher."""
        self._task = self._task or asyncio.create_task(self._read())
        at, shown = 0, None
        while True:
            job, changed = self._job, self._changed
            while at < len(self._events):
                number, told = self._events[at]
                at += 1
                if number > after:
                    yield told
            if job is not None and job.state != shown:
                shown = job.state
                yield {"job": facts(job)}
            if job is not None and job.over and at == len(self._events):
                return
            if self._task.done() and job is self._job and at == len(self._events):
                self._task.result()
            try:
                await asyncio.wait_for(changed.wait(), HEARTBEAT)
            except TimeoutError:
                yield {"heartbeat": time.time()}

    def stop(self) -> None:
        """End the reading: nobody watches any more."""
        if self._task:
            self._task.cancel()

    async def _read(self) -> None:
        reader = None
        try:
            while self._job is None or not self._job.over:
                job = await asyncio.to_thread(store.get, self._id)  # before its events: what it told last is not missed
                reader = reader or EventReader(job.events)
                new = [(number, {"n": number, **to_record(event)}) for number, event in reader.read()]
                if new or self._job is None or job.state != self._job.state:
                    self._events += new
                    self._job = job
                    self._wake()
                await asyncio.sleep(_GLANCE)
        finally:
            self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Feeds:
    """The feeds that are watched now, by the job's id."""

    def __init__(self) -> None:
        self._feeds: dict[str, tuple[Feed, int]] = {}

    async def watch(self, id: str, after: int = 0) -> AsyncGenerator[Told]:
        """Yield what `Feed.watch` of this job yields. JobNotFound if there is no such job."""
        await asyncio.to_thread(store.get, id)
        feed, watchers = self._feeds.get(id) or (Feed(id), 0)
        self._feeds[id] = feed, watchers + 1
        try:
            async for told in feed.watch(after):
                yield told
        finally:
            feed, watchers = self._feeds[id]
            if watchers > 1:
                self._feeds[id] = feed, watchers - 1
            else:
                del self._feeds[id]
                feed.stop()
