"""Describe a training as data (TrainingJob), and run it in this process or in a child process.

A child process frees all its memory when it ends. A runner is a function that runs a TrainingJob,
reports to a Watch, and returns the result; all runners produce the same adapter.
"""

import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tuning import errors, paths
from fine_tuning.config.training import BaseWeights, Training
from fine_tuning.engines.agreement import Reference, Trained
from fine_tuning.errors import ByoaiError, Cancelled, TrainingError
from fine_tuning.events import Step, Watch
from fine_tuning.state import is_full
from fine_tuning.training.children import context
from fine_tuning.training.lora_trainer import TrainingResult
from fine_tuning.training.qlora_trainer import trainer_for
from fine_tuning.training.trainer_utils import TrainingRows
from fine_tuning.units import signal_name

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

_POLL = 0.1  # seconds between checks of a child's progress
_GRACE = 4.0  # seconds in which a child that was asked to stop must end its step and write a checkpoint
_ORPHANED = 3.0  # the same for a child whose parent process died
_DISK_FULL = 28  # exit code of a child that found the disk full (the number of ENOSPC on Linux)


@dataclass(frozen=True)
class TrainingJob:
    """One training: its base, rows, settings and folder."""

    base: Path  # a GGUF, or a folder in Hugging Face format
    rows: TrainingRows
    run: Path  # the run's folder
    settings: Training
    weights: BaseWeights = "dequantised"  # the format in which the base is held
    served: Path | None = None  # llama.cpp's logits of the base (Reference.save), to check the network before training

    def save(self) -> Path:
        """Write the job to the run's folder as JSON, so that another process can load it; return the file's path."""
        rows = {name: str(path) if path else None for name, path in asdict(self.rows).items()}
        facts = {
            "base": str(self.base),
            "rows": rows,
            "weights": self.weights,
            "served": str(self.served) if self.served else None,
        }
        paths.write_json(self.run / "job.json", {**facts, "settings": self.settings.model_dump(mode="json")})
        return self.run / "job.json"

    @classmethod
    def load(cls, file: Path) -> "TrainingJob":
        facts = paths.read_json(file)
        folder, replay, preferences = (Path(path) if path else None for path in (facts["rows"][key] for key in _ROWS))
        rows = TrainingRows(folder or Path(), replay, preferences)
        served = Path(facts["served"]) if facts["served"] else None
        return cls(
            Path(facts["base"]), rows, file.parent, Training.model_validate(facts["settings"]), facts["weights"], served
        )


_ROWS = ("folder", "replay", "preferences")

Runner = Callable[[TrainingJob, Watch], TrainingResult]


def run_here(job: TrainingJob, watch: Watch) -> TrainingResult:
    """Train in this process. Raises what `LoRATrainer.train` raises."""
    served = Reference.load(job.served) if job.served else None
    return trainer_for(job.base, job.settings, served, job.weights).train(job.rows, job.run, watch)


def run_in_child(job: TrainingJob, watch: Watch) -> TrainingResult:
    """Train in a child process. Raises what `LoRATrainer.train` raises, and TrainingError if the child dies."""
    with TrainingProcess(job) as child:
        for step in child.steps():
            if step is not None:
                watch.tell(step)
            if watch.stopping():
                child.stop()
        return child.result()


