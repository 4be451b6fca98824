"""Prepare a training together with the user: the choices, the resulting settings, a forecast, and the start.

A draft records the choices. Its settings are a starting point (the configuration, with the profile
that fits the data), with the changes of a preset, and single changes on top. A job of the kind
`plan` measures once, for the data and the model, what would be learned, and the memory and time that
this takes. For all other settings a forecast is computed from the job's result (`Forecast`), in well
under a millisecond and without torch.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import psutil

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig
from fine_tuning.config.flat import dotted
from fine_tuning.config.training import FineTuningMethod
from fine_tuning.durations import Around, Times
from fine_tuning.engines.base import ModelSummary
from fine_tuning.integration import learning
from fine_tuning.integration.datasets import Dataset, format_of
from fine_tuning.integration.learning import least_turns
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import Job, State
from fine_tuning.profiles import HANDBOOK, laid_below
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
_SHORT, _LONG = 600.0, 8 * 3600.0  # longest duration of a quick and of a thorough training, in seconds
_PLANS_KEPT = 3
_FORM = 2  # version of a plan's result: an older one is not read
# the sections that affect a training
_SECTIONS = ("data_collection", "data_preparation", "augmentation", "training", "evaluation", "gate", "deployment")
# the sections that affect the result of a plan
_PLANNED = ("dataset", "data_collection", "data_preparation", "augmentation", "mix", "training", "deployment")
# The settings in `training` that decide the rows, their batches, and the number format. The effect
# of all others is arithmetic.
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
    """The user's choices for a training that has not begun: base model, data, preset and changed settings."""

    base: str  # the tag of a base model
    data: Data = "chats"
    dataset: Dataset | None = None  # if `data` is "dataset"
    level: Level = "balanced"
    changes: Mapping[str, object] = field(default_factory=dict)  # by dotted key, over the preset

    def with_change(self, key: str, value: object, start: FineTuningConfig) -> "Draft":
        """Return the draft with one setting changed. A value equal to the one in `start` counts as
        no change.
        """
        changes = {**self.changes, key: value}
        return replace(self, changes={key: value for key, value in changes.items() if value_of(start, key) != value})


# From a draft to settings


def starting_point(config: FineTuningConfig, draft: Draft, turns: int, documents: int = 0) -> FineTuningConfig:
    """Return the settings before any preset and change.

    `turns`: number of turns in the log. `documents`: number of these that were made from documents.
    """
    if profile := profile_of(config, draft, turns, documents):
        config = laid_below(config, profile)
    source: dict[str, object] = {"dataset.path": None}
    if draft.data == "dataset" and draft.dataset:
        source = {"dataset.path": str(draft.dataset.file), "dataset.format": format_of(draft.dataset)}
    return config.changed({"training.base_model": draft.base, **source})


def profile_of(config: FineTuningConfig, draft: Draft, turns: int, documents: int = 0) -> str:
    """Return the name of the profile of a draft's starting point; "" for none."""
    if draft.data == "sample":
        return _SAMPLE
    return learning.profile_of_log(config, turns, documents) if draft.data == "chats" else ""


def levels(profile: str) -> dict[Level, str]:
    """Return the names of the presets for a profile, by level.

    Quick is not offered for documents: with its few epochs, a model learns too few of their facts
    to pass the gate.
    """
    return {level: name for level, name in LEVELS.items() if level != "quick" or profile != HANDBOOK}


def settings_of(start: FineTuningConfig, draft: Draft, basis: Basis | None = None) -> FineTuningConfig:
    """Return the settings `start` with the preset and the changes that the user chose on the Train page.

    Args:
        start: The settings of the configuration file.
        draft: What the user chose: how thorough the training is, and changes of single settings.
        basis: The measurements on which the preset depends; None: they are not known yet.

    Raises ConfigError if the changes contradict each other.
    """
    changes = {**preset(start, draft.level, basis), **draft.changes}
    return start.changed(changes) if changes else start


