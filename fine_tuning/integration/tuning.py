"""A training as a person puts it together: what is chosen so far, what that means as settings, what
it will take, and its start.

A draft is what was chosen. Its settings are a starting point (the configuration, with the profile
that fits the data), a preset over it, and single changes over that. What it would learn and take is
found out once for its data and model by a job of the kind `plan`; for all other settings the
forecast is arithmetic on what that job found (`Forecast`), in well under a millisecond and without
torch.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import psutil

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, FineTuningMethod
from fine_tuning.config_flat import dotted
from fine_tuning.durations import Around, Times
from fine_tuning.engines.base import ModelSummary
from fine_tuning.integration import learning
from fine_tuning.integration.datasets import Dataset, format_of
from fine_tuning.integration.learning import least_turns
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import Job, State
from fine_tuning.profiles import laid_below
from fine_tuning.training.estimate import Basis, Estimate

Data = Literal["chats", "sample", "dataset"]
Level = Literal["quick", "balanced", "thorough"]

LEVELS: dict[Level, str] = {
    "quick": "Quick",
    "balanced": "Balanced",
    "thorough": "Thorough",
}
RANKS = (2, 4, 8, 16, 32, 64, 128)
_SAMPLE = "sample"  # the profile of the shipped sample
_SHORT, _LONG = 600.0, 8 * 3600.0  # seconds that a quick, and a thorough training may take on this machine
_PLANS_KEPT = 3
_FORM = 2  # of what a plan finds out: a result of an older form is not read
# that say how a training goes
_SECTIONS = ("data_collection", "data_preparation", "augmentation", "training", "evaluation", "gate", "deployment")
# that decide what a plan finds out
_PLANNED = ("dataset", "data_collection", "data_preparation", "augmentation", "mix", "training", "deployment")
# What of `training` decides which rows there are, which are computed together, and in which number
# format: all else is arithmetic.
_DECIDES = (
    "base_model",
    "batch_size",
    "batch_tokens",
    "backend",
    "folds",
    "seed",
    "dtype",
    "threads",
    "products",
    "replay",
    "preferences",
)
_ADAPTERS = (FineTuningMethod.LORA, FineTuningMethod.QLORA)


@dataclass(frozen=True)
class Draft:
    """What is chosen so far."""

    base: str  # the tag of a base model
    data: Data = "chats"
    dataset: Dataset | None = None  # where `data` is "dataset"
    level: Level = "balanced"
    changes: Mapping[str, object] = field(default_factory=dict)  # by dotted key, over the preset

    def with_change(self, key: str, value: object, start: FineTuningConfig) -> "Draft":
        """Return it with one setting changed; one that is as it would be without a change is none."""
        changes = {**self.changes, key: value}
        return replace(self, changes={key: value for key, value in changes.items() if value_of(start, key) != value})


# From a draft to settings


def starting_point(config: FineTuningConfig, draft: Draft, turns: int, documents: int = 0) -> FineTuningConfig:
    """Return the settings before any preset and change. `turns` are in the log, `documents` of them
    made of documents.
    """
    if profile := profile_of(config, draft, turns, documents):
        config = laid_below(config, profile)
    source: dict[str, object] = {"dataset.path": None}
    if draft.data == "dataset" and draft.dataset:
        source = {"dataset.path": str(draft.dataset.file), "dataset.format": format_of(draft.dataset)}
    return config.changed({"training.base_model": draft.base, **source})


def profile_of(config: FineTuningConfig, draft: Draft, turns: int, documents: int = 0) -> str:
    """Return the profile that the starting point takes; "" for none."""
    if draft.data == "sample":
        return _SAMPLE
    return learning.profile_of_log(config, turns, documents) if draft.data == "chats" else ""


def settings_of(start: FineTuningConfig, draft: Draft, basis: Basis | None = None) -> FineTuningConfig:
    """Return the settings that a draft comes to. ConfigError where its changes contradict each other."""
    changes = {**preset(start, draft.level, basis), **draft.changes}
    return start.changed(changes) if changes else start


def preset(start: FineTuningConfig, level: Level, basis: Basis | None = None) -> dict[str, object]:
    """Return what a preset changes, by dotted keys.

    Quick: fewer passes with a smaller adapter, of which as many are left as take ten minutes on
    this machine. Thorough: more of both, as far as that takes a night. Without a `basis` the
    machine is not known, and only the factor counts.
    """
    training = start.training
    if level == "balanced":
        return {}
    rank = training.lora_r
    if level == "quick":
        epochs, rank = max(1, -(-training.num_epochs // 3)), max(min(4, rank), rank // 2)
    else:
        epochs, rank = 2 * training.num_epochs, 2 * rank
    changes = rank_changes(start, rank)
    if basis is not None:
        each = basis.at(start.changed({**changes, "training.num_epochs": 1}).training).seconds
        affordable = int((_SHORT if level == "quick" else _LONG) / max(each, 1e-9))
        least, most = (1, training.num_epochs) if level == "quick" else (training.num_epochs, epochs)
        epochs = min(max(affordable, least), most if level == "thorough" else max(epochs, 1))
    return {**changes, "training.num_epochs": epochs}


def rank_changes(start: FineTuningConfig, rank: int) -> dict[str, object]:
    """Return what gives an adapter another size; how strongly it counts beside the base stays as it is."""
    training = start.training
    if training.method not in _ADAPTERS:
        return {}
    return {"training.lora_r": rank, "training.lora_alpha": max(1, round(rank * training.lora_alpha / training.lora_r))}


def split_changes(start: FineTuningConfig, share: float) -> dict[str, object]:
    """Return what keeps a share of the chats aside for validation: it is taken from those that are
    learned, not from the test's.
    """
    return {
        "data_preparation.validation_ratio": share,
        "data_preparation.train_ratio": round(1 - start.data_preparation.test_ratio - share, 6),
    }


def value_of(config: FineTuningConfig, key: str) -> Any:
    """Return a value by its dotted key, as JSON has it."""
    return _values(config)[key]


@lru_cache(maxsize=16)
def _values(config: FineTuningConfig) -> Mapping[str, object]:
    return dict(dotted(config.model_dump(mode="json")))


def differences(settings: FineTuningConfig, start: FineTuningConfig) -> tuple[tuple[str, object, object], ...]:
    """Return (key, value, value otherwise) of what differs in how a training goes."""
    before = _values(start)
    return tuple(
        (key, value, before.get(key))
        for key, value in _values(settings).items()
        if _counts(key) and value != before.get(key)
    )


def draft_of(job: Job, config: FineTuningConfig, turns: int, known: Iterable[Dataset], documents: int = 0) -> Draft:
    """Return what a job was asked as a draft, to be changed and asked again."""
    asked = FineTuningConfig.model_validate(job.request.get("config", {}))
    path = asked.dataset.path
    dataset = next((each for each in known if path is not None and each.file == path), None)
    data: Data = "sample" if job.request.get("sample") else "dataset" if path else "chats"
    draft = Draft(asked.training.base_model, data, dataset)
    start = starting_point(config, draft, turns, documents)
    return replace(draft, changes={key: value for key, value, _ in differences(asked, start)})


def _counts(key: str) -> bool:
    return key.partition(".")[0] in _SECTIONS and key not in ("training.output_dir", "training.base_model")


# What it will take


@dataclass(frozen=True)
class Forecast:
    """What is known of a draft's data and model: what would be learned, and what other settings would take."""

    job: Job
    found: Mapping[str, Any] = field(default_factory=dict)  # what the job of the kind `plan` returned

    @property
    def ready(self) -> bool:
        return bool(self.found)

    @property
    def trouble(self) -> str:
        """Why nothing can be forecast; "" while it can, or is being found out."""
        return self.job.reason if self.job.over and not self.ready else ""

    @property
    def basis(self) -> Basis | None:
        return _basis(json.dumps(self.found["basis"])) if self.ready else None

    def at(self, settings: FineTuningConfig) -> Estimate | None:
        """Return what a training with these settings takes, by the memory that is free now."""
        if (basis := self.basis) is None:
            return None
        return basis.at(settings.training, None if basis.machine.on_gpu else psutil.virtual_memory().available)

    def times(self, settings: FineTuningConfig) -> Times | None:
        """Return how long all of it takes with these settings, by part."""
        found = self.at(settings)
        return Around(**self.found["around"]).times(settings, found.seconds) if found else None

    def trained(self, settings: FineTuningConfig) -> tuple[int, float] | None:
        """Return how many numbers are trained, and which share of the model's that is."""
        if (basis := self.basis) is None:
            return None
        count = basis.trained(settings.training)
        return count, count / basis.shape.parameters

    def too_large(self, settings: FineTuningConfig) -> bool:
        """Return whether no lowered setting makes the training fit into the memory.

        Other trainings that do not fit are lowered before they begin.
        """
        found = self.at(settings)
        return found is not None and not found.fits and not self.found["fits"] and self.found["fitting"] is None


