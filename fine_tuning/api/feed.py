"""Send the events of jobs to watchers (clients that follow a job).

A job's event file is read once, however many watchers it has.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import closing
from typing import NamedTuple

from fine_tuning.events import Event, EventReader, to_record
from fine_tuning.jobs import store
from fine_tuning.jobs.progress import facts
from fine_tuning.jobs.store import Job
from fine_tuning.json_values import finite
from fine_tuning.state import Changes

HEARTBEAT = 15.0  # seconds without events after which a heartbeat is sent
_GLANCE = 0.2  # seconds between two checks of a job


class Told(NamedTuple):
    """A message to watchers in two forms: `socket`, JSON for a WebSocket; `sent`, a server-sent event."""

    socket: str
    sent: str

    @classmethod
    def event(cls, number: int, record: dict[str, object]) -> "Told":
        text = json.dumps({"n": number, **finite(record)})
        return cls(text, f"id: {number}\ndata: {text}\n\n")

    @classmethod
    def job(cls, job: Job) -> "Told":
        text = json.dumps(facts(job))
        return cls(f'{{"job": {text}}}', f"event: job\ndata: {text}\n\n")

    @classmethod
    def heartbeat(cls) -> "Told":
        return cls(json.dumps({"heartbeat": time.time()}), ": heartbeat\n\n")


class Feed:
    """Collects the events of one job, and passes them to its watchers.

    A task reads new events as long as there are watchers.
    """

    def __init__(self, id: str) -> None:
        self._id = id
        self._events: list[tuple[int, Told]] = []
        self._job: Job | None = None
        self._heartbeat: Told | None = None  # the last one
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.watchers = 0

    @property
    def over(self) -> bool:
        return self._job is not None and self._job.over

    async def watch(self, after: int = 0) -> AsyncGenerator[Told]:
        """Yield the events with numbers above `after`, the job at each change of its state, and heartbeats.

        The generator ends when the job is over. If reading the events fails, the error is raised in
        every watcher.
        """
        self._task = self._task or asyncio.create_task(self._read())
        at, shown, heartbeat = 0, None, self._heartbeat
        while True:
            job, changed = self._job, self._changed
            while at < len(self._events):
                number, told = self._events[at]
                at += 1
                if number > after:
                    yield told
            if job is not None and job.state != shown:
                shown = job.state
                yield Told.job(job)
            if job is not None and job.over and at == len(self._events):
                return
            if self._task.done() and job is self._job and at == len(self._events):
                self._task.result()
            if self._heartbeat is not None and self._heartbeat is not heartbeat:
                heartbeat = self._heartbeat
                yield heartbeat
            await changed.wait()

    def stop(self) -> None:
        """Stop the task that reads events. Called when the last watcher has left."""
        if self._task:
            self._task.cancel()

    async def _read(self) -> None:
        try:
            with closing(Changes()) as changes:
                changes.is_new()
                job = await asyncio.to_thread(store.get, self._id)
                reader, silent_since = EventReader(job.events), time.monotonic()
                while True:
                    if self._take_over(job, reader.read()):
                        silent_since = time.monotonic()
                    elif time.monotonic() - silent_since > HEARTBEAT:
                        self._heartbeat, silent_since = Told.heartbeat(), time.monotonic()
                        self._wake()
                    if job.over:
                        return
                    await asyncio.sleep(_GLANCE)
                    # The state is read before the events: if the job is over, all its events are there to be read.
                    if changes.is_new():
                        job = await asyncio.to_thread(store.get, self._id)
        finally:
            self._wake()

    def _take_over(self, job: Job, told: list[tuple[int, Event]]) -> bool:
        """Pass new events, and a new state of the job, on to the watchers; return whether there were any."""
        if not told and self._job is not None and job.state == self._job.state:
            return False
        self._events += [(number, Told.event(number, to_record(event))) for number, event in told]
        self._job = job
        self._wake()
        return True

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Feeds:
    """Holds the feed of each job that has watchers: created for the first watcher, and removed after the last."""

    def __init__(self) -> None:
        self._feeds: dict[str, Feed] = {}

    async def watch(self, id: str, after: int = 0) -> AsyncGenerator[Told]:
        """Yield the messages about a job, see `Feed.watch`. Raises JobNotFound if there is no such job."""
        await asyncio.to_thread(store.get, id)
        feed = self._feeds.get(id)
        if feed is None or feed.over:  # a slow watcher may still read the feed of a job that was resumed
            feed = self._feeds[id] = Feed(id)
        feed.watchers += 1
        try:
            async for told in feed.watch(after):
                yield told
        finally:
            feed.watchers -= 1
            if not feed.watchers:
                feed.stop()
                if self._feeds.get(id) is feed:
                    del self._feeds[id]
