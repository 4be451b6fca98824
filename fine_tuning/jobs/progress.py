"""Compute a job's progress from its events, and convert jobs to dictionaries."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fine_tuning import paths
from fine_tuning.durations import EVALUATING, TRAINING
from fine_tuning.events import Count, Event, EventReader, Finished, Note, Planned, RunOpened, Stage, Step, Trial
from fine_tuning.jobs.store import Job

Phase = Literal["done", "now", "later"]

_FACTS = (
    "id",
    "kind",
    "state",
    "priority",
    "attempt",
    "detached",
    "origin",
    "created",
    "begun",
    "ended",
    "exit_code",
    "reason",
    "run",
)

# The share of a retrain that is done when a stage begins. A key is the beginning of the stage's title. For other
# jobs only the share within the current stage is known.
_BEGINS = {
    "Reading what was said": 0.0,
    "Preparing the dataset": 0.01,
    TRAINING: 0.03,
    "Exporting to GGUF": 0.7,
    "Checking that what was exported is what was trained": 0.72,
    EVALUATING: 0.75,
    "Registering": 0.97,
    "Checking that it is served as it was trained": 0.98,
    "Making": 0.99,
}

_KEPT = 16  # number of jobs whose progress is kept

# The phases of a retrain for people, each with the stage with which it begins.
_PHASES = {
    "Preparing": "Reading what was said",
    "Training": TRAINING,
    "Exporting": "Exporting to GGUF",
    "Comparing": EVALUATING,
    "Registering": "Registering",
}

_TELLING = 0.05  # share of an evaluation that must be done before its own pace is believed


@dataclass(frozen=True)
class Progress:
    """A summary of a job's events so far."""

    stage: str = ""  # title of the current stage
    done: int = 0  # units done of `total` in this stage
    total: int = 0  # 0 if unknown
    unit: str = ""  # of both, as in events.Count
    steps: tuple[Step, ...] = ()  # steps of the training
    facts: tuple[tuple[str, str], ...] = ()  # (name, value) of the facts of the plan
    notes: tuple[str, ...] = ()
    run: str = ""  # the run's folder
    finished: Finished | None = None  # the last event, once the job is over
    trials: tuple[Trial, ...] = ()  # trials of a sweep
    parts: Mapping[str, float] = field(default_factory=dict)  # forecast seconds of a retrain, by part
    begun: float = 0.0  # time at which the current stage began, in seconds since 1970; 0: unknown
    events: int = 0  # the number of the last event

    @property
    def left(self) -> float | None:
        """The estimated seconds until a retrain ends; None if they are unknown.

        The forecast of the current stage is corrected by its progress. If the training is slower
        than planned, the later stages are expected to take longer too.
        """
        begins, parts = _begins(self.stage), dict(self.parts)
        if self.finished or begins is None or not parts:
            return None
        so_far = max(time.time() - self.begun, 0.0) if self.begun else 0.0  # the clock may have been set back
        if self.stage == EVALUATING:
            share = self.done / self.total if self.total else 0.0
            measured = so_far / share if so_far and share >= _TELLING else parts[EVALUATING]
            return measured * (1 - share)
        if begins > _BEGINS[EVALUATING]:
            return None
        if begins > _BEGINS[TRAINING]:
            del parts[TRAINING]
        elif self.stage == TRAINING and self.steps:
            left = self.steps[-1].eta
            planned = parts.pop(TRAINING)
            slower = (so_far + left) / planned if so_far and planned else 1.0
            return left + max(slower, 1.0) * sum(parts.values())
        return sum(parts.values())

    @property
    def phases(self) -> tuple[tuple[str, Phase], ...]:
        """The phases of a retrain, in order: what is done, what is done now, and what follows. Empty for other jobs."""
        begins = _begins(self.stage)
        if begins is None:
            return ()
        now = sum(_BEGINS[stage] <= begins for stage in _PHASES.values()) - 1
        names = enumerate(_PHASES)
        return tuple((name, "done" if place < now else "now" if place == now else "later") for place, name in names)

    @property
    def share(self) -> float:
        """The share of the work that is done, from 0 to 1."""
        if self.finished and self.finished.state not in ("stopped", "failed"):
            return 1.0
        within = min(self.done / self.total, 1.0) if self.total else 0.0
        begins = _begins(self.stage)
        if begins is None:
            return within
        later = [share for share in _BEGINS.values() if share > begins]
        return round(begins + within * (min(later, default=1.0) - begins), 4)


def progress_after(so_far: Progress, events: Iterable[tuple[int, Event]]) -> Progress:
    """Return the progress of a job from its progress so far and its next events, in order, as (number, event).

    The events of a resumed job include those of its earlier attempts; the stage and the result are
    those of the last attempt.
    """
    stage, done, total, unit = so_far.stage, so_far.done, so_far.total, so_far.unit
    run, finished, facts, parts, begun = so_far.run, so_far.finished, so_far.facts, so_far.parts, so_far.begun
    steps = {(step.part, step.step): step for step in so_far.steps}
    trials = {trial.number: trial for trial in so_far.trials}
    notes, last = list(so_far.notes), so_far.events
    for last, event in events:  # noqa: B007 (used below)
        match event:
            case Stage(title, begun):
                stage, done, total, unit, finished = title, 0, 0, "", None
            case Count(done, total, unit):
                pass
            case Step():
                steps.pop((event.part, event.step), None)
                steps[event.part, event.step] = event
                done, total, unit = event.step, event.steps, ""
            case Trial():
                trials[event.number] = event
            case Note(text):
                notes.append(text)
            case Planned(found, parts):
                facts, steps = found, {}
            case RunOpened(folder):
                run = folder
            case Finished():
                finished = event
    return Progress(
        stage,
        done,
        total,
        unit,
        tuple(steps.values()),
        facts,
        tuple(notes),
        run,
        finished,
        tuple(trials.values()),
        parts,
        begun,
        last,
    )


@dataclass
class _Read:
    """What was read of a job's event file."""

    reader: EventReader
    stamp: tuple[int, int, int]  # the file's state before it was read last
    progress: Progress


_read: OrderedDict[Path, _Read] = OrderedDict()  # by event file; the one used last is at the end
_reading = threading.Lock()


def progress_of_job(job: Job) -> Progress:
    """Return a job's progress. Only the events that were added since the last call are read."""
    file, stamp = job.events, paths.stamp(job.events)
    with _reading:
        read = _read.pop(file, None)
        if read is None or read.stamp[0] != stamp[0]:  # replaced, for example because a text in it was forgotten
            read = _Read(EventReader(file), (0, 0, 0), Progress())
        if read.stamp != stamp:
            read.stamp, read.progress = stamp, progress_after(read.progress, read.reader.read())
        _read[file] = read
        while len(_read) > _KEPT:
            _read.popitem(last=False)
        return read.progress


def _begins(stage: str) -> float | None:
    return next((share for title, share in _BEGINS.items() if stage.startswith(title)), None)


def facts(job: Job) -> dict[str, object]:
    """Return a job as a dictionary of JSON values, without its progress."""
    pid = job.process.pid if job.process and job.active else None
    return {**{name: getattr(job, name) for name in _FACTS}, "pid": pid}


def record(job: Job) -> dict[str, object]:
    """Return a job as a dictionary of JSON values, with its progress, which is read from its events."""
    progress = progress_of_job(job)
    share = 1.0 if job.state == "completed" else progress.share
    return {**facts(job), "progress": share, "stage": progress.stage, "events": progress.events}
