"""Search for better training settings by running short real trainings.

The search is an Optuna study (arXiv 1907.10902); each trial is scored by its validation loss.

data/sweeps/<name>/journal.log       the study (Optuna's JournalStorage); every process that shares the folder can run trials
                   trials/<number>/  log and progress of each trial's training, which runs in a
                                     child process so that its memory is freed
                   best.yaml         the whole configuration with the best settings: byoai retrain --config .../best.yaml
                   trials.png        a plot of the trials

The study uses JournalStorage rather than SQLite because the folder may be on a network drive: SQLite's locks are broken
on many NFS servers (https://sqlite.org/faq.html#q5), while the journal is only appended to, under a lock that is a
symbolic link. A trial whose process died is marked as failed, and its settings are queued again.
"""  # noqa: E501

import itertools
import math
import os
import random
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import filelock
import psutil

from fine_tuning import events, paths
from fine_tuning.config.training import BaseWeights, Sweep, Training
from fine_tuning.errors import ByoaiError, Cancelled, ConfigError, TrainingError
from fine_tuning.events import Watch
from fine_tuning.runs import began_at, started
from fine_tuning.training.runner import TrainingJob, TrainingProcess
from fine_tuning.training.trainer_utils import TrainingRows

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, TrialState


Settings: TypeAlias = dict[str, float | int]
"""Settings of a trial, by name in `training:`."""

SWEPT: tuple[str, ...] = ("learning_rate", "lora_r", "lora_alpha", "lora_dropout", "num_epochs", "batch_size")
_GRID_RATES = 3  # learning rates of a grid, evenly spaced in their logarithms
_STARTUP_TRIALS = 4  # trials with random settings, before TPE and the pruner have enough results
_SILENCE = 120  # seconds without a heartbeat after which a process on another machine counts as dead


@dataclass(frozen=True)
class Prepared:
    """The base and the rows that every trial trains on.

    `identity` identifies this data by its content, since paths differ between machines.
    """

    base: Path
    rows: Path
    replay: Path | None
    identity: str
    weights: BaseWeights = "dequantised"  # the format in which the base is held


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep. `settings`: the best trial's settings, by name in `training:`."""

    folder: Path
    settings: Settings
    loss: float  # the best trial's validation loss (nats)
    finished: int
    pruned: int
    failed: int


def search(prepared: Prepared, training: Training, sweep: Sweep, name: str, watch: Watch | None = None) -> SweepResult:
    """Run trials until the study has `sweep.trials` trials or `sweep.minutes` have passed.

    An existing study `name` is continued. Raises ConfigError if there are no validation rows, or the
    study has other data or ranges; TrainingError if no trial finished; Cancelled after
    `watch.stopping()` returned True (the running trial is then queued again).
    """
    validation = prepared.rows / "validation.jsonl"
    if not validation.exists() or not validation.stat().st_size:
        raise ConfigError(
            f"{validation} contains no validation data: chat more, or raise data_preparation.validation_ratio"
        )
    watch, folder = watch or Watch(), paths.sweeps_dir() / paths.safe_name(name)
    watch.tell(events.RunOpened(str(folder), resumed=folder.exists()))
    worker = _Worker(prepared, training, sweep, folder, watch)
    worker.work()
    return worker.found()


