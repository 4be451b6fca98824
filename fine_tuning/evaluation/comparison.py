"""Base and fine-tuned side by side."""

from dataclasses import asdict, dataclass
from typing import Any

from fine_tuning.evaluation.evaluator import Answered, Evaluation

LOWER_IS_BETTER = frozenset({"perplexity"})


@dataclass(frozen=True)
class Score:
    metric: str
    base: float
    tuned: float

    @property
    def better(self) -> bool:
        return self.tuned < self.base if self.metric in LOWER_IS_BETTER else self.tuned > self.base


@dataclass(frozen=True)
class Comparison:
    base: Evaluation
    tuned: Evaluation

    def scores(self) -> list[Score]:
        return [Score(name, value, self.tuned.scores[name]) for name, value in self.base.scores.items() if name in self.tuned.scores]

    def answers(self) -> list[tuple[Answered, Answered]]:
        """Base and fine-tuned answers to the same prompts."""
        return list(zip(self.base.answers, self.tuned.answers, strict=True))

    def record(self) -> dict[str, Any]:
        """As evaluation.json holds it."""
        return {"base": asdict(self.base), "tuned": asdict(self.tuned)}
