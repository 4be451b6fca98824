"""Describe jobs for users: list them in pages, compare several, and remove one with its output."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.config.flat import dotted
from fine_tuning.engines.base import Engine
from fine_tuning.errors import Busy, ByoaiError
from fine_tuning.integration.learning import TITLES
from fine_tuning.integration.setting_words import words_of
from fine_tuning.jobs import store
from fine_tuning.jobs.kinds import KINDS
from fine_tuning.jobs.progress import progress_of_job
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import Job, State
from fine_tuning.model_management import model_pruner
from fine_tuning.model_management.model_pruner import prune_one, run_of
from fine_tuning.model_management.model_registry import Registry, Version
from fine_tuning.runs import only_one
from fine_tuning.units import clock

SHOWN = tuple(kind for kind in KINDS if kind != "plan")  # all but plans, which are of no interest afterwards
TRAININGS = ("retrain", "train")
_MAKING = (*TRAININGS, "sweep")  # kinds of jobs that make a folder of their own
STATES = {
    State.QUEUED: "waiting",
    State.RUNNING: "running",
    State.CANCELLING: "stopping",
    State.CANCELLED: "stopped",
    State.FAILED: "failed",
    State.COMPLETED: "done",
    State.INTERRUPTED: "interrupted",
}
_TITLES = {
    "retrain": "Training on your chats",
    "train": "Training on a file",
    "sweep": "Search for better settings",
    "evaluate": "Test of a version",
    "merge": "Merging of versions",
    "quantise": "Compression of a version",
    "import": "Import",
    "prepare": "Preparation of a dataset",
    "compare": "Comparison",
    "forget": "Forgetting",
    "pull": "Download of a model",
    "fetch_base": "Download of the base model",
}


# The list


def title(job: Job) -> str:
    """Return what a job does, in a few words for people."""
    if job.kind == "retrain" and job.request.get("sample"):
        return "Training on the sample"
    return _TITLES.get(job.kind, job.kind.capitalize())


def page(
    queue: Queue, size: int, before: float | None = None, kinds: Sequence[str] = SHOWN
) -> tuple[list[Job], float | None]:
    """Return at most `size` jobs, newest first, and the value of `before` for the next page (None on the last page)."""
    found = queue.jobs(kinds=kinds, limit=size + 1, before=before)
    return found[:size], found[size - 1].created if len(found) > size else None


def duration(job: Job) -> str:
    """Return how long a finished job ran, as text; "" if it never began or is not over."""
    return clock(job.ended - job.begun) if job.begun and job.ended else ""


def verdict(job: Job) -> str:
    """Return how a job ended, in a few words; "" while it is not over."""
    if not job.over:
        return ""
    if job.state == State.COMPLETED and job.kind in TRAININGS and job.result.exists():
        found = paths.read_json(job.result)
        if "passed" not in found:
            return TITLES["no version"]
        return TITLES["live" if found.get("live") else "registered" if found["passed"] else "refused"]
    return job.reason.partition("\n")[0]


# Compare several jobs


@dataclass(frozen=True)
class Point:
    """A point of a training curve: loss and accuracy at one step."""

    run: str
    step: int
    kind: str  # "learned" or "kept aside"
    loss: float
    accuracy: float | None


LEARNED, KEPT_ASIDE = "learned", "kept aside"


def curve(job: Job, name: str = "") -> list[Point]:
    """Return loss and accuracy by step of a training on the chats, with `name` as the curve's name.

    Steps of the training on preferences are left out, since their loss is not comparable.
    """
    points = []
    for step in progress_of_job(job).steps:
        if step.part != "chats":
            continue
        points.append(Point(name or job.id, step.step, LEARNED, step.loss, step.accuracy))
        if step.validation_loss is not None:
            points.append(Point(name or job.id, step.step, KEPT_ASIDE, step.validation_loss, step.validation_accuracy))
    return points


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Return about `most` of the points with training loss, evenly spaced, and all points with validation loss."""
    learned = [point for point in points if point.kind == LEARNED]
    every = -(-len(learned) // most) if learned else 1
    kept = {id(point) for point in learned[::every]} | {id(point) for point in learned[-1:]}
    return [point for point in points if point.kind != LEARNED or id(point) in kept]


def settings_of(job: Job) -> dict[str, Any]:
    """Return the settings of a job by dotted key: its request, and the relevant sections of its configuration."""
    record = dict(job.request)
    config: Mapping[str, Any] = record.pop("config", {})
    asked = {key: value for key, value in record.items() if value not in (None, False, [], "") and key != "ollama_url"}
    return {**asked, **dict(dotted({key: value for key, value in config.items() if key not in _ELSEWHERE}))}


def label_of(key: str) -> str:
    """Return the label to display for a key of `settings_of`, such as "Learning rate"."""
    return words_of(key).label if "." in key else key.replace("_", " ").capitalize()


_ELSEWHERE = ("schedule", "notify", "tracking", "uploads", "sweep")  # sections without an effect on what is learned


def diff(jobs: Sequence[Job]) -> list[tuple[str, tuple[object, ...]]]:
    """Return (key, values of all jobs) for each setting that differs between the jobs."""
    found = [settings_of(job) for job in jobs]
    keys = dict.fromkeys(key for each in found for key in each)
    rows = ((key, tuple(each.get(key) for each in found)) for key in keys)
    return [(key, values) for key, values in rows if any(value != values[0] for value in values)]


# Remove a job


@dataclass(frozen=True)
class Removal:
    """What is removed with a job."""

    job: Job
    run: Path | None  # the folder of its run; None if it has none, or shares it with another job
    version: Version | None  # the version that its run made
    bytes: int


def removal(queue: Queue, registry: Registry, id: str) -> Removal:
    """Return what would be removed with a job. Raises JobNotFound for an unknown id, and Busy if it is not over."""
    job = queue.get(id)
    if not job.over:
        raise Busy(f"the job {id} is {STATES[job.state]}: stop it, or wait until it is over")
    run = None if store.sharing(job) else _run_of(job)
    version = next((each for each in registry.list() if run and run_of(each) == run), None)
    return Removal(job, run, version, _size(job.folder) + (_size(run) if run else 0))


def remove(queue: Queue, registry: Registry, engine: Engine | None, id: str) -> Removal:
    """Remove a job, its run, and the version that the run made; return what was removed.

    `engine` is needed only if there is a version. Raises Busy if the job is not over or a training is
    running, and ByoaiError if the version must be kept (`why_kept`).
    """
    found = removal(queue, registry, id)
    if found.run:
        with only_one("removing a run"):
            if found.version and found.version.state != "retired" and engine is not None:
                prune_one(engine, registry, found.version.name, found.version.number)
            shutil.rmtree(found.run, ignore_errors=True)
    queue.remove(id)
    return found


def why_kept(found: Removal) -> str:
    """Return why a job's version must be kept, for people; "" if it may be removed."""
    version = found.version
    if version is None or version.state == "retired":
        return ""
    why = model_pruner.why_kept(version, {})  # whether the engine serves it is checked on removal
    return f"{version.tag} was made by it, and {why}" if why else ""


def _run_of(job: Job) -> Path | None:
    """Return the folder of a training's run or of a sweep's study.

    Return None if it no longer exists, or is outside of the data folder.
    """
    if not job.run or job.kind not in _MAKING:
        return None
    try:
        run = paths.within_home(Path(job.run))
    except ByoaiError:
        return None
    return run if run.is_dir() and not run.is_symlink() else None


def _size(folder: Path) -> int:
    return sum(facts.st_size for _, facts in paths.files_in(folder))
