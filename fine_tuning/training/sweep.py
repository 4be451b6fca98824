"""A search for better training settings: an Optuna study of short real trainings (arXiv 1907.10902), judged by their validation loss.

data/sweeps/<name>/journal.log       the study: Optuna's JournalStorage, of which every process that shares the folder can do trials
                   trials/<number>/  log and progress of each training, which is a process of its own, so that its memory is given back
                   best.yaml         the whole configuration with the best settings: byoai retrain --config .../best.yaml
                   trials.png        how the trials went

JournalStorage, and not SQLite, because the folder may lie on a network: SQLite's locks are broken on many NFS servers
(https://sqlite.org/faq.html#q5), while the journal is only ever appended to, under a lock that is a symbolic link.
A trial whose process died is failed, and its settings are queued again for whoever comes next.
"""

import itertools
import json
import math
import multiprocessing
import os
import random
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import filelock
import psutil

from fine_tuning import paths
from fine_tuning.config import BaseWeights, Sweep, Training
from fine_tuning.errors import Cancelled, ConfigError, TrainingError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from fine_tuning.training.trainer import Progress

SWEPT: tuple[str, ...] = ("learning_rate", "lora_r", "lora_alpha", "lora_dropout", "num_epochs", "batch_size")
_GRID_RATES = 3  # learning rates of a grid, evenly spaced in their logarithms
_STARTUP_TRIALS = 4  # drawn at random before TPE (and the pruner) have something to go by
_SILENCE = 120  # seconds without a sign of life after which a process on another machine counts as dead
_POLL = 0.2  # seconds between looks at a training's progress


@dataclass(frozen=True)
class Prepared:
    """What every trial trains on. Paths of one machine are no part of a study: `identity` says whether two studies are the same."""

    base: Path
    rows: Path
    replay: Path | None
    identity: str
    weights: BaseWeights = "dequantised"  # how the base is held


@dataclass(frozen=True)
class Found:
    """How a sweep ended. `settings` are the best ones, by name in `training:`."""

    folder: Path
    settings: dict[str, Any]
    loss: float  # validation loss (nats) at the end of that training
    finished: int
    pruned: int
    failed: int


