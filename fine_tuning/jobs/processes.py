"""Start, identify and kill the processes of jobs.

A worker (the process that runs a job) has its own session. The worker and its children have the
job's mark, a text that is unique to the attempt, in their environment. The mark identifies them even
after the worker has ended or they have left its process group. An unrelated process with a reused
process id lacks the mark and is left alone.
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
from fine_tuning.runs import began_at, started

MARK = "BYOAI_JOB"  # the environment variable with a job's mark
WORKER = (sys.executable, "-m", "fine_tuning.jobs.worker")

_children: dict[int, "subprocess.Popen[bytes]"] = {}  # workers and helpers that this process started, by process id


def this_process() -> Process:
    return _own(os.getpid())


@cache
def _own(pid: int) -> Process:
    return Process(pid, started(psutil.Process(pid)))


def is_alive(process: Process, mark: str = "") -> bool:
    """Return whether `process` is alive. A zombie is not, and neither is another process with the same id.

    The process is recognised by its start time, or by `mark` in its environment.
    """
    try:
        found = psutil.Process(process.pid)
        if found.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return False
        return began_at(found, process.started) or bool(mark and _mark_of(found) == mark)
    except psutil.Error:
        return False


def begin(job: Job, program: Sequence[str] = WORKER) -> Process:
    """Start a job's worker (`program` with the job's id), and return its process.

    It runs in its own session, so that Ctrl-C or a closed terminal does not reach it. Raises OSError
    if it cannot be started.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, MARK: job.mark, "BYOAI_HOME": str(paths.home()), "PYTHONUNBUFFERED": "1"}
    with os.fdopen(
        os.open(job.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab"
    ) as log:  # receives output until the worker itself redirects it
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
    except psutil.Error:  # the process has already ended
        return Process(pid, time.time() - psutil.boot_time())


def begin_aside(job: Job, module: str, told: object) -> None:
    """Start a helper program for a finished job: `python -m module`, which outlives this process.

    The helper reads `told` as JSON from stdin, and its output goes to the job's log. Raises OSError
    if it cannot be started.
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
    """Return the exit code of a worker that is ending (negative: the number of the signal that killed it).

    Return None if another process started the worker, or the code is not known within _PATIENCE. The
    call may have to wait, since the worker counts as ended when its first thread has ended, but has
    an exit code only after the last one, possibly after a core dump.
    """
    child = _children.get(process.pid)
    with contextlib.suppress(subprocess.TimeoutExpired):
        return child.wait(_PATIENCE) if child else None
    return None


def bury(kept: Collection[int]) -> None:
    """Remove ended processes from the table of child processes, except those with the process ids `kept`."""
    for pid, child in list(_children.items()):
        if pid not in kept and child.poll() is not None:
            _children.pop(pid, None)


def ask(job: Job) -> None:
    """Ask a job's worker, by SIGTERM, to stop at its next safe point. Do nothing if it is not running."""
    if job.process and not job.here and is_alive(job.process, job.mark):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(job.process.pid, signal.SIGTERM)


def kill(job: Job) -> None:
    """Kill all processes of this attempt of a job except the calling one, and wait until none is left.

    The wait is limited to _PATIENCE. A job that runs in its caller's process is not killed.
    """
    if job.here:
        return
    if job.process and job.process.pid != os.getpid() and is_alive(job.process, job.mark):
        # the whole process group, whose id is the worker's process id
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(job.process.pid, signal.SIGKILL)
    deadline = time.monotonic() + _PATIENCE
    # repeated, since a process may start another one during the search
    while (found := marked(job.mark)) and time.monotonic() < deadline:
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.01)


_PATIENCE = 5.0  # seconds to wait for the end of a process; one that waits for a disk cannot be killed at once


def marked(mark: str) -> list[psutil.Process]:
    """Return the living processes that have `mark` in their environment, except the calling one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and _mark_of(process) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _mark_of(process: psutil.Process) -> str:
    return process.environ().get(MARK, "")
