"""Define the files in a run folder, data/runs/<id>/, and the lock that lets only one retrain run at a time.

config.yaml      the whole configuration: file, profile and overrides  } written first
inputs.json      the dataset, the turns that were read, and the base   }
forecast.json    the forecast duration; removed if the run is resumed
base/            temporary files of loading the base
checkpoints/     the checkpoints from which the training can resume
progress.jsonl   one line per training step
adapter/         the trained parameters, in PEFT format
adapter.gguf     the adapter for the engine; or model.gguf, the merged model
evaluation.json, report.html   the comparison with the base and the live version
version.json     the number reserved for the new version
Modelfile        the definition of the version's tag
manifest.json    written last: a run without it is unfinished, and can be resumed
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock
import psutil

from fine_tuning import paths
from fine_tuning.errors import Busy, ByoaiError
from fine_tuning.json_values import parse_json


@dataclass(frozen=True)
class Run:
    """The folder of a run, and the paths of the files in it."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def inputs(self) -> Path:
        return self.folder / "inputs.json"

    @property
    def forecast(self) -> Path:
        return self.folder / "forecast.json"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def finished(self) -> bool:
        return self.manifest.exists()

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def adapter_gguf(self) -> Path:
        return self.folder / "adapter.gguf"

    @property
    def model_gguf(self) -> Path:
        return self.folder / "model.gguf"

    @property
    def modelfile(self) -> Path:
        return self.folder / "Modelfile"

    @property
    def version(self) -> Path:
        return self.folder / "version.json"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation.json"

    def serving(self) -> tuple[Path, ...]:
        """Return the files needed to serve the run's version or create it again; none contains texts of chats."""
        return self.modelfile, self.adapter_gguf, self.model_gguf, self.manifest, self.config, self.inputs, self.version


def all_runs(folder: Path) -> list[Run]:
    """Return the runs in `folder`, newest first.

    A subfolder is a run if it contains a file of a run, or is empty, because the run was killed
    right after its start.
    """
    return [Run(each) for each in sorted(folder.glob("*"), reverse=True) if _is_run(each)]


def _is_run(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    run = Run(folder)
    return any(file.exists() for file in (run.config, run.inputs, run.manifest)) or not any(folder.iterdir())


# One at a time

_SAME = 1.5  # seconds by which two readings of a process's start time may differ, since the boot time is rounded


@dataclass(frozen=True)
class Holder:
    """The process that holds the lock of `only_one`."""

    pid: int
    started: float  # see `started`; a later process with the same id has another
    command: str  # for the user
    since: str  # local time at which it took the lock

    def __str__(self) -> str:
        return f"`{self.command}`, process {self.pid}, since {self.since}"


@contextmanager
def only_one(command: str = "") -> Iterator[None]:
    """Hold the lock of retrains within the `with` block.

    It excludes other retrains, and operations that must not run during a retrain. `command`
    describes this process to other users of the lock; "" means its command line. Raises Busy, which
    names the process that holds the lock.
    """
    lock = filelock.FileLock(paths.home() / "retrain.lock")
    try:
        paths.home().mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        found = holder()
        raise Busy(
            f"another training is running ({found or lock.lock_file}): wait for it, or end it; it can be resumed"
        ) from None
    except OSError as error:
        raise ByoaiError(
            f"cannot write to {paths.home()}: {error.strerror or error}. Is the disk full, or the folder read-only?"
        ) from error
    try:
        process = psutil.Process()
        since = f"{datetime.now(UTC).astimezone():%Y-%m-%d %H:%M:%S}"
        paths.write_json(_holder_file(), asdict(Holder(process.pid, started(process), command or called(), since)))
        yield
    finally:
        _holder_file().unlink(missing_ok=True)
        lock.release()


def holder() -> Holder | None:
    """Return the process that holds the lock of `only_one`; None if no living process does."""
    try:
        found = Holder(**parse_json(_holder_file().read_text(encoding="utf-8")))
        alive = began_at(psutil.Process(found.pid), found.started)
    except (OSError, ValueError, TypeError, psutil.Error):
        return None
    return found if alive else None


def started(process: psutil.Process) -> float:
    """Return a process's start time in seconds since the machine was booted.

    Unlike the time of day, it does not change when the clock is set.
    """
    return process.create_time() - psutil.boot_time()


def began_at(process: psutil.Process, time: float) -> bool:
    """Return whether `time` is the process's start time (see `started`), apart from rounding."""
    return abs(started(process) - time) < _SAME


def called() -> str:
    """Return the command line of this process, with "…" in place of values, for the user.

    Values are left out since they may be private texts (`forget --matching …`).
    """
    program = Path(sys.argv[0])
    name = {"__main__.py": "byoai", "worker.py": "byoai job"}.get(program.name, program.name)
    told = [_told(word) for word in sys.argv[1:]]
    if told and name in ("byoai", "byoai job"):
        told[0] = sys.argv[1]  # the command, or the job
    several = [word for word, before in zip(told, ["", *told], strict=False) if (word, before) != ("…", "…")]
    return " ".join([name or "python", *several])[:200]


def _told(word: str) -> str:
    """Return a word of a command line without private texts: the name of an option, "…" for any other word."""
    option = re.match(r"--?[a-z][a-z-]*(?=$|=)", word)
    return "…" if option is None else option[0] + "=…" * (option[0] != word)


def _holder_file() -> Path:
    return paths.home() / "retrain.holder.json"
