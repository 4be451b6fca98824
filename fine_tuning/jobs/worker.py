"""Run one job in its own process: `python -m fine_tuning.jobs.worker ID`, which the queue starts."""

import os
import signal
import sys
import traceback
from types import FrameType

from fine_tuning import paths
from fine_tuning.errors import ByoaiError
from fine_tuning.events import Watch
from fine_tuning.jobs import processes, store
from fine_tuning.jobs.doing import Stop, doing
from fine_tuning.jobs.joblog import logged_to
from fine_tuning.jobs.kinds import KINDS, read_request
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import Job


def main(id: str) -> int:
    """Run the job with this id, then start the next queued one.

    Return the exit code: 0, or, after an exception, the `exit_code` of a ByoaiError and 1 for any
    other. Return 0 without running the job if another process runs it.
    """
    job = store.get(id)
    if os.environ.setdefault(processes.MARK, job.mark) != job.mark or not store.enter(job, processes.this_process()):
        return 0  # another process runs the job
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # limit busy waiting of threads, as in cli/main.py
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _asks(stop))
    with logged_to(job.log):
        code = _work(job, stop)
    Queue().tend()
    return code


def _asks(stop: Stop) -> "signal._HANDLER":
    def handle(number: int, frame: FrameType | None) -> None:
        stop.ask(f"its process was told to end ({signal.Signals(number).name})")

    return handle


def _work(job: Job, stop: Stop) -> int:
    try:
        with doing(job, Watch(), stop) as watch:
            request = read_request(job.kind, job.request)
            result = KINDS[job.kind].work(request, watch)
            if result is not None:
                paths.write_json(job.result, result)
    except ByoaiError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except Exception:  # noqa: BLE001 (unexpected errors: the reason is in the table, the traceback in the log)
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
