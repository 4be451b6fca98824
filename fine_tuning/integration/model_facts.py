"""Describe each model that can answer: what it learned and when, its size, and whether it fits into memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from fine_tuning.config import FineTuningConfig
from fine_tuning.engines.base import Engine, ModelSummary
from fine_tuning.engines.ollama_url import is_loopback
from fine_tuning.errors import EngineError
from fine_tuning.integration.ollama_integration import Models, look
from fine_tuning.model_management.model_registry import Registry, Version
from fine_tuning.model_management.model_switcher import Choice

_MORE = 1.2  # memory of a loaded model as a multiple of its weights: there are also the attention's cache and buffers
_LEAST = 200_000_000  # bytes in addition


@dataclass(frozen=True)
class Learned:
    """What a version learned."""

    turns: int
    base: str  # the tag of its base
    day: str  # YYYY-MM-DD
    verdict: str  # of the gate, in words; "" until it was judged


@dataclass(frozen=True)
class ModelFacts:
    choice: Choice
    title: str  # for people
    size: int  # bytes on disk; shared weights count for each model
    parameter_size: str  # as the engine states it
    quantization: str
    memory: int  # estimated bytes of memory when it is loaded
    loaded: bool
    fits: bool | None  # whether it fits into free memory; None if the engine runs on another machine
    learned: Learned | None  # only for a registered version


def facts_of(
    engine: Engine, config: FineTuningConfig, registry: Registry, available: int | None = None
) -> list[ModelFacts]:
    """Return the facts of each model that can answer, in the order of the model picker.

    `available` is the free memory in bytes; by default it is measured.
    """
    found, summaries = look(engine, config), {model.tag: model for model in engine.list_models()}
    versions, counts, loaded = (
        {each.tag: each for each in registry.list()},
        registry.turn_counts(),
        set(engine.loaded()),
    )
    here = engine.name != "ollama" or is_loopback(engine.where)
    free = psutil.virtual_memory().available if available is None else available
    # a loaded model is unloaded when another is asked
    free += sum(memory_of(summaries[tag].size) for tag in loaded if tag in summaries)
    return [
        _facts(found, choice, summaries[choice.tag], versions.get(choice.tag), counts, loaded, free if here else None)
        for choice in found.found
        if choice.tag in summaries
    ]


def _facts(
    found: Models,
    choice: Choice,
    summary: ModelSummary,
    version: Version | None,
    counts: dict[tuple[str, int], int],
    loaded: set[str],
    free: int | None,
) -> ModelFacts:
    memory = memory_of(summary.size)
    learned = None
    if version:
        learned = Learned(
            counts.get((version.name, version.number), 0), version.base_tag, version.created[:10], version.verdict
        )
    fits = choice.tag in loaded or memory <= free if free is not None else None
    sizes = summary.size, summary.parameter_size, summary.quantization
    return ModelFacts(choice, found.title(choice.tag), *sizes, memory, choice.tag in loaded, fits, learned)


def memory_of(size: int) -> int:
    """Return the approximate memory, in bytes, of a loaded model with its context; `size`: bytes of its weights."""
    return round(_MORE * size) + _LEAST


def freed_by(engine: Engine, tag: str) -> int | None:
    """Return how many bytes of the disk removing a model frees: the size of its files that no other model needs.

    Return None if the engine cannot name the files, for example because it runs on another machine.
    """
    try:
        files = {model.tag: _files(engine, model.tag) for model in engine.list_models()}
        kept = {file for other, of_other in files.items() if other != tag for file in of_other}
        return _bytes(files.get(tag, set()) - kept)
    except (EngineError, OSError):
        return None


def _files(engine: Engine, tag: str) -> set[Path]:
    details = engine.show(tag)
    return {details.gguf, *([details.spec.adapter] if details.spec.adapter else [])}


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)