def search(
    prepared: Prepared,
    training: Training,
    sweep: Sweep,
    name: str,
    note: Callable[[str], None] = lambda text: None,
    report: Callable[["Progress"], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Found:
    """Do trials until the study has `sweep.trials` of them or `sweep.minutes` are over. Goes on with the study `name` where there is one.

    Raises ConfigError without validation rows, or when the study is about other data or ranges; TrainingError when no trial was finished;
    Cancelled after `cancelled()` turned true (the running trial is queued again).
    """
    validation = prepared.rows / "validation.jsonl"
    if not validation.exists() or not validation.stat().st_size:
        raise ConfigError(f"{validation} holds no row to judge by: chat more, or raise data_preparation.validation_ratio")
    worker = _Worker(prepared, training, sweep, paths.home() / "sweeps" / paths.safe_name(name), note, report, cancelled)
    worker.work()
    return worker.found()


def space(sweep: Sweep) -> dict[str, "BaseDistribution"]:
    """The ranges as Optuna's distributions; what has only one value is not swept."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    low, high = sweep.learning_rate
    found: dict[str, BaseDistribution] = {} if low == high else {"learning_rate": FloatDistribution(low, high, log=True)}
    choices = {key: getattr(sweep, key) for key in SWEPT[1:]}
    return found | {key: CategoricalDistribution(values) for key, values in choices.items() if len(values) > 1}


def fixed(sweep: Sweep) -> dict[str, Any]:
    """What has only one value."""
    return {key: getattr(sweep, key)[0] for key in SWEPT if len(set(getattr(sweep, key))) == 1}


def grid(sweep: Sweep) -> list[dict[str, Any]]:
    """Every combination, shuffled with the sweep's seed: a budget that ends early has still looked everywhere."""
    low, high = sweep.learning_rate
    steps = (index / (_GRID_RATES - 1) for index in range(_GRID_RATES))
    rates = [low] if low == high else [float(f"{low * (high / low) ** step:.3g}") for step in steps]
    values = {"learning_rate": rates} | {key: list(getattr(sweep, key)) for key in SWEPT[1:]}
    points = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    random.Random(sweep.seed).shuffle(points)
    swept = space(sweep)
    return [{key: value for key, value in point.items() if key in swept} for point in points]


class _Worker:
    """One process's share of a study."""

    def __init__(
        self,
        prepared: Prepared,
        training: Training,
        sweep: Sweep,
        folder: Path,
        note: Callable[[str], None],
        report: Callable[["Progress"], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self.prepared, self.training, self.sweep, self.folder = prepared, training, sweep, folder
        self.note, self.report, self.cancelled = note, report, cancelled
        self.deadline = time.monotonic() + 60 * sweep.minutes
        self.space = space(sweep)
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = filelock.FileLock(folder / "ask.lock")  # who asks, counts first: held for milliseconds
        with self.lock:
            self.study = self._open()

    def _open(self) -> "Study":
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # byoai shows its own
        storage = JournalStorage(JournalFileBackend(str(self.folder / "journal.log")))
        pruner = optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS)
        study = optuna.create_study(storage=storage, study_name=self.folder.name, load_if_exists=True, pruner=pruner)
        ranges = {key: list(getattr(self.sweep, key)) for key in SWEPT}
        about = {"identity": self.prepared.identity, "sampler": self.sweep.sampler, "ranges": ranges}
        before = study.user_attrs.get("about", about)
        if before != about:
            other = ", ".join(key for key in about if about[key] != before[key])
            raise ConfigError(f"the sweep {self.folder.name} is about other {other}: give this one a --name of its own")
        study.set_user_attr("about", about)
        for point in grid(self.sweep)[: self.sweep.trials] if self.sweep.sampler == "grid" else self._configured():
            study.enqueue_trial(point, skip_if_exists=True)
        return study

    def _configured(self) -> list[dict[str, Any]]:
        """The settings as they are, if the ranges hold them: so the best is no worse than these."""
        point = {key: getattr(self.training, key) for key in self.space}
        return [point] if all(_holds(kind, point[key]) for key, kind in self.space.items()) else []

    def work(self) -> None:
        while (trial := self._ask()) is not None:
            try:
                self._do(trial)
            except _OutOfTime:
                _queue_again(self.study, trial.number, trial.params)
                self.note(f"the time is over: trial {trial.number} is done when the sweep goes on")
                break
            except BaseException:
                _queue_again(self.study, trial.number, trial.params)
                raise
        self._write()

    def _ask(self) -> "Trial | None":
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        if time.monotonic() > self.deadline:
            return None
        with self.lock:
            for running in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if self._dead(running):
                    self.note(f"trial {running.number} was interrupted: its settings are tried again")
                    _queue_again(self.study, running.number, running.params)
            trials = [trial for trial in self.study.get_trials(deepcopy=False) if not _interrupted(trial)]
            waiting = any(trial.state == TrialState.WAITING for trial in trials)
            if not waiting and (len(trials) >= self.sweep.trials or self.sweep.sampler == "grid"):
                return None
            # A seed of its own for each trial: processes that share a study would draw the same otherwise.
            self.study.sampler = TPESampler(seed=self.sweep.seed + len(trials), n_startup_trials=_STARTUP_TRIALS)
            trial = self.study.ask(self.space)
            trial.set_user_attr("worker", _this_process())
            self._alive(trial.number)
            return trial

    def _do(self, trial: "Trial") -> None:
        from optuna.trial import TrialState

        if (twin := self._twin(trial)) is not None:
            trial.set_user_attr("same_as", twin.number)
            self.study.tell(trial, twin.value)
            return
        shown = ", ".join(f"{key} {value:.3g}" for key, value in trial.params.items())
        self.note(f"trial {trial.number}: {shown}")
        run = self._folder(trial.number)
        loss, state, why = self._train(trial, run)
        if state == TrialState.COMPLETE:
            self.study.tell(trial, loss)
        else:
            trial.set_user_attr("why", why)
            self.study.tell(trial, state=state)
        self.note(f"trial {trial.number}: " + (f"validation loss {loss:.4f}" if state == TrialState.COMPLETE else why))
        for weights in ("adapter", "checkpoints", "base"):
            shutil.rmtree(run / weights, ignore_errors=True)
        self._write()

    def _twin(self, trial: "Trial") -> "FrozenTrial | None":
        """A finished trial of the same settings: with the same seed it would end the same."""
        from optuna.trial import TrialState

        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return next((other for other in done if other.params == trial.params), None)

    def _train(self, trial: "Trial", run: Path) -> tuple[float, Any, str]:
        """Validation loss of the weights that are kept, the trial's state, and why it was not finished."""
        from optuna.trial import TrialState

        settings = self.training.model_copy(update={**fixed(self.sweep), **trial.params, "save_steps": 1_000_000, "folds": 0})
        places = {"base": self.prepared.base, "rows": self.prepared.rows, "run": run, "replay": self.prepared.replay}
        job = {"weights": self.prepared.weights, "settings": settings.model_dump(mode="json")}
        paths.write_json(run / "job.json", job | {key: str(place) if place else None for key, place in places.items()})
        loss = math.nan
        child = _training_process(run / "job.json")
        child.start()
        try:
            for progress in self._follow(child, run / "progress.jsonl", trial.number):
                self.report(progress)
                if progress.validation_loss is not None:
                    # With an early stop the best weights are kept, not the last.
                    loss = min(progress.validation_loss, math.inf if math.isnan(loss) or not settings.early_stop else loss)
                    trial.report(loss, round(progress.epoch))
                    if trial.should_prune() and progress.step < progress.steps:
                        return loss, TrialState.PRUNED, f"pruned after epoch {progress.epoch:.0f}, validation loss {loss:.4f}"
        finally:
            child.kill()
            child.join()
        if child.exitcode or math.isnan(loss):
            said = (run / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return loss, TrialState.FAIL, f"failed: {said[-1] if said else 'it was killed (out of memory?)'}"
        return loss, TrialState.COMPLETE, ""

    def _follow(self, child: "BaseProcess", file: Path, number: int) -> Any:
        """Each line of a training's progress, as it is written, until the process ends."""
        read = 0
        while True:
            ended = not child.is_alive()
            lines = file.read_bytes()[read:] if file.exists() else b""
            lines = lines[: lines.rfind(b"\n") + 1]
            read += len(lines)
            for line in lines.splitlines():
                yield SimpleNamespace(**json.loads(line))
            if ended:
                return
            if self.cancelled():
                raise Cancelled("the sweep was stopped; the next one goes on with it")
            if time.monotonic() > self.deadline:
                raise _OutOfTime
            self._alive(number)
            time.sleep(_POLL)

    # Who is alive

    def _folder(self, number: int) -> Path:
        folder = self.folder / "trials" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _alive(self, number: int) -> None:
        (self._folder(number) / "alive").touch()

    def _dead(self, trial: "FrozenTrial") -> bool:
        worker = trial.user_attrs.get("worker")
        if worker is None:  # it asks under the lock, which is ours now
            return True
        if worker["host"] == socket.gethostname():
            with suppress(psutil.NoSuchProcess):
                return psutil.Process(worker["pid"]).create_time() != worker["started"]
            return True
        # Both times are the file server's, whose clock need not be ours.
        own = self.folder / f"clock-{os.getpid()}"
        own.touch()
        now = own.stat().st_mtime
        own.unlink()
        sign = self._folder(trial.number) / "alive"
        return not sign.exists() or now - sign.stat().st_mtime > _SILENCE

    # What was found

    def found(self) -> Found:
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if not done:
            why = next((trial.user_attrs["why"] for trial in trials if "why" in trial.user_attrs), "the time was too short")
            raise TrainingError(f"no trial of {self.folder} was finished: {why}. Raise sweep.minutes, or lower what the trials take")
        best = min(done, key=lambda trial: trial.value or math.inf)
        pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
        failed = sum(trial.state == TrialState.FAIL and not _interrupted(trial) for trial in trials)
        return Found(self.folder, {**fixed(self.sweep), **best.params}, best.value or math.nan, len(done), pruned, failed)

    def _write(self) -> None:
        with self.lock:
            plot(self.study, self.folder / "trials.png")


class _OutOfTime(Exception):
    """The budget is over while a trial runs."""


def _holds(kind: Any, value: Any) -> bool:
    return value in kind.choices if hasattr(kind, "choices") else kind.low <= value <= kind.high


def _interrupted(trial: "FrozenTrial") -> bool:
    """Failed for no reason of its own; its settings were queued again."""
    from optuna.trial import TrialState

    return trial.state == TrialState.FAIL and "why" not in trial.user_attrs


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _queue_again(study: "Study", number: int, params: dict[str, Any]) -> None:
    """Fail an interrupted trial, and put its settings in front of all new ones. The first process to do so does it alone."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    with suppress(UpdateFinishedTrialError, ValueError):  # ValueError: told already
        study.tell(number, state=TrialState.FAIL)
        if params:
            study.enqueue_trial(params, user_attrs={"again": number})


def plot(study: "Study", file: Path) -> None:
    """Loss by trial with the best so far, and loss by learning rate, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    pruned = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)) if trial.intermediate_values]
    if not done:
        return
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    best = list(itertools.accumulate((trial.value or math.inf for trial in done), min))
    left.step([trial.number for trial in done], best, where="post", color="tab:green", label="best so far")
    for trials, marker, label in ((done, "o", "finished"), (pruned, "x", "pruned")):
        losses = [trial.intermediate_values[max(trial.intermediate_values)] if trial in pruned else trial.value for trial in trials]
        left.scatter([trial.number for trial in trials], losses, marker=marker, label=label)
        if all("learning_rate" in trial.params for trial in trials) and trials:
            right.scatter([trial.params["learning_rate"] for trial in trials], losses, marker=marker, label=label)
    left.set(xlabel="trial", ylabel="validation loss (nats)", title=f"{len(done)} finished, {len(pruned)} pruned")
    right.set(xlabel="learning rate", xscale="log", title="by learning rate")
    left.legend()
    FigureCanvasAgg(figure)
    part = file.with_suffix(".part.png")
    figure.savefig(part, dpi=120)
    part.replace(file)


def _training_process(job: Path) -> "BaseProcess":
    """A process of its own for one training: where the system can, a copy of one that has imported PyTorch and its like already."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn").Process(target=_train_one, args=(job,), daemon=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fine_tuning.training.trainer"])
    return context.Process(target=_train_one, args=(job,), daemon=True)


def _train_one(file: Path) -> None:
    """The training of one trial, in its own process; it ends when the process that wanted it is gone."""
    with (file.parent / "log.txt").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    from fine_tuning.training.trainer import train

    job = paths.read_json(file)
    base, rows, run = (Path(job[key]) for key in ("base", "rows", "run"))
    replay = Path(job["replay"]) if job["replay"] else None
    settings = Training.model_validate(job["settings"])
    wanted_by = multiprocessing.parent_process()
    train(base, rows, run, settings, replay, cancelled=lambda: not (wanted_by and wanted_by.is_alive()), weights=job["weights"])
