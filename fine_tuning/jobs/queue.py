"""The queue: begins jobs in their turn, keeps the table true, and stops, resumes and retries them.

Nothing here must run all the time. A server calls `Queue.run` in a thread; where there is none,
whoever asks for a job, or looks at the table, does one round of the same (`Queue.tend`), and so
does a worker when it ends.
"""

import math
import shutil
import signal
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from fine_tuning import paths
from fine_tuning.errors import ByoaiError, WrongState
from fine_tuning.jobs import notices, processes, store, tracking
from fine_tuning.jobs.joblog import last_line, mask
from fine_tuning.jobs.kinds import KINDS, read_request
from fine_tuning.jobs.store import ACTIVE, Job, State
from fine_tuning.runs import Run, called
from fine_tuning.units import signal_name

GRACE = 30.0  # seconds that a job has to come to a safe point
_ROUND = 0.5  # seconds between two rounds of a server
_MARGIN = 1.0  # seconds after which others end a job that should have ended itself
_KILLED = "its process was killed, or the machine went down: resume it, and it goes on from what was done"


class Queue:
    """All that is done with jobs from outside. Any number of these may be in use, in any number of processes."""

    def __init__(self, program: Sequence[str] = (), heavy: int = 1, light: int = 4) -> None:
        """`program` does a job, whose id is appended; `heavy` and `light`: how many of them run at once."""
        self._program, self._heavy, self._light = program or processes.WORKER, heavy, light

    def submit(
        self,
        kind: str,
        request: dict[str, Any] | None = None,
        *,
        id: str | None = None,
        priority: int = 0,
        detached: bool = True,
        origin: str = "",
        retry_of: str = "",
    ) -> Job:
        """Ask for a job; it begins now or in its turn. Asked twice with one `id`, it is one job.

        `detached`: it goes on when the process ends that began it. `origin`: who asks; default: how
        this program was called. ConfigError for an unknown kind, or a request that is none.
        """
        record = read_request(kind, request or {}).record()
        job = store.add(
            kind,
            record,
            id=id,
            priority=priority,
            heavy=KINDS[kind].heavy,
            detached=detached,
            origin=origin or called(),
            retry_of=retry_of,
        )
        remove_old()
        self.tend(all=not detached)
        return store.get(job.id)

    def get(self, id: str) -> Job:
        """Return a job as it truly stands. JobNotFound if there is none."""
        if not store.get(id).over:
            self.tend()
        return store.get(id)

    def jobs(
        self,
        states: Collection[State] | None = None,
        kinds: Collection[str] | None = None,
        limit: int = 100,
        before: float | None = None,
    ) -> list[Job]:
        """Return jobs as they truly stand, newest first."""
        self.tend()
        return store.find(states, kinds, limit, before)

    def cancel(self, id: str, *, discard: bool = False, grace: float = GRACE) -> Job:
        """Ask a job to stop. It is killed with all that it started if it has not stopped by itself
        after `grace` seconds.

        `discard`: what it made so far goes; else the next one goes on from there. One that a
        program does by itself is only asked.
        """
        job = store.ask_to_stop(id, grace, discard=discard)
        if job.active:
            processes.ask(job)
        return self.get(id)

    def resume(self, id: str, *, detached: bool = True) -> Job:
        """Go on with a job that was cancelled, failed, or interrupted."""
        self.tend()
        read_request(store.get(id).kind, store.get(id).request)
        store.requeue(id, detached=detached)
        self.tend(all=not detached)
        return store.get(id)

    def retry(self, id: str, *, new_id: str | None = None, detached: bool = True) -> Job:
        """Ask for the same once more, as another job."""
        job = self.get(id)
        if not job.over:
            raise WrongState(f"the job {id} is {job.state}: it can be tried again when it is over")
        return self.submit(job.kind, job.request, id=new_id, priority=job.priority, detached=detached, retry_of=id)

    def remove(self, id: str) -> None:
        """Remove a job that is over, and its folder; what it made stays. Busy for one that is not over."""
        self.get(id)
        store.remove(id)
        shutil.rmtree(store.folder_of(id), ignore_errors=True)

    def wait(self, id: str, seconds: float | None = None) -> Job:
        """Return a job when it is over and nothing of it runs any more, or as it stands after so many seconds."""
        deadline = time.monotonic() + seconds if seconds is not None else math.inf
        while not _is_still(job := self.get(id)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return job

    def run(self, ended: threading.Event) -> None:
        """Tend the queue until `ended` is set. What this process began and is not detached is then asked to stop."""
        while not ended.wait(_ROUND):
            try:
                self.tend(all=True)
            except (ByoaiError, OSError, psutil.Error):  # the disk is full, say: it is tried again
                continue
        me = processes.this_process()
        for job in store.find(ACTIVE):
            if job.owner == me and not job.detached and not job.here:
                processes.ask(job)

    def tend(self, *, all: bool = False) -> None:
        """Make the table true, and begin what may begin now.

        `all`: also what is not detached, which ends when this process does. Only a server should begin it.
        """
        settle()
        if not store.find((State.QUEUED,), limit=1):  # to look takes no lock
            return
        while (
            job := store.claim(processes.this_process(), self._heavy, self._light, detached_only=not all)
        ) is not None:
            try:
                process = processes.begin(job, self._program)
            except OSError as error:
                end(job, State.FAILED, f"its process could not be started: {error.strerror or error}", 1)
                continue
            store.enter(job, process)


def _is_still(job: Job) -> bool:
    return job.over and (job.here or job.process is None or not processes.is_alive(job.process, job.mark))


def settle() -> None:
    """Make the table true: of jobs whose process is gone, note how they ended, and end what they left behind."""
    active = store.find(ACTIVE, limit=1000)
    for job in active:
        if job.process is None:
            if (job.owner is None or not processes.is_alive(job.owner)) and not store.give_back(job):
                _end_gone(job)  # it was cancelled before it began
        elif processes.is_alive(job.process, job.mark):
            if job.kill_at and time.time() > job.kill_at + _MARGIN and not job.here:
                processes.kill(job)
                _end_gone(job)
        else:
            _end_gone(job)
    processes.bury({job.process.pid for job in active if job.process})


def _end_gone(job: Job) -> None:
    """Note how a job ended whose process is gone, unless it did so itself a moment ago."""
    processes.kill(job)
    code = processes.exit_code(job.process) if job.process else None
    state, reason = _ended(job, code)
    end(job, state, reason, code)


def end(job: Job, state: State, reason: str, code: int | None) -> bool:
    """Note how this attempt of a job ended, and do what follows from it. False if that was noted
    before: then it was done, too.

    What a cancelled one made is removed, if that was asked for; notices are sent and the run's
    figures tracked, by programs of their own.
    """
    if not store.finish(job, state, reason, code):
        return False
    over = replace(store.get(job.id), attempt=job.attempt, state=state, reason=reason, exit_code=code)
    if state == State.CANCELLED:
        discard(over)
    notices.send(over)
    tracking.begin(over)
    return True


def _ended(job: Job, code: int | None) -> tuple[State, str]:
    if job.state == State.CANCELLING:
        return (
            State.CANCELLED,
            "it did not stop by itself, and was ended" if job.kill_at and time.time() > job.kill_at else "cancelled",
        )
    if code is not None and code > 0:
        return State.FAILED, mask(last_line(job.log)) or f"its process ended with exit code {code}, and said nothing"
    if code is not None and code < 0 and -code not in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        return State.FAILED, f"its process crashed ({signal_name(-code)}); {job.log} may say more"
    return State.INTERRUPTED, _KILLED


def discard(job: Job) -> None:
    """Remove what a cancelled job made, if that was asked for: its run, unless that is finished; of
    a sweep its study, unless another job has a share in it.
    """
    if not job.discard or not job.run:
        return
    folder = paths.within_home(Path(job.run))
    if not folder.is_dir() or folder.is_symlink():
        return
    is_run = not Run(folder).finished and Run(folder).inputs.exists()
    if is_run or (is_study(folder) and not store.sharing(job)):
        shutil.rmtree(folder, ignore_errors=True)


def is_study(folder: Path) -> bool:
    """Return whether a folder is a sweep's: the study with its trials."""
    return folder.parent == paths.sweeps_dir()


def remove_old() -> None:
    """Remove jobs that ended long ago, with their folders."""
    for id in store.remove_old():
        shutil.rmtree(store.folder_of(id), ignore_errors=True)
