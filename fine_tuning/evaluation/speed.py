"""Measure the speed of served models: of several for a comparison, and of one for forecasts.

Models to compare are timed alternately, so that other programs slow all of them equally.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from fine_tuning import measurements
from fine_tuning.durations import DecodingSpeed
from fine_tuning.engines.native import threads
from fine_tuning.evaluation.metrics import Interval, median_interval
from fine_tuning.evaluation.served_model import Ask, ServedModel

# Forecasts: how many answers are generated together, as in decoder.py, and of how many tokens; the tokens of
# the prompt that is read, or fewer where these would take more operations
_TOGETHER, _FEW = 16, 4
_PROMPT, _OPERATIONS = 64, 2e10
_TIMES = 3  # how often; the fastest counts, since other programs can only slow it down

_TOKENS = 12  # tokens per timed answer; few, so that other programs seldom interrupt it


@dataclass(frozen=True)
class Served:
    """The files of one served model."""

    name: str  # "base", "live", "candidate"
    gguf: Path
    adapter: Path | None = None

    def open(self, context: int) -> ServedModel:
        return ServedModel(self.gguf, self.adapter, context)


@dataclass(frozen=True)
class Speed:
    """The speed and size of one model.

    Times are the best of several rounds, since other programs can only make a model slower.
    """

    load: float  # seconds to load the model, measured once
    first_token: float  # seconds from the prompt to the first token
    tokens_per_second: float  # 1 / duration of the fastest token after the first
    memory: int  # growth of the process in bytes, for model and context
    size: int  # size of the files in bytes


@dataclass(frozen=True)
class Race:
    """The speed of each model by name, and the last model's speed relative to each other model."""

    speeds: dict[str, Speed] = field(default_factory=dict)
    ratios: dict[str, Interval] = field(default_factory=dict)
    """By the other model's name: the last model's tokens per second divided by those of the other.

    Above 1 the last model is faster. The value is the median over the rounds.
    """


@dataclass(frozen=True)
class _Lap:
    """How long a model took for the tokens of one answer."""

    first_token: float  # seconds
    token: float  # seconds of the fastest token after the first


def race(models: Sequence[Served], prompt: list[int], rounds: int, report: Callable[[int, int], None]) -> Race:
    """Time the last of `models` against each of the others.

    For each comparison both models are in memory, and answer `prompt` (token ids)
    alternately (A B B A), `rounds` times each. `report` is called with (rounds done, all rounds).
    Raises EngineError if llama.cpp fails.
    """
    candidate, others = models[-1], models[:-1]
    speeds: dict[str, Speed] = {}
    ratios: dict[str, Interval] = {}
    for place, other in enumerate(others):
        laps: dict[str, list[_Lap]] = {other.name: [], candidate.name: []}
        with _Loaded(other, prompt) as one, _Loaded(candidate, prompt) as two:
            for number in range(rounds):
                for each in (one, two) if number % 2 == 0 else (two, one):
                    laps[each.served.name].append(each.lap())
                report(place * rounds + number + 1, len(others) * rounds)
        speeds |= {each.served.name: each.speed(laps[each.served.name]) for each in (one, two)}
        ratios[other.name] = median_interval(
            [before.token / now.token for before, now in zip(laps[other.name], laps[candidate.name], strict=True)]
        )
    return Race(speeds, ratios)


class _Loaded:
    """A model in memory that is ready to be timed.

    It has already answered once, since the first answer reads all weights from disk.
    """

    def __init__(self, served: Served, prompt: list[int]) -> None:
        self.served, self._prompt = served, prompt

    def __enter__(self) -> "_Loaded":
        started = time.perf_counter()
        self._model = self.served.open(context=len(self._prompt) + _TOKENS + 1)
        self._load = time.perf_counter() - started
        self.lap()
        self._memory = self._model.memory
        return self

    def __exit__(self, *error: object) -> None:
        self._model.close()

    def lap(self) -> _Lap:
        started = time.perf_counter()
        (answer,) = self._model.answers([Ask(self._prompt, _TOKENS, endless=True)])
        return _Lap(answer.times[0] - started, _fastest(answer.times))

    def speed(self, laps: Sequence[_Lap]) -> Speed:
        return Speed(
            load=self._load,
            first_token=min(lap.first_token for lap in laps),
            tokens_per_second=1 / min(lap.token for lap in laps),
            memory=self._memory,
            size=sum(file.stat().st_size for file in (self.served.gguf, self.served.adapter) if file),
        )


def decoding_speed(gguf: Path, digest: str, parameters: int) -> DecodingSpeed:
    """Return the speed at which llama.cpp computes with a model, measured now or within the last day.

    Measuring takes about a second after loading. `digest` is the sha256 of the GGUF, `parameters`
    the number of its parameters. Raises EngineError if llama.cpp fails.
    """
    there = measurements.of_this_computer()
    key = " ".join(map(str, ("llama.cpp", version("llama-cpp-python"), threads(), digest, *there)))
    with suppress(TypeError, ValueError):
        known = DecodingSpeed(**(measurements.recall(key) or {}))
        if min(known.reading, known.together, known.alone) > 0:
            return known
    found = _measure(gguf, parameters)
    measurements.keep(key, asdict(found))
    return found


def _measure(gguf: Path, parameters: int) -> DecodingSpeed:
    size = max(_TOGETHER, min(_PROMPT, int(_OPERATIONS / (2 * parameters))))
    prompt = [index % 32 for index in range(size)]  # ids that every vocabulary has; their meaning takes no time
    reading, together, alone = [], [], []  # seconds
    with ServedModel(gguf) as model:
        list(model.answers([Ask(prompt[:1], 1, endless=True)]))  # reads all weights from the disk
        for _ in range(_TIMES):
            started = time.perf_counter()
            (one,) = model.answers([Ask(prompt, _FEW, endless=True)])
            several = list(model.answers([Ask(prompt[:1], _FEW, endless=True)] * _TOGETHER))
            reading.append(one.times[0] - started)
            alone.append(_fastest(one.times))
            together.append(_fastest(several[0].times))
    return DecodingSpeed(size / min(reading), _TOGETHER / min(together), 1 / min(alone))


def _fastest(times: Sequence[float]) -> float:
    """Return the seconds of the fastest token after the first."""
    return min(later - earlier for earlier, later in pairwise(times))
