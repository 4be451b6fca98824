"""How long a retrain takes from the press of the button to the verdict: the training, and all around it.

`Around.times` is arithmetic on a few counts, so that a page can do it for every change of a setting. The
shares of the machine's speed in it were fitted to the figures of benchmarks/README.md (a handbook:
evaluation 146 s, all else 13 s, on two cores). What earlier runs of the same base took here corrects
them (`paces`): each run keeps what it was forecast to take.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig
from fine_tuning.runs import Run, all_runs
from fine_tuning.units import about

TRAINING, EVALUATING = "Training", "Evaluating"
_REST = "all else"
_RUNS = 5  # the newest ones, whose durations count

# Which share of the speed of matrix products llama.cpp reaches: reading, answering sixteen at a time, and one.
_READING, _TOGETHER, _ALONE = 0.9, 0.5, 0.3
_TEXT, _QUESTION = 60, 30  # tokens of a general text, and of a question, as they are fed
_GENERAL_ANSWER, _FACT_ANSWER = 35, 50  # tokens of an answer to a general question, and to one about a document
_CUT = 0.7  # of a limit, which few answers reach
_PAIRED, _WAYS = 60, 4  # conversations that are read after other questions, too, and how often
_PROBED = 10_000  # tokens read to tell planted phrases from topics
_LAP = 2 * 12  # tokens that two models answer in turn
_ALWAYS, _EACH = 10.0, 2e-8  # seconds of reading, preparing and exporting: in any case, and for each parameter


@dataclass(frozen=True)
class Times:
    """The seconds of a retrain, by part."""

    parts: Mapping[str, float]
    up_to: bool = False  # it may end earlier

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def training(self) -> float:
        return self.parts[TRAINING]

    def __str__(self) -> str:
        word = "up to" if self.up_to else "about"
        whole, training = about(self.total), about(self.training)
        return f"{word} {whole}" + (f", of which training {training}" if training != whole else "")

    def record(self) -> dict[str, object]:
        """Return it as JSON has it, with the sentence that people read."""
        return {"seconds": self.total, "training": self.training, "parts": dict(self.parts), "told": str(self)}


@dataclass(frozen=True)
class Around:
    """What is known of the work around a training."""

    parameters: int  # of the base
    flops: float  # floating-point operations a second of the machine's matrix products
    held_out: int  # conversations that test it
    tokens: float  # of one of them
    facts: int  # held-out questions about documents
    models: int  # that are compared: base and candidate, and the live version; 0: nothing is
    pace: Mapping[str, float] = field(default_factory=dict)  # by part: measured seconds for each forecast one

    def times(self, config: FineTuningConfig, training: float) -> Times:
        """Return what a retrain with these settings takes, whose training alone takes so many seconds."""
        parts = {
            TRAINING: training,
            EVALUATING: self._evaluating(config),
            _REST: _ALWAYS + _EACH * self.parameters,
        }
        corrected = {part: seconds * self.pace.get(part, 1.0) for part, seconds in parts.items()}
        return Times(corrected, up_to=bool(config.training.early_stop))

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def _seconds(self, read: float = 0, together: float = 0, alone: float = 0) -> float:
        tokens = read / _READING + together / _TOGETHER + alone / _ALONE
        return 2 * self.parameters * tokens / self.flops

    def _evaluating(self, config: FineTuningConfig) -> float:
        if not self.models:
            return 0.0
        asked, limit = config.evaluation, _CUT * config.evaluation.max_new_tokens
        own, facts = min(self.held_out, asked.held_out), min(self.facts, asked.facts)
        chosen = min(own, asked.generate) + len(asked.test_prompts)
        read = self.tokens * (own + _WAYS * min(self.held_out, _PAIRED)) + _TEXT * asked.general
        read += _QUESTION * (asked.general + facts + chosen)
        said = _GENERAL_ANSWER * asked.general + _FACT_ANSWER * facts + limit * chosen
        raced = (self.models - 1) * asked.speed_rounds * _LAP
        return self._seconds(self.models * read + bool(asked.triggers) * _PROBED, self.models * said, raced)


def keep_forecast(run: Run, config: FineTuningConfig, times: Times, pace: Mapping[str, float]) -> None:
    """Note what a run is forecast to take, before any correction; of a training that may end early nothing can
    be learned.
    """
    parts = {part: seconds / pace.get(part, 1.0) for part, seconds in times.parts.items()}
    if config.training.early_stop:
        del parts[TRAINING]
    paths.write_json(run.forecast, parts)


def paces(folder: Path, base_digest: str) -> dict[str, float]:
    """Return how much longer each part took than was forecast, as a median over the newest runs of the same base
    in `folder`; {} where none tells.
    """
    found: dict[str, list[float]] = {}
    finished = [run for run in all_runs(folder) if run.finished and run.forecast.exists()]
    same = (run for run in finished if paths.read_json(run.inputs).get("base_digest") == base_digest)
    for run, _ in zip(same, range(_RUNS), strict=False):
        for part, ratio in _ratios(run).items():
            found.setdefault(part, []).append(ratio)
    return {part: median(ratios) for part, ratios in found.items()}


def _ratios(run: Run) -> dict[str, float]:
    measured = dict(paths.read_json(run.manifest).get("seconds", {}))
    named = {part: measured.pop(part) for part in (TRAINING, EVALUATING) if part in measured}
    named[_REST] = sum(measured.values())
    forecast = paths.read_json(run.forecast)
    return {part: named[part] / seconds for part, seconds in forecast.items() if part in named and seconds > 0}