def space(sweep: Sweep) -> dict[str, "BaseDistribution"]:
    """Return the swept settings as Optuna's distributions, by name; settings with a single value are left out."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    low, high = sweep.learning_rate
    found: dict[str, BaseDistribution] = (
        {} if low == high else {"learning_rate": FloatDistribution(low, high, log=True)}
    )
    choices = {key: getattr(sweep, key) for key in SWEPT[1:]}
    return found | {key: CategoricalDistribution(values) for key, values in choices.items() if len(values) > 1}


def fixed(sweep: Sweep) -> Settings:
    """Return the settings that have a single value in `sweep`, and are therefore not swept."""
    return {key: getattr(sweep, key)[0] for key in SWEPT if len(set(getattr(sweep, key))) == 1}


def grid(sweep: Sweep) -> list[Settings]:
    """Return every combination of the swept values, shuffled with the sweep's seed.

    The range of learning rates is represented by three of them. The order is shuffled so that a
    sweep that ends early has still tried values from the whole range.
    """
    low, high = sweep.learning_rate
    steps = (index / (_GRID_RATES - 1) for index in range(_GRID_RATES))
    rates = [low] if low == high else [float(f"{low * (high / low) ** step:.3g}") for step in steps]
    values = {"learning_rate": rates} | {key: list(getattr(sweep, key)) for key in SWEPT[1:]}
    points = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    random.Random(sweep.seed).shuffle(points)
    swept = space(sweep)
    return [{key: value for key, value in point.items() if key in swept} for point in points]


class _Worker:
    """Takes trials of a study, one after the other, and runs each one's training in a child process."""

    def __init__(
        self,
        prepared: Prepared,
        training: Training,
        sweep: Sweep,
        folder: Path,
        watch: Watch,
    ) -> None:
        self.prepared, self.training, self.sweep, self.folder = prepared, training, sweep, folder
        self.watch, self._shown = watch, 0.0  # `_shown`: time of this process's last heartbeat
        self.deadline = time.monotonic() + 60 * sweep.minutes
        self.space = space(sweep)
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = filelock.FileLock(folder / "ask.lock")  # held for milliseconds, to take the next trial
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
            raise ConfigError(
                f"the sweep {self.folder.name} was started with different values of {other}: give this sweep another "
                "name with --name"
            )
        study.set_user_attr("about", about)
        for point in grid(self.sweep)[: self.sweep.trials] if self.sweep.sampler == "grid" else self._configured():
            study.enqueue_trial(point, skip_if_exists=True)
        return study

    def _configured(self) -> list[Settings]:
        """Return a list with the configured settings, to be the first trial; [] if they are outside the ranges.

        With this trial, the sweep's best result is no worse than the configured settings.
        """
        point = {key: getattr(self.training, key) for key in self.space}
        return [point] if all(_holds(kind, point[key]) for key, kind in self.space.items()) else []

    def work(self) -> None:
        """Run trials until the study has all its trials or the time is over; then plot them."""
        while (trial := self._ask()) is not None:
            try:
                self._do(trial)
            except _OutOfTime:
                _queue_again(self.study, trial.number, trial.params)
                self.watch.note(f"the time is over: trial {trial.number} is repeated when the sweep is continued")
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
                    self.watch.note(f"trial {running.number} was interrupted: its settings are tried again")
                    _queue_again(self.study, running.number, running.params)
            trials = [trial for trial in self.study.get_trials(deepcopy=False) if not _interrupted(trial)]
            waiting = any(trial.state == TrialState.WAITING for trial in trials)
            if not waiting and (len(trials) >= self.sweep.trials or self.sweep.sampler == "grid"):
                return None
            # Each trial gets its own seed, or processes that share a study would draw the same settings.
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
            self._tell(trial, twin.value, "")
            return
        shown = ", ".join(f"{key} {value:.3g}" for key, value in trial.params.items())
        self.watch.note(f"trial {trial.number}: {shown}")
        run = self._folder(trial.number)
        loss, state, why = self._train(trial, run)
        if state == TrialState.COMPLETE:
            self.study.tell(trial, loss)
        else:
            trial.set_user_attr("why", why)
            self.study.tell(trial, state=state)
        self._tell(trial, loss if state == TrialState.COMPLETE else None, why)
        self.watch.note(
            f"trial {trial.number}: " + (f"validation loss {loss:.4f}" if state == TrialState.COMPLETE else why)
        )
        for weights in ("adapter", "checkpoints", "base"):
            shutil.rmtree(run / weights, ignore_errors=True)
        self._write()

    def _tell(self, trial: "Trial", loss: float | None, why: str) -> None:
        self.watch.tell(events.Trial(trial.number, dict(trial.params), loss, why))

    def _twin(self, trial: "Trial") -> "FrozenTrial | None":
        """Return a finished trial with the same settings; None if there is none.

        All trials train with the same seed, so the result of `trial` would be the same.
        """
        from optuna.trial import TrialState

        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return next((other for other in done if other.params == trial.params), None)

    def _train(self, trial: "Trial", run: Path) -> "_End":
        """Run a trial's training in a child process, in the folder `run`; return how it ended."""
        from optuna.trial import TrialState

        settings = self.training.model_copy(
            update={**fixed(self.sweep), **trial.params, "save_steps": 1_000_000, "folds": 0}
        )
        rows = TrainingRows(self.prepared.rows, self.prepared.replay)
        job = TrainingJob(self.prepared.base, rows, run, settings, self.prepared.weights)
        loss = math.nan
        with TrainingProcess(job) as child:
            for step in child.steps():
                self._look_up(trial.number)
                if step is None:
                    continue
                self.watch.tell(step)
                if step.validation_loss is not None:
                    # With an early stop the best weights are kept, not the last.
                    loss = min(step.validation_loss, math.inf if math.isnan(loss) or not settings.early_stop else loss)
                    trial.report(loss, round(step.epoch))
                    if trial.should_prune() and step.step < step.steps:
                        return _End(
                            loss, TrialState.PRUNED, f"pruned after epoch {step.epoch:.0f}, validation loss {loss:.4f}"
                        )
            try:
                child.result()
            except ByoaiError as error:
                return _End(loss, TrialState.FAIL, f"failed: {error}")
        if math.isnan(loss):
            return _End(loss, TrialState.FAIL, "failed: it reported no validation loss")
        return _End(loss, TrialState.COMPLETE, "")

    def _look_up(self, number: int) -> None:
        """Raise Cancelled or _OutOfTime if the sweep must end during the trial `number`.

        Otherwise touch the trial's heartbeat file, from time to time.
        """
        if self.watch.stopping():
            raise Cancelled("the sweep was stopped; the next one continues it")
        if time.monotonic() > self.deadline:
            raise _OutOfTime
        if time.monotonic() - self._shown > _SILENCE / 12:  # the folder may be on a network
            self._alive(number)

    # Heartbeats

    def _folder(self, number: int) -> Path:
        folder = self.folder / "trials" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _alive(self, number: int) -> None:
        """Touch the trial's heartbeat file, which shows other processes that this one still runs it."""
        (self._folder(number) / "alive").touch()
        self._shown = time.monotonic()

    def _dead(self, trial: "FrozenTrial") -> bool:
        """Return whether the process that runs the trial has died, or shows no sign of life from another machine."""
        worker = trial.user_attrs.get("worker")
        if worker is None:  # it died while taking the trial, before it could record itself
            return True
        if worker["host"] == socket.gethostname():
            with suppress(psutil.NoSuchProcess):
                return not began_at(psutil.Process(worker["pid"]), worker["started"])
            return True
        # Compare times of the file server only, since its clock may differ from this machine's.
        own = self.folder / f"clock-{os.getpid()}"
        own.touch()
        now = own.stat().st_mtime
        own.unlink()
        sign = self._folder(trial.number) / "alive"
        return not sign.exists() or now - sign.stat().st_mtime > _SILENCE

    # Results

    def found(self) -> SweepResult:
        """Return the best finished trial's settings and loss, and how many trials finished, were pruned and failed.

        Raises TrainingError if no trial finished.
        """
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if not done:
            why = next(
                (trial.user_attrs["why"] for trial in trials if "why" in trial.user_attrs), "the time was too short"
            )
            raise TrainingError(
                f"no trial of {self.folder} was finished: {why}. Raise sweep.minutes, or lower training.num_epochs"
            )
        best = min(done, key=lambda trial: trial.value or math.inf)
        pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
        failed = sum(trial.state == TrialState.FAIL and not _interrupted(trial) for trial in trials)
        return SweepResult(
            self.folder, {**fixed(self.sweep), **best.params}, best.value or math.nan, len(done), pruned, failed
        )

    def _write(self) -> None:
        with self.lock:
            plot(self.study, self.folder / "trials.png")


