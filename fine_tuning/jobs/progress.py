"""How far a job is, read from what it tells."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fine_tuning import paths
from fine_tuning.events import Count, Event, Finished, Note, Planned, RunOpened, Stage, Step, Trial, read_events
from fine_tuning.jobs.store import Job

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

# Where in a retrain a stage begins, as a share of the whole; of other work only the current stage's own share is known.
_BEGINS = {
    "Reading what was said": 0.0,
    "Preparing the dataset": 0.01,
    "Training": 0.03,
    "Exporting to GGUF": 0.7,
    "Checking that what was exported is what was trained": 0.72,
    "Evaluating": 0.75,
    "Registering": 0.97,
    "Checking that it is served as it was trained": 0.98,
    "Making": 0.99,
}


@dataclass(frozen=True)
class Progress:
    """What a job told so far."""

    stage: str = ""
    done: int = 0  # of `total`, in this stage
    total: int = 0
    steps: tuple[Step, ...] = ()  # of the training
    facts: tuple[tuple[str, str], ...] = ()  # what is learned
    notes: tuple[str, ...] = ()
    run: str = ""
    finished: Finished | None = None
    trials: tuple[Trial, ...] = ()  # of a search for settings

    @property
    def share(self) -> float:
        """How much of the work is done, from 0 to 1."""
        if self.finished and self.finished.state not in ("stopped", "failed"):
            return 1.0
        within = min(self.done / self.total, 1.0) if self.total else 0.0
        begins = _begins(self.stage)
        if begins is None:
            return within
        later = [share for share in _BEGINS.values() if share > begins]
        return round(begins + within * (min(later, default=1.0) - begins), 4)


def progress_of(events: Iterable[Event]) -> Progress:
    """Return what these events come to. Of a job that was resumed, the last attempt's stage and end count."""
    stage, done, total, run, finished = "", 0, 0, "", None
    steps: dict[tuple[str, int], Step] = {}
    notes: list[str] = []
    trials: dict[int, Trial] = {}
    facts: tuple[tuple[str, str], ...] = ()
    for event in events:
        match event:
            case Stage(title):
                stage, done, total, finished = title, 0, 0, None
            case Count(done, total):
                pass
            case Step():
                steps.pop((event.part, event.step), None)
                steps[event.part, event.step] = event
                done, total = event.step, event.steps
            case Trial():
                trials[event.number] = event
            case Note(text):
                notes.append(text)
            case Planned(found):
                facts, steps = found, {}
            case RunOpened(folder):
                run = folder
            case Finished():
                finished = event
    return Progress(
        stage, done, total, tuple(steps.values()), facts, tuple(notes), run, finished, tuple(trials.values())
    )


def progress_of_job(job: Job) -> Progress:
    """Return what a job told so far; its file is read once, however often that is asked for."""
    return _read(job.events, paths.stamp(job.events))


@lru_cache(maxsize=16)
def _read(file: Path, stamp: tuple[int, int, int]) -> Progress:
    return progress_of(event for _, event in read_events(file))


def _begins(stage: str) -> float | None:
    return next((share for title, share in _BEGINS.items() if stage.startswith(title)), None)


def facts(job: Job) -> dict[str, object]:
    """Return a job as JSON has it."""
    pid = job.process.pid if job.process and job.active else None
    return {**{name: getattr(job, name) for name in _FACTS}, "pid": pid}


def record(job: Job) -> dict[str, object]:
    """Return a job with how far it is, for which its events are read."""
    events = read_events(job.events)
    progress = progress_of(event for _, event in events)
    share = 1.0 if job.state == "completed" else progress.share
    return {**facts(job), "progress": share, "stage": progress.stage, "events": events[-1][0] if events else 0}
