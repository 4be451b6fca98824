"""Routes for the presets: the settings of a quick, a balanced and a thorough training, with their time and memory."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from fine_tuning import paths
from fine_tuning.api.dependencies import Asked, Serving
from fine_tuning.config import FineTuningConfig
from fine_tuning.errors import DatasetNotFound
from fine_tuning.integration import datasets, settings, tuning
from fine_tuning.integration.presets import Preset, presets
from fine_tuning.integration.service import Service
from fine_tuning.integration.tuning import LEVELS, Data, Draft, Forecast, Level
from fine_tuning.profiles import made_of_documents

router = APIRouter(prefix="/api", tags=["presets"])

Tag = Annotated[str, Field(max_length=400, description="a model of the engine; empty: the configured one")]
DatasetPath = Annotated[str, Field(max_length=1000, description="a dataset's `path`, if `data` is `dataset`")]
Profile = Annotated[str, Field(max_length=100, description="config/<name>.yaml; empty: the one that fits the data")]


class Wanted(Asked):
    base: Tag = ""
    data: Data = "chats"
    path: DatasetPath = ""
    profile: Profile = ""


class Duration(BaseModel):
    """The estimated time from the start of a retrain to the gate's verdict, in seconds."""

    seconds: float
    training: float  # the part of it that the training takes
    parts: dict[str, float]  # seconds by part, "Training" among them
    told: str  # a sentence that says the time


class PresetFacts(BaseModel):
    level: Level
    label: str
    settings: dict[str, object]  # by dotted key, as for `settings` of POST /api/jobs
    steps: int | None  # optimiser steps; like the fields below, None if no plan has estimated it yet
    memory: int | None  # bytes at the peak
    fits: bool | None  # whether the machine has this memory
    times: Duration | None


class PresetList(BaseModel):
    base: str
    data: Data
    profile: str  # name of the profile that the settings are based on; "" for none
    reckoned: bool  # whether a plan has estimated the presets for this machine and these data; if not, use POST
    job: str | None  # id of the job of the kind plan that estimates them or has done so
    items: list[PresetFacts]


@router.get("/presets")
def show_presets(service: Serving, asked: Annotated[Wanted, Query()]) -> PresetList:
    """Show the presets Quick, Balanced and Thorough: their settings, and their time and memory if estimated."""
    start, draft = _start(service, asked)
    return _shown(service, asked, draft, start, tuning.found_out(service.queue, draft, start, service.ollama_url))


@router.post("/presets")
def reckon_presets(asked: Wanted, service: Serving) -> PresetList:
    """Estimate the presets' time and memory for these data on this machine, by a job of the kind `plan`.

    When the job is over, GET shows the estimates. A running plan for other data or another model is
    stopped.
    """
    start, draft = _start(service, asked)
    return _shown(service, asked, draft, start, tuning.forecast(service.queue, draft, start, service.ollama_url))


def _start(service: Service, asked: Wanted) -> tuple[FineTuningConfig, Draft]:
    config = settings.changed(service, {}, asked.profile or None)
    dataset = _dataset(asked.path) if asked.data == "dataset" else None
    draft = Draft(asked.base or config.training.base_model, asked.data, dataset)
    return tuning.starting_point(config, draft, *_turns(service, asked)), draft


def _turns(service: Service, asked: Wanted) -> tuple[int, int]:
    """Return the number of turns in the log, and how many of them were made from imported documents.

    Return zeros if the training would not use the log.
    """
    if asked.data != "chats":
        return 0, 0
    log = service.log()
    return log.index.count(), made_of_documents(log)


def _dataset(path: str) -> datasets.Dataset:
    wanted = Path(paths.home() / path)
    found = next((each for each in datasets.find() if each.file == wanted), None)
    if found is None or datasets.format_of(found) is None:
        raise DatasetNotFound(f"{path[:80]!r} is not a dataset to train on: name one that GET /api/datasets lists")
    return found


def _shown(
    service: Service, asked: Wanted, draft: Draft, start: FineTuningConfig, found: Forecast | None
) -> PresetList:
    ready = found if found and found.ready else None
    profile = asked.profile or tuning.profile_of(service.config, draft, *_turns(service, asked))
    return PresetList(
        base=draft.base,
        data=asked.data,
        profile=profile,
        reckoned=ready is not None,
        job=found.job.id if found else None,
        items=[_facts(each) for each in presets(start, ready, tuning.levels(profile))],
    )


def _facts(preset: Preset) -> PresetFacts:
    takes, times = preset.takes, preset.times
    return PresetFacts(
        level=preset.level,
        label=LEVELS[preset.level],
        settings=dict(preset.settings),
        steps=takes.steps if takes else None,
        memory=takes.memory if takes else None,
        fits=takes.fits if takes else None,
        times=Duration.model_validate(times.record()) if times else None,
    )