class _OutOfTime(Exception):
    """Raised when the time limit is reached while a trial runs."""


class _End(NamedTuple):
    """The outcome of a trial."""

    loss: float  # validation loss of the final weights
    state: "TrialState"
    why: str  # the reason why the trial did not finish; "" if it did


def _holds(kind: "BaseDistribution", value: float | int) -> bool:
    """Return whether the distribution contains the value."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(kind, CategoricalDistribution):
        return value in kind.choices
    return isinstance(kind, FloatDistribution) and kind.low <= value <= kind.high


def _interrupted(trial: "FrozenTrial") -> bool:
    """Return whether the trial was interrupted rather than failed; its settings were then queued again."""
    from optuna.trial import TrialState

    return trial.state == TrialState.FAIL and "why" not in trial.user_attrs


def _this_process() -> dict[str, str | int | float]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started(psutil.Process())}


def _queue_again(study: "Study", number: int, params: Settings) -> None:
    """Mark an interrupted trial as failed, and queue its settings `params` before all new ones.

    If another process has already done this, do nothing.
    """
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    with suppress(UpdateFinishedTrialError, ValueError):  # ValueError: another process marked it already
        study.tell(number, state=TrialState.FAIL)
        if params:
            study.enqueue_trial(params, user_attrs={"again": number})


def plot(study: "Study", file: Path) -> None:
    """Write a PNG that plots loss by trial, with the best so far, and loss by learning rate.

    Write nothing if no trial has finished.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    pruned = [
        trial for trial in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)) if trial.intermediate_values
    ]
    if not done:
        return
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    best = list(itertools.accumulate((trial.value or math.inf for trial in done), min))
    left.step([trial.number for trial in done], best, where="post", color="tab:green", label="best so far")
    for trials, marker, label in ((done, "o", "finished"), (pruned, "x", "pruned")):
        losses = [
            trial.intermediate_values[max(trial.intermediate_values)] if trial in pruned else trial.value
            for trial in trials
        ]
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