def preset(start: FineTuningConfig, level: Level, basis: Basis | None = None) -> dict[str, object]:
    """Return the settings that a preset changes, by dotted key.

    Quick has a smaller adapter, and as many epochs as take ten minutes on this machine, at least one.
    Thorough has a larger adapter, and up to twice as many epochs, if they fit into eight hours.
    Without a `basis` the speed of the machine is unknown, and the epochs change by a fixed factor.
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
    """Return the changes that set the rank of an adapter. Its scale, alpha / rank, stays the same."""
    training = start.training
    if training.method not in _ADAPTERS:
        return {}
    return {"training.lora_r": rank, "training.lora_alpha": max(1, round(rank * training.lora_alpha / training.lora_r))}


def split_changes(start: FineTuningConfig, share: float) -> dict[str, object]:
    """Return the changes that set the share of chats for validation, which is taken from the training's share."""
    return {
        "data_preparation.validation_ratio": share,
        "data_preparation.train_ratio": round(1 - start.data_preparation.test_ratio - share, 6),
    }


def value_of(config: FineTuningConfig, key: str) -> Any:
    """Return the value of a setting by its dotted key, as JSON values."""
    return _values(config)[key]


@lru_cache(maxsize=16)
def _values(config: FineTuningConfig) -> Mapping[str, object]:
    return dict(dotted(config.model_dump(mode="json")))


def differences(settings: FineTuningConfig, start: FineTuningConfig) -> tuple[tuple[str, object, object], ...]:
    """Return (key, value, value in `start`) of each setting of a training that differs from the one in `start`."""
    before = _values(start)
    return tuple(
        (key, value, before.get(key))
        for key, value in _values(settings).items()
        if _counts(key) and value != before.get(key)
    )


def draft_of(job: Job, config: FineTuningConfig, turns: int, known: Iterable[Dataset], documents: int = 0) -> Draft:
    """Return the request of a job as a draft, which can be changed and submitted again."""
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
    """The result of a plan, from which forecasts for other settings are computed."""

    job: Job
    found: Mapping[str, Any] = field(default_factory=dict)  # the result of the job of the kind `plan`

    @property
    def ready(self) -> bool:
        return bool(self.found)

    @property
    def trouble(self) -> str:
        """The reason why the plan failed and nothing can be forecast; "" if it did not fail or is not over."""
        return self.job.reason if self.job.over and not self.ready else ""

    @property
    def basis(self) -> Basis | None:
        return _basis(json.dumps(self.found["basis"])) if self.ready else None

    def at(self, settings: FineTuningConfig) -> Estimate | None:
        """Return the estimated time and memory of a training with these settings; None if the plan has no result.

        For a training on the CPU, the estimate contains how much memory is free now.
        """
        if (basis := self.basis) is None:
            return None
        return basis.at(settings.training, None if basis.machine.on_gpu else psutil.virtual_memory().available)

    def times(self, settings: FineTuningConfig) -> Times | None:
        """Return how long each part of a training with these settings takes; None if the plan has no result."""
        found = self.at(settings)
        return Around.of(self.found["around"]).times(settings, found.seconds) if found else None

    def trained(self, settings: FineTuningConfig) -> tuple[int, float] | None:
        """Return (number of trained weights, their share of the model's weights); None if the plan has no result."""
        if (basis := self.basis) is None:
            return None
        count = basis.trained(settings.training)
        return count, count / basis.shape.parameters

    def too_large(self, settings: FineTuningConfig) -> bool:
        """Return whether the training does not fit into memory, even with the settings lowered as far as allowed.

        If lower settings fit, they are used automatically when the training begins.
        """
        found = self.at(settings)
        return found is not None and not found.fits and not self.found["fits"] and self.found["fitting"] is None


@lru_cache(maxsize=8)
def _basis(record: str) -> Basis:
    return Basis.of(json.loads(record))


def forecast(queue: Queue, draft: Draft, settings: FineTuningConfig, ollama_url: str | None = None) -> Forecast:
    """Return the forecast for the data and the model of a draft.

    If there is none, the job that computes it is submitted.
    """
    return _forecast(_submitted(queue, *_plan(draft, settings, ollama_url)))