@lru_cache(maxsize=8)
def _basis(record: str) -> Basis:
    return Basis.of(json.loads(record))


def forecast(queue: Queue, draft: Draft, settings: FineTuningConfig, ollama_url: str | None = None) -> Forecast:
    """Return what is known of the data and the model of a draft; a job finds it out where it is not known yet."""
    return _forecast(_submitted(queue, *_plan(draft, settings, ollama_url)))


def found_out(queue: Queue, draft: Draft, settings: FineTuningConfig, ollama_url: str | None = None) -> Forecast | None:
    """Return what is known of them already; None where no job was asked to find it out."""
    id, _ = _plan(draft, settings, ollama_url)
    known = next((job for job in queue.jobs(kinds=["plan"], limit=100) if job.id == id), None)
    return _forecast(known) if known else None


def _forecast(job: Job) -> Forecast:
    return Forecast(job, paths.read_json(job.result) if job.state == State.COMPLETED and job.result.exists() else {})


def _plan(draft: Draft, settings: FineTuningConfig, ollama_url: str | None) -> tuple[str, dict[str, object]]:
    """Return the id of the job that finds it out, the same for the same, and what that job is asked."""
    config = settings.model_dump(mode="json", include=set(_PLANNED))
    config["training"] = {key: value for key, value in config["training"].items() if key in _DECIDES}
    if settings.training.folds:
        config["training"]["early_stop"] = settings.training.early_stop
    if settings.training.method == FineTuningMethod.FULL:  # it has a number format of its own
        config["training"]["method"] = settings.training.method.value
    request = {"config": config, "sample": draft.data == "sample", "ollama_url": ollama_url}
    stamp = paths.stamp(settings.log_path) if draft.data == "chats" else ()
    name = hashlib.sha256(json.dumps([_FORM, request, stamp], sort_keys=True).encode()).hexdigest()[:16]
    return f"plan-{name}", request


