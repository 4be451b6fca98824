"""What a smaller model costs: size, speed and perplexity of several quantisations of one model, each
measured beside the model as it is served now.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fine_tuning.evaluation import metrics
from fine_tuning.evaluation.metrics import Interval, perplexity_ratio
from fine_tuning.evaluation.served_model import RowScore
from fine_tuning.evaluation.speed import Served, race
from fine_tuning.token_rows import ScoredRow

TOLERATED = 1.01  # perplexity, as a multiple of that of the model as it is now
_PROMPT = 256  # tokens of the prompt that is timed, at most


@dataclass(frozen=True)
class Measured:
    """One quantisation, beside the model as it is served now."""

    name: str
    size: int  # bytes
    prompt_speed: float  # tokens of a prompt that are read in a second
    speed: float  # tokens that are answered in a second
    faster: float  # that, as a multiple of the speed now, from answers that were given in turns
    perplexity: float  # of all held-out texts
    worse: Interval  # that, as a multiple of the perplexity now


class Scale:
    """Measures models on the same texts, each against `now`."""

    def __init__(self, now: Served, rows: Sequence[ScoredRow], rounds: int, report: Callable[[int, int], None]) -> None:
        """`rows`: token rows with supervised tokens. `rounds`: timed answers of each model."""
        self._now, self._rows, self._rounds, self._report = now, list(rows), rounds, report
        self._prompt = [token for ids, _ in self._rows for token in ids][:_PROMPT]
        self._scores = self._score(now)

    def weigh(self, made: Served) -> tuple[Measured, Measured]:
        """Return what the model as it is now, and this one, measure: timed in turns (A B B A)."""
        scores = self._score(made)
        timed = race([self._now, made], self._prompt, self._rounds, self._report)

        def measured(served: Served, its: list[RowScore], faster: float) -> Measured:
            speed = timed.speeds[served.name]
            return Measured(
                name=served.name,
                size=speed.size,
                prompt_speed=len(self._prompt) / speed.first_token,
                speed=speed.tokens_per_second,
                faster=faster,
                perplexity=_perplexity(its),
                worse=perplexity_ratio(
                    [score.logprob for score in its],
                    [score.logprob for score in self._scores],
                    [score.tokens for score in its],
                ),
            )

        return measured(self._now, self._scores, 1.0), measured(made, scores, timed.ratios[self._now.name].value)

    def _score(self, served: Served) -> list[RowScore]:
        with served.open(max(len(ids) for ids, _ in self._rows)) as model:
            return list(model.scores(self._rows))


def recommend(table: Sequence[Measured]) -> tuple[str, str]:
    """Return the name of the smallest model that is about as good as the first, and why in a sentence."""
    now = table[0]
    good = [each for each in table if each.worse.value <= TOLERATED]
    best = min(good, key=lambda each: each.size)
    within = f"within {TOLERATED - 1:.0%} of the perplexity now"
    if best is now:
        return now.name, f"Keep it as it is: nothing smaller stays {within}."
    change = best.worse.value - 1
    return best.name, (
        f"{best.name}: the smallest that stays {within} ({change:+.1%}), with {best.size / now.size:.0%} of the size "
        f"and {best.faster:.0%} of the speed."
    )


def _perplexity(scores: Sequence[RowScore]) -> float:
    tokens = sum(score.tokens for score in scores)
    return metrics.perplexity([sum(score.logprob for score in scores) / tokens])