def found_out(queue: Queue, draft: Draft, settings: FineTuningConfig, ollama_url: str | None = None) -> Forecast | None:
    """Return the forecast that `forecast` has requested for a draft, without submitting a job.

    Return None if no job was submitted to compute it.
    """
    id, _ = _plan(draft, settings, ollama_url)
    known = next((job for job in queue.jobs(kinds=["plan"], limit=100) if job.id == id), None)
    return _forecast(known) if known else None


def _forecast(job: Job) -> Forecast:
    return Forecast(job, paths.read_json(job.result) if job.state == State.COMPLETED and job.result.exists() else {})


def _plan(draft: Draft, settings: FineTuningConfig, ollama_url: str | None) -> tuple[str, dict[str, object]]:
    """Return the id and the request of the job of the kind `plan` for a draft. Equal requests have equal ids."""
    config = settings.model_dump(mode="json", include=set(_PLANNED))
    config["training"] = {key: value for key, value in config["training"].items() if key in _DECIDES}
    if settings.training.folds:
        config["training"]["early_stop"] = settings.training.early_stop
    if settings.training.method == FineTuningMethod.FULL:  # it has its own number format
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
            queue.cancel(job.id)  # it is for an earlier choice
    others = [job for job in before if job.over and job.id != id]
    for job in [*others[_PLANS_KEPT:], *([known] if known else [])]:
        queue.remove(job.id)
    return queue.submit("plan", request, id=id, origin="the page")


def find_out_again(queue: Queue, found: Forecast) -> None:
    """Remove the job of a finished or failed plan, so that the next `forecast` submits a new one."""
    if found.job.over:
        queue.remove(found.job.id)


def likely_fits(model: ModelSummary, available: int | None = None) -> bool:
    """Return whether a base model can probably be trained in the free memory (bytes; by default it is measured).

    This is a rule of thumb for a list of models; a forecast is exact, but takes some seconds.
    """
    free = psutil.virtual_memory().available if available is None else available
    return 1.3 * model.size + (1 << 30) <= free


# The start


@dataclass(frozen=True)
class Situation:
    """The facts, besides the draft, that decide whether a training can start."""

    turns: int  # in the log
    bases: tuple[str, ...]  # tags of the engine
    running: bool  # whether another training runs or waits
    trouble: str = ""  # a problem with engine or log, in words
    documents: int = 0  # number of these turns that were made from documents


def missing(config: FineTuningConfig, draft: Draft, now: Situation, forecast: Forecast | None, fault: str = "") -> str:
    """Return why the training cannot start, to display; "" if it can. `fault` is an error in the settings."""
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
    """Return why the model or the data is not ready for a training, to display; "" if both are ready."""
    if now.trouble:
        return now.trouble
    if draft.base not in now.bases:
        return f"{draft.base} is not on this machine: choose a model first."
    if draft.data == "chats" and now.turns < (least := least_turns(config)):
        return (
            f"At least {least} questions with their answers are needed (recorded so far: {now.turns}): chat more, "
            "or choose the sample or a file."
        )
    return "No file is chosen: choose or upload one." if draft.data == "dataset" and draft.dataset is None else ""


def summary(draft: Draft, forecast: Forecast, settings: FineTuningConfig) -> tuple[tuple[str, str], ...]:
    """Return a summary of the training as (name, value) pairs to display, such as ("Steps", "120")."""
    told = dict(forecast.found.get("facts", ()))
    found = forecast.at(settings)
    data = {
        "chats": "Your chats, and what you imported",
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
    """Submit the training of a draft as a job, and return the job.

    Raises Busy if a training is running or waiting, and ByoaiError if the new one fails at once.
    """
    request = {"config": settings.model_dump(mode="json"), "auto": True, "ollama_url": ollama_url}
    if draft.data == "dataset":
        return learning.begin("train", request)
    return learning.begin("retrain", {**request, "sample": draft.data == "sample"})
