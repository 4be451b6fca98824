"""The processes of jobs: begun in a session of their own, told from strangers, and ended whole.

A worker and all that it starts carry the job's mark in their environment. By it they are found
again when the worker is gone, also those that left its process group; a process that merely got the
worker's number carries no such mark, and is left alone.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from functools import cache

import psutil

from fine_tuning import paths
from fine_tuning.jobs.store import Job, Process

MARK = "BYOAI_JOB"  # the environment variable
WORKER = (sys.executable, "-m", "fine_tuning.jobs.worker")
_SAME = 1.5  # seconds by which two readings of a process's start may differ: the system rounds when it began itself

_children: dict[int, "subprocess.Popen[bytes]"] = {}  # workers that this process began


def this_process() -> Process:
    return _own(os.getpid())


@cache
def _own(pid: int) -> Process:
    return Process(pid, started(psutil.Process(pid)))


def started(process: psutil.Process) -> float:
    """Return when a process began, in seconds after the machine did: it stays so when the clock is set anew."""
    return process.create_time() - psutil.boot_time()


def is_alive(process: Process, mark: str = "") -> bool:
    """Return whether just this process lives: not another one of its number, and not one that only waits to be buried.

    `mark`: it may be told by that, too.
    """
    try:
        found = psutil.Process(process.pid)
        if found.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return False
        return abs(started(found) - process.started) < _SAME or bool(mark and _mark_of(found) == mark)
    except psutil.Error:
        return False


def begin(job: Job, program: Sequence[str] = WORKER) -> Process:
    """Start a job's worker in a session of its own, where neither Ctrl-C nor the end of a terminal reaches it."""
    job.folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, MARK: job.mark, "BYOAI_HOME": str(paths.home()), "PYTHONUNBUFFERED": "1"}
    with os.fdopen(
        os.open(job.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab"
    ) as log:  # what it says before it masks its log itself
        child = subprocess.Popen(
            [*program, job.id],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=paths.REPOSITORY,
            env=environment,
        )
    _children[child.pid] = child
    return _told(child.pid)


def _told(pid: int) -> Process:
    try:
        return Process(pid, started(psutil.Process(pid)))
    except psutil.Error:  # it has ended already
        return Process(pid, time.time() - psutil.boot_time())


def begin_aside(job: Job, module: str, told: object) -> None:
    """Start a small program that is done with a job when that has ended: it is no part of the job,
    and outlives whoever starts it.

    It reads `told` as JSON from stdin; what it says goes into the job's log. OSError if it cannot be started.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    environment = {**{key: value for key, value in os.environ.items() if key != MARK}, "BYOAI_HOME": str(paths.home())}
    with os.fdopen(os.open(job.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as log:
        program = [sys.executable, "-W", "ignore", "-m", module]
        child = subprocess.Popen(
            program,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=paths.REPOSITORY,
            env=environment,
        )
    _children[child.pid] = child
    if child.stdin is not None:
        with contextlib.suppress(BrokenPipeError), child.stdin as stdin:
            stdin.write(json.dumps(told).encode())


def exit_code(process: Process) -> int | None:
    """Return how a worker ended that this process began (negative: the signal); None if it is not known here.

    Call it when the worker is known to end. It waits a moment: a process counts as gone when its
    first thread is, but the system tells its exit code only when the last one is, and it may write
    a core file in between.
    """
    child = _children.get(process.pid)
    with contextlib.suppress(subprocess.TimeoutExpired):
        return child.wait(_PATIENCE) if child else None
    return None


def bury(kept: Collection[int]) -> None:
    """Forget the workers that have ended, but those of which the exit code is still wanted."""
    for pid, child in list(_children.items()):
        if pid not in kept and child.poll() is not None:
            _children.pop(pid, None)


def ask(job: Job) -> None:
    """Ask a job's worker to stop at its next safe point."""
    if job.process and not job.here and is_alive(job.process, job.mark):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(job.process.pid, signal.SIGTERM)


def kill(job: Job) -> None:
    """End all processes of this attempt of a job, whatever they do, but the calling one; return when none is left."""
    if job.here:
        return
    if job.process and job.process.pid != os.getpid() and is_alive(job.process, job.mark):
        # the whole group at once; its number is the living leader's
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(job.process.pid, signal.SIGKILL)
    deadline = time.monotonic() + _PATIENCE
    # one may start another while they are looked for
    while (found := marked(job.mark)) and time.monotonic() < deadline:
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.01)


_PATIENCE = 5.0  # seconds: one that waits for a disk can be killed only then


def marked(mark: str) -> list[psutil.Process]:
    """Return the living processes that carry a mark, but the calling one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and _mark_of(process) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _mark_of(process: psutil.Process) -> str:
    return process.environ().get(MARK, "")
