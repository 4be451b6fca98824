"""Speed and weight of served models, measured in turns, so that whatever else the machine does hits all of them alike."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fine_tuning.evaluation.served_model import Ask, ServedModel

_TOKENS = 24  # of the answer that is timed


@dataclass(frozen=True)
class Served:
    """The files of one model: what the engine serves."""

    name: str  # "base", "live", "candidate"
    gguf: Path
    adapter: Path | None = None

    def open(self, context: int) -> ServedModel:
        return ServedModel(self.gguf, self.adapter, context)


@dataclass(frozen=True)
class Speed:
    """The best of several rounds: other programs only ever make it slower."""

    load: float  # seconds
    first_token: float  # seconds from the prompt to the first token
    tokens_per_second: float  # of the answer after that, at its fastest token
    memory: int  # bytes that its process grew by, model and context
    size: int  # bytes of the files


def race(models: Sequence[Served], prompt: list[int], rounds: int, report: Callable[[int, int], None]) -> dict[str, Speed]:
    """Load each model and time an answer to `prompt`, `rounds` times in turn; by name."""
    laps: dict[str, list[Speed]] = {model.name: [] for model in models}
    for number in range(rounds):
        for place, model in enumerate(models, 1):
            laps[model.name].append(_lap(model, prompt))
            report(number * len(models) + place, rounds * len(models))
    return {name: best(found) for name, found in laps.items()}


def best(laps: Sequence[Speed]) -> Speed:
    return Speed(
        load=min(lap.load for lap in laps),
        first_token=min(lap.first_token for lap in laps),
        tokens_per_second=max(lap.tokens_per_second for lap in laps),
        memory=max(lap.memory for lap in laps),
        size=laps[0].size,
    )


def _lap(served: Served, prompt: list[int]) -> Speed:
    started = time.perf_counter()
    with served.open(context=len(prompt) + _TOKENS + 1) as model:
        loaded = time.perf_counter()
        (answer,) = model.answers([Ask(prompt, _TOKENS, endless=True)])
        memory = model.memory
    size = sum(file.stat().st_size for file in (served.gguf, served.adapter) if file)
    token = min(later - earlier for earlier, later in pairwise(answer.times))  # tokens take alike; others use the machine too
    return Speed(loaded - started, answer.times[0] - loaded, 1 / token, memory, size)