class TrainingProcess:
    """A training in a child process; leaving the `with` block ends it."""

    def __init__(self, job: TrainingJob) -> None:
        self.job, self.log = job, job.run / "log.txt"
        self._progress = job.run / "progress.jsonl"
        self._asked = 0.0  # time at which the child was asked to stop; 0: not yet
        self._told = time.monotonic()  # time at which the last step was reported
        self._pace = 0.0  # seconds of the longest wait for a step, including a validation before it

    def __enter__(self) -> "TrainingProcess":
        for file in (_result_file(self.job.run), _failure_file(self.job.run)):
            file.unlink(missing_ok=True)
        self._read = self._progress.stat().st_size if self._progress.exists() else 0  # skips an earlier process's steps
        self._child: BaseProcess = context().Process(target=_train, args=(self.job.save(),), daemon=True)
        self._child.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._child.kill()
        self._child.join()

    def steps(self) -> Iterator[Step | None]:
        """Yield each step as the child reports it, and None at every poll, until the process ends.

        Kill the process if it was asked to stop and takes too long.
        """
        while True:
            ended = not self._child.is_alive()
            yield from self._news()
            if ended:
                return
            yield None
            if self._asked and time.monotonic() - self._asked > max(_GRACE, 1.5 * self._pace):
                self._child.kill()
            wait([self._child.sentinel], timeout=_POLL)

    def _news(self) -> Iterator[Step]:
        lines = b""
        if self._progress.exists():
            with self._progress.open("rb") as file:
                file.seek(self._read)
                lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        self._read += len(lines)
        for line in lines.splitlines():
            now = time.monotonic()
            self._pace, self._told = max(self._pace, now - self._told), now
            yield Step(**json.loads(line))

    def stop(self) -> None:
        """Ask the child to end its step, write a checkpoint, and exit; return without waiting for it."""
        if not self._asked and self._child.is_alive():
            self._asked = time.monotonic()
            self._child.terminate()

    def result(self) -> TrainingResult:
        """Wait for the child to end, and return its result.

        Raises the error that the child raised; Cancelled if it was asked to stop; TrainingError if
        it died.
        """
        self._child.join()
        if _result_file(self.job.run).exists():
            return _read_result(self.job)
        if self._asked:
            raise Cancelled("training stopped; the next training goes on from its last checkpoint")
        if _failure_file(self.job.run).exists():
            failure = paths.read_json(_failure_file(self.job.run))
            raise getattr(errors, failure["error"])(failure["text"])
        raise TrainingError(self._why())

    def _why(self) -> str:
        code = self._child.exitcode or 0
        if code == _DISK_FULL:
            return (
                f"the disk is full ({self.job.run}): make room, and the next training goes on from the last checkpoint"
            )
        if code == -signal.SIGKILL:
            return (
                "the training's process was killed: most likely the memory ran out. Retrain with --auto, "
                "or lower training.batch_tokens"
            )
        if code < 0:
            return f"the training's process crashed ({signal_name(-code)}): its last output is in {self.log}"
        said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if self.log.exists() else []
        return f"the training failed: {said[-1] if said else 'it printed nothing'}. The whole output is in {self.log}"


def _result_file(run: Path) -> Path:
    return run / "result.json"


def _failure_file(run: Path) -> Path:
    return run / "failure.json"


def _read_result(job: TrainingJob) -> TrainingResult:
    facts = paths.read_json(_result_file(job.run))
    found = TrainingResult(**{**facts, "adapter": Path(facts["adapter"]), "passed_over": tuple(facts["passed_over"])})
    if not job.served:
        return found
    return replace(found, network=Trained.load(job.run / "network.npz", Reference.load(job.served)))


# In the child


@dataclass
class _Asked:
    """Whether this child process was asked to stop. `ask` is also the handler of SIGTERM."""

    stop: bool = False

    def ask(self, *_: object) -> None:
        self.stop = True


def _train(file: Path) -> None:
    """Run the job that `TrainingJob.save` wrote to `file`; write its result or its error to the run's folder.

    This is the main function of the child process. Its output goes to log.txt in the run's folder.
    """
    asked = _Asked()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent handles it
    signal.signal(signal.SIGTERM, asked.ask)
    with (file.parent / "log.txt").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    threading.Thread(target=_end_with_parent, args=(asked,), daemon=True).start()
    job = TrainingJob.load(file)
    with _full_disk_told():
        try:
            result = run_here(job, Watch(stopping=lambda: asked.stop))
        except ByoaiError as error:
            traceback.print_exc()
            paths.write_json(_failure_file(job.run), {"error": type(error).__name__, "text": str(error)})
            raise SystemExit(1) from error
        if result.network:
            result.network.save(job.run / "network.npz")
        facts = {**vars(result), "adapter": str(result.adapter), "network": None}
        paths.write_json(_result_file(job.run), facts)


@contextmanager
def _full_disk_told() -> Iterator[None]:
    """Exit with `_DISK_FULL` when the disk is full, since no file can be written to report it."""
    try:
        yield
    except Exception as error:
        if is_full(error):
            raise SystemExit(_DISK_FULL) from error
        raise


def _end_with_parent(asked: _Asked) -> None:
    """Wait until the parent process ends; then ask the training to stop, and exit a few seconds later."""
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        asked.ask()
        time.sleep(_ORPHANED)
        os._exit(1)
