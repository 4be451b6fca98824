"""A worker whose only kind is small: it counts, and may start children, crash, or not listen. It is
begun as `small_worker.py ID`.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.default_base import DEFAULT_TAG
from fine_tuning.errors import ByoaiError
from fine_tuning.events import Count, Finished, RunOpened, Watch
from fine_tuning.jobs import kinds, processes, worker
from fine_tuning.jobs.request import JobRequest, Kind
from fine_tuning.model_management.model_registry import Registry

PROGRAM = (sys.executable, __file__)


class SmallRequest(JobRequest):
    counts: int = 3
    pause: float = 0.05  # seconds between two counts
    says: str = ""  # on stdout
    fails: str = ""
    ends: str = ""  # how the process ends in the middle: a signal's name, or exit
    deaf: bool = False  # it never looks whether it should stop
    children: int = 0  # that sleep, each with one of its own
    leaves_group: bool = False  # the children lead a session of their own
    run: str = ""  # a folder that it makes
    until: str = ""  # a file without which it does not count the last number
    registers: str = ""  # a model of which it makes a version, with its run as notes


def small(request: SmallRequest, watch: Watch) -> dict[str, Any]:
    if request.run:
        folder = Path(request.run)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "inputs.json").write_text("{}")
        watch.tell(RunOpened(request.run, resumed=False))
    print(request.says, flush=True)
    _start_children(request)
    done_before = (
        int((Path(request.run) / "done").read_text()) if request.run and (Path(request.run) / "done").exists() else 0
    )
    for number in range(done_before + 1, request.counts + 1):
        while request.until and number == request.counts and not Path(request.until).exists():
            watch.stop_if_asked()
            time.sleep(request.pause)
        watch.tell(Count(number, request.counts)) if request.deaf else watch.count(number, request.counts)
        if request.run:
            paths.atomic_write(Path(request.run) / "done", str(number))
        time.sleep(request.pause)
        if request.ends == "exit":
            os._exit(3)
        if request.ends:
            os.kill(os.getpid(), getattr(signal, request.ends))
    if request.registers:
        _register_version(request)
    if request.fails:
        raise ByoaiError(request.fails)
    watch.tell(Finished("done", f"counted to {request.counts}"))
    return {"counted": request.counts, "from": done_before}


def _register_version(request: SmallRequest) -> None:
    registry = Registry()
    version = registry.add(request.registers, registry.next_number(request.registers), notes=request.run)
    request.engine().create(version.tag, ModelSpec(DEFAULT_TAG))


def _start_children(request: SmallRequest) -> None:
    for _ in range(request.children):
        # A child that ignores SIGTERM and starts one of its own.
        code = (
            "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)']); time.sleep(1000)"
        )
        subprocess.Popen([sys.executable, "-c", code], start_new_session=request.leaves_group)


def register() -> None:
    processes.WORKER = PROGRAM
    kinds.KINDS["small"] = Kind(SmallRequest, small)
    kinds.KINDS["light"] = Kind(SmallRequest, small, heavy=False)


if __name__ == "__main__":
    register()
    sys.exit(worker.main(sys.argv[1]))