def _submitted(queue: Queue, id: str, request: dict[str, object]) -> Job:
    before = queue.jobs(kinds=["plan"], limit=100)
    known = next((job for job in before if job.id == id), None)
    if known is not None and known.state != State.CANCELLED:
        return known
    for job in before:
        if not job.over:
            queue.cancel(job.id)  # it is about what is not chosen any more
    others = [job for job in before if job.over and job.id != id]
    for job in [*others[_PLANS_KEPT:], *([known] if known else [])]:
        queue.remove(job.id)
    return queue.submit("plan", request, id=id, origin="the page")


def find_out_again(queue: Queue, found: Forecast) -> None:
    """Drop what was found out, or why nothing was: the next forecast finds it out anew."""
    if found.job.over:
        queue.remove(found.job.id)


def likely_fits(model: ModelSummary, available: int | None = None) -> bool:
    """Return whether a base can perhaps be trained in the memory that is free: its weights as they
    are, and room to compute.

    A rule of thumb for a list of models; the forecast is exact, and takes some seconds.
    """
    free = psutil.virtual_memory().available if available is None else available
    return 1.3 * model.size + (1 << 30) <= free


# The start


@dataclass(frozen=True)
class Situation:
    """What the start depends on beside the draft."""

    turns: int  # in the log
    bases: tuple[str, ...]  # tags of the engine
    running: bool  # whether another training runs or waits
    trouble: str = ""  # of engine or log, in words
    documents: int = 0  # of the turns, made of documents


def missing(config: FineTuningConfig, draft: Draft, now: Situation, forecast: Forecast | None, fault: str = "") -> str:
    """Return what keeps the training from its start, for people; "" when nothing does. `fault`: of the settings."""
    if now.running:
        return "Another training runs or waits: watch it, or stop it first."
    if why := incomplete(config, draft, now):
        return why
    if fault:
        return f"The settings contradict each other: {fault}"
    if forecast is None or not (forecast.ready or forecast.trouble):
        return "The data is being examined: this takes a few seconds."
    return forecast.trouble


def incomplete(config: FineTuningConfig, draft: Draft, now: Situation) -> str:
    """Return what of model or data is missing, for people; "" when nothing is."""
    if now.trouble:
        return now.trouble
    if draft.base not in now.bases:
        return f"{draft.base} is not there: choose a model first."
    if draft.data == "chats" and now.turns < (least := least_turns(config)):
        return (
            f"It takes {least} questions with their answers at least, and {now.turns} are recorded: chat more, or take "
            "the sample or a file."
        )
    return "No file is chosen: choose or upload one." if draft.data == "dataset" and draft.dataset is None else ""


def summary(draft: Draft, forecast: Forecast, settings: FineTuningConfig) -> tuple[tuple[str, str], ...]:
    """Return what is about to begin as (name, value) pairs."""
    told = dict(forecast.found.get("facts", ()))
    found = forecast.at(settings)
    data = {
        "chats": "Your chats",
        "sample": "The shipped sample",
        "dataset": draft.dataset.name if draft.dataset else "",
    }
    pairs = [
        ("Model", told.get("base", draft.base)),
        ("Becomes", told.get("becomes", "")),
        ("Data", data[draft.data]),
        ("Questions and answers", f"{forecast.found['kept_turns']:,}" if forecast.ready else ""),
        ("Conversations", _splits(forecast.found["counts"]) if forecast.ready else ""),
        ("Steps", str(found.steps) if found else ""),
    ]
    return tuple((name, value) for name, value in pairs if value)


def _splits(counts: Mapping[str, Mapping[str, int]]) -> str:
    parts = (("train", "learned"), ("validation", "kept aside for validation"), ("test", "for the test"))
    return ", ".join(f"{counts[split]['conversations']:,} {words}" for split, words in parts)


def start(draft: Draft, settings: FineTuningConfig, ollama_url: str | None = None) -> Job:
    """Begin the training of a draft as a job. Busy if one runs or waits; ByoaiError if it ends at once."""
    request = {"config": settings.model_dump(mode="json"), "auto": True, "ollama_url": ollama_url}
    if draft.data == "dataset":
        return learning.begin("train", request)
    return learning.begin("retrain", {**request, "sample": draft.data == "sample"})
