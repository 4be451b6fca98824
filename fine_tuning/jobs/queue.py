"""The queue of jobs: start jobs in order, keep the table up to date, and cancel, resume and retry jobs.

No process needs to run permanently for this. A server calls `Queue.run` in a thread, which calls
`Queue.tend` regularly. Without a server, every process that submits or reads jobs calls `Queue.tend`
once, and so does a worker when it ends.
"""

import math
import shutil
import signal
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import closing
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
from fine_tuning.state import Changes
from fine_tuning.units import signal_name

GRACE = 30.0  # seconds that a cancelled job has to reach a safe point
_ROUND = 0.5  # seconds between rounds of a server
_MARGIN = 1.0  # further seconds before another process kills a job, which should end itself when its time is up
_KILLED = "its process was killed, or the machine was switched off: resume it to continue from what was done"


class Queue:
    """Submits, starts, cancels, resumes and removes jobs. Any number of processes may do so at the same time."""

    def __init__(self, program: Sequence[str] = (), heavy: int = 1, light: int = 4) -> None:
        """Set how jobs are started.

        Args:
            program: The command that runs a job, to which the job's id is appended; by default the
                worker.
            heavy: The maximum number of simultaneous heavy jobs (see `request.Kind`).
            light: The maximum number of other simultaneous jobs.
        """
        self._program, self._heavy, self._light = program or processes.WORKER, heavy, light
        self._is_run = False  # whether `run` keeps the table up to date

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
        """Submit a job, which starts at once or after the jobs before it; return it.

        Args:
            kind: One of KINDS.
            request: The fields of the kind's request.
            id: The job's id, by default a new one. If a job with this id and request exists, it is
                returned, so that a client may repeat a request.
            priority: Jobs with a higher priority start first.
            detached: Whether the job continues when the process that started it ends.
            origin: What submitted it, by default the name of this program.
            retry_of: The id of the job that it retries.

        Raises ConfigError for an unknown kind, an invalid request, or an id that a job with another
        request has.
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
        """Return a job in its current state. Raises JobNotFound if no job has this id."""
        job = store.get(id)
        if job.over or self._is_run:
            return job
        self.tend()
        return store.get(id)

    def jobs(
        self,
        states: Collection[State] | None = None,
        kinds: Collection[str] | None = None,
        limit: int = 100,
        before: float | None = None,
    ) -> list[Job]:
        """Return jobs in their current state, newest first; for the arguments see `store.find`."""
        if not self._is_run:
            self.tend()
        return store.find(states, kinds, limit, before)

    def cancel(self, id: str, *, discard: bool = False, grace: float = GRACE) -> Job:
        """Ask a job to stop, and return it; after `grace` seconds it is killed with all its children.

        `discard`: remove the job's output, from which it could otherwise be resumed. A job that runs
        in its caller's process is never killed. Raises JobNotFound if no job has this id.
        """
        job = store.ask_to_stop(id, grace, discard=discard)
        if job.active:
            processes.ask(job)
        return self.get(id)

    def resume(self, id: str, *, detached: bool = True) -> Job:
        """Resume a job that was cancelled, failed or interrupted, and return it.

        Raises WrongState for any other job, and JobNotFound if no job has this id.
        """
        self.tend()
        read_request(store.get(id).kind, store.get(id).request)
        store.requeue(id, detached=detached)
        self.tend(all=not detached)
        return store.get(id)

    def retry(self, id: str, *, new_id: str | None = None, detached: bool = True) -> Job:
        """Submit the request of a finished job again, as a new job with the id `new_id`; return the new job.

        Raises WrongState if the job is not over, and JobNotFound if no job has this id.
        """
        job = self.get(id)
        if not job.over:
            raise WrongState(f"the job {id} is {job.state}: it can be run again when it is over")
        return self.submit(job.kind, job.request, id=new_id, priority=job.priority, detached=detached, retry_of=id)

    def remove(self, id: str) -> None:
        """Remove a finished job and its folder, but not its output. Raises Busy if the job is not over."""
        self.get(id)
        store.remove(id)
        shutil.rmtree(store.folder_of(id), ignore_errors=True)

    def wait(self, id: str, seconds: float | None = None) -> Job:
        """Wait until a job is over and its process has ended, and return it.

        If that takes longer than `seconds` (None: no limit), return the job in its current state.
        """
        deadline = time.monotonic() + seconds if seconds is not None else math.inf
        while not _is_still(job := self.get(id)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return job

    def run(self, ended: threading.Event) -> None:
        """Keep the table up to date, and start jobs, until `ended` is set; other calls then only read the table.

        Then ask the jobs that this process started to stop, except those that are detached.
        """
        active: list[Job] | None = None  # None: to be read again
        with closing(Changes()) as changes:
            while not ended.wait(_ROUND):
                try:
                    if changes.is_new() or active is None:
                        active = None
                        self.tend(all=True)
                        active = _active()
                    else:
                        settle(active)
                    self._is_run = True
                except (ByoaiError, OSError, psutil.Error):  # for example a full disk; the next round tries again
                    self._is_run = False
        self._is_run = False
        me = processes.this_process()
        for job in store.find(ACTIVE):
            if job.owner == me and not job.detached and not job.here:
                processes.ask(job)

    def tend(self, *, all: bool = False) -> None:
        """Update the table of jobs (`settle`), and start queued jobs until as many run as may run at the same time.

        `all`: also start jobs that are not detached. These end with this process, so only a server
        should start them.
        """
        settle()
        if not store.find((State.QUEUED,), limit=1):  # reading needs no lock
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


def _active() -> list[Job]:
    return store.find(ACTIVE, limit=1000)


def settle(active: Sequence[Job] | None = None) -> None:
    """Record the end of each active job whose process has ended, and kill the processes that it left behind.

    A job that was cancelled and did not stop in time is killed. A job whose owner ended before it
    could start the job is queued again. `active`: the active jobs; None: read them from the table.
    """
    active = _active() if active is None else active
    for job in active:
        if job.process is None:
            if (job.owner is None or not processes.is_alive(job.owner)) and not store.give_back(job):
                _end_gone(job)  # it was cancelled before it started
        elif processes.is_alive(job.process, job.mark):
            if job.kill_at and time.monotonic() > job.kill_at + _MARGIN and not job.here:
                processes.kill(job)
                _end_gone(job)
        else:
            _end_gone(job)
    processes.bury({job.process.pid for job in active if job.process})


def _end_gone(job: Job) -> None:
    """Record the end of a job whose process has ended, unless the process recorded it itself just before.

    The remaining processes of the job are killed.
    """
    processes.kill(job)
    code = processes.exit_code(job.process) if job.process else None
    state, reason = _ended(job, code)
    end(job, state, reason, code)


def end(job: Job, state: State, reason: str, code: int | None) -> bool:
    """Record how this attempt of a job ended; return False, and do nothing, if that was recorded before.

    The output of a cancelled job is removed if that was requested. Separate processes are started to
    send the notice and to copy the run's metrics to MLflow, if these are configured.
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
        is_late = job.kill_at is not None and time.monotonic() > job.kill_at
        return State.CANCELLED, "it did not stop in time, and was killed" if is_late else "cancelled"
    if code is not None and code > 0:
        return State.FAILED, mask(
            last_line(job.log)
        ) or f"its process ended with exit code {code} and without a message"
    if code is not None and code < 0 and -code not in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        return State.FAILED, f"its process crashed ({signal_name(-code)}); {job.log} may say more"
    return State.INTERRUPTED, _KILLED


def discard(job: Job) -> None:
    """Remove a cancelled job's output, if that was requested (`Job.discard`).

    The output is an unfinished run, or the study of a sweep; a study that other jobs share is kept.
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
    """Return whether a folder is directly in the folder where sweeps keep their studies."""
    return folder.parent == paths.sweeps_dir()


def remove_old() -> None:
    """Remove the oldest finished jobs, with their folders, so that `store.KEPT` finished jobs are left."""
    for id in store.remove_old():
        shutil.rmtree(store.folder_of(id), ignore_errors=True)
