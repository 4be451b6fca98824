"""Run a job's work in any process: record its events, heartbeat and end, and stop it when requested."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fine_tuning import paths, workshop
from fine_tuning.config import FineTuningConfig
from fine_tuning.engines.base import Engine
from fine_tuning.errors import ByoaiError, Cancelled
from fine_tuning.events import Event, Finished, RunOpened, Watch, events_to
from fine_tuning.jobs import processes, queue, store
from fine_tuning.jobs.joblog import mask
from fine_tuning.jobs.kinds import KINDS, ImportRequest, RetrainRequest, import_asked
from fine_tuning.jobs.request import JobRequest
from fine_tuning.jobs.store import Job, State
from fine_tuning.runs import called
from fine_tuning.state import Changes, is_full

if TYPE_CHECKING:
    from fine_tuning.data_collection.importers.importing import Report
    from fine_tuning.outcome import Outcome

_LOOK = 0.25  # seconds between checks for a request to stop
_BEAT = 10.0  # seconds between heartbeats; servers read the database again after each one
_ROOM = 10.0  # seconds of retries to record a job's end, for example on a full disk
_LAST_WORDS = 1.0  # seconds that a worker has to stop by itself after its server has ended


@dataclass
class Stop:
    """A request to stop a job, which any thread or signal handler can make with `ask`. The first reason counts."""

    asked: threading.Event = field(default_factory=threading.Event)
    why: str = ""  # "" if a person cancelled the job

    def ask(self, why: str = "") -> None:
        if not self.asked.is_set():
            self.why = why
            self.asked.set()


@contextlib.contextmanager
def listed(kind: str, request: JobRequest, watch: Watch | None = None) -> Iterator[Watch]:
    """Show the work in this `with` block in the list of jobs, as a running job; yield the Watch to pass to the work.

    Other processes can cancel the job: the Watch then asks the work to stop. They never kill this
    process, since it may do other things.
    """
    job = store.add(
        kind,
        request.record(),
        heavy=KINDS[kind].heavy,
        detached=True,
        origin=called(),
        here=processes.this_process(),
    )
    queue.remove_old()
    try:
        with doing(job, watch or Watch(), Stop()) as told:
            yield told
    finally:
        queue.Queue().tend()


def retrain_here(
    config: FineTuningConfig,
    watch: Watch | None = None,
    request: "workshop.Request | None" = None,
    ollama_url: str | None = None,
    engine: Engine | None = None,
) -> "Outcome":
    """Retrain in this process, listed as a job. Raises the errors of `pipeline.retrain`."""
    from fine_tuning.pipeline import retrain

    asked = RetrainRequest.of(config, request or workshop.Request(), ollama_url)
    with listed("retrain", asked, watch) as told:
        return retrain(config, engine or asked.engine(), told, request)


def import_here(request: ImportRequest, watch: Watch | None = None) -> "Report":
    """Import in this process, listed as a job. Raises the errors of `importing.import_files`."""
    with listed("import", request, watch) as told:
        return import_asked(request, told)


@contextlib.contextmanager
def doing(job: Job, watch: Watch, stop: Stop) -> Iterator[Watch]:
    """Do the work of a job in this `with` block; yield the Watch for the work.

    The Watch writes the work's events to the job's event file, besides passing them to `watch`, and
    asks the work to stop when `stop` or `watch` does. How the block ends is recorded in the table
    of jobs. An exception of the block is raised again.
    """
    last: list[Finished] = []

    def note(event: Event) -> None:
        if isinstance(event, RunOpened):
            with contextlib.suppress(ByoaiError):  # failing to record the folder must not fail the job
                store.set_run(job, event.folder)
        if isinstance(event, Finished):
            last[:] = [event]

    with events_to(job.events) as tell:
        told = (
            Watch(watch.tell, lambda: stop.asked.is_set() or watch.stopping(), watch.seconds)
            .telling(tell)
            .telling(note)
        )
        pulse = _Pulse(job, stop)
        pulse.start()
        state, reason, code = State.FAILED, "it ended without a result", 1
        try:
            yield told
        except BaseException as error:
            state, reason, code = pulse.verdict or _judged(job, stop, error)
            if not last:
                told.tell(
                    Finished(
                        "stopped" if state in (State.CANCELLED, State.INTERRUPTED) else "failed",
                        reason,
                        seconds=told.seconds,
                    )
                )
            raise
        else:
            state, reason, code = State.COMPLETED, last[0].text if last else "done", 0
            if not last:
                told.tell(Finished("done", reason, seconds=told.seconds))
        finally:
            pulse.end()
            processes.kill(job)  # leftover child processes, before the job is reported as over
            _finish(job, state, mask(reason), code)


def _finish(job: Job, state: State, reason: str, code: int) -> None:
    """Record how a job ended. If that fails, for example because the disk is full, try again for _ROOM seconds."""
    deadline = time.monotonic() + _ROOM
    while True:
        try:
            queue.end(job, state, reason, code)
        except ByoaiError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK)
        else:
            return


def _judged(job: Job, stop: Stop, error: BaseException) -> tuple[State, str, int]:
    """Return the final state, reason and exit code of a job whose work ended with an exception."""
    if isinstance(error, Cancelled):
        asked = store.get(job.id).state == State.CANCELLING
        if asked or not stop.why:
            return State.CANCELLED, str(error), error.exit_code
        return State.INTERRUPTED, stop.why, error.exit_code
    if isinstance(error, ByoaiError):
        return State.FAILED, str(error), error.exit_code
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
        return State.INTERRUPTED, "its program ended before it was done", 130
    if isinstance(error, MemoryError):
        return State.FAILED, "there was not enough memory: close other programs, or take smaller settings (--auto)", 5
    if is_full(error):
        return (
            State.FAILED,
            f"the disk is full ({getattr(error, 'filename', None) or paths.home()}): make room, and resume the job",
            1,
        )
    said = str(error).strip().partition("\n")[0]
    return (
        State.FAILED,
        f"a fault in byoai itself: {type(error).__name__}{f': {said}' if said else ''}. {job.log} says more",
        1,
    )


class _Pulse(threading.Thread):
    """A thread that records a job's heartbeat, and asks the job to stop if it is cancelled or its server has ended.

    If the job does not stop in time, the thread kills this process.
    """

    def __init__(self, job: Job, stop: Stop) -> None:
        super().__init__(name="job pulse", daemon=True)
        self._job, self._asked, self._over = job, stop, threading.Event()
        self._orphaned_at: float | None = None
        self.verdict: tuple[State, str, int] | None = None  # the final state, set before this process is killed

    def end(self) -> None:
        self._over.set()
        self.join(timeout=5)

    def run(self) -> None:
        beats = 0.0
        now: Job | None = None  # None: to be read again
        with contextlib.closing(Changes()) as changes:
            while not self._over.wait(_LOOK):
                with contextlib.suppress(ByoaiError):  # for example a full disk; the next round tries again
                    if changes.is_new():
                        now = None
                    if time.monotonic() > beats + _BEAT:
                        beats, now = time.monotonic(), None
                        now = store.beat(self._job)
                    now = now or store.get(self._job.id)
                    self._look(now)

    def _look(self, now: Job) -> None:
        if now.attempt != self._job.attempt or now.over:
            self._asked.ask("another process took it over")
        elif now.state == State.CANCELLING:
            self._asked.ask()
        if now.here:
            return
        if not now.detached and now.owner and os.getppid() != now.owner.pid and not processes.is_alive(now.owner):
            self._orphaned_at = self._orphaned_at or time.monotonic()
            self._asked.ask("the server that it belonged to has ended")
        if self._orphaned_at and time.monotonic() > self._orphaned_at + _LAST_WORDS:
            self._die(State.INTERRUPTED, "the server that it belonged to has ended")
        elif now.kill_at and time.monotonic() > now.kill_at:
            self._die(State.CANCELLED, "it did not stop in time, and was killed")

    def _die(self, state: State, reason: str) -> None:
        """Record how the job ended, and kill this process and all its children."""
        if self._over.is_set():
            return
        self.verdict = state, reason, 137  # applies even if the work fails because its children are killed
        processes.kill(self._job)
        queue.end(self._job, *self.verdict)
        os.kill(os.getpid(), signal.SIGKILL)
