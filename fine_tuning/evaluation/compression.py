"""Measure quantisations of a model: their size, speed and perplexity, compared with the model served now."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fine_tuning.evaluation import metrics
from fine_tuning.evaluation.metrics import Interval, perplexity_ratio
from fine_tuning.evaluation.served_model import RowScore
from fine_tuning.evaluation.speed import Served, race
from fine_tuning.token_rows import ScoredRow

TOLERATED = 1.01  # tolerated perplexity, as a multiple of the current model's
_PROMPT = 256  # maximum number of tokens of the timed prompt


@dataclass(frozen=True)
class Measured:
    """The measurements of one quantisation, compared with the model served now (the current model)."""

    name: str
    size: int  # of the files, in bytes
    prompt_speed: float  # prompt tokens processed per second
    speed: float  # answer tokens generated per second
    faster: float  # `speed` as a multiple of the current model's, from answers generated alternately
    perplexity: float  # on all held-out texts
    worse: Interval  # `perplexity` as a multiple of the current model's: above 1 is worse


class Scale:
    """Measures quantisations on the same texts, each compared with the current model (the one served now)."""

    def __init__(self, now: Served, rows: Sequence[ScoredRow], rounds: int, report: Callable[[int, int], None]) -> None:
        """Load the current model and score it on the texts.

        Args:
            now: The current model.
            rows: The texts as token rows with supervised tokens.
            rounds: The number of timed answers per model.
            report: Called with (rounds done, all rounds) while models are timed.

        Raises EngineError if llama.cpp fails.
        """
        self._now, self._rows, self._rounds, self._report = now, list(rows), rounds, report
        self._prompt = [token for ids, _ in self._rows for token in ids][:_PROMPT]
        self._scores = self._score(now)

    def weigh(self, made: Served) -> tuple[Measured, Measured]:
        """Return the measurements of the current model and of the quantisation `made`.

        Both are timed alternately (A B B A), so that other programs slow both equally. Raises
        EngineError if llama.cpp fails.
        """
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
    """Return the name of the recommended model, and the reason in a sentence.

    `table` begins with the current model. The smallest model is recommended whose perplexity is at
    most TOLERATED times the current model's.
    """
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
