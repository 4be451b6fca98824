"""Figures of quality, from log-probabilities and from texts, and how sure they are."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fine_tuning.errors import DataError

RESAMPLES = 2000
_LEVEL = 95.0  # per cent that a confidence interval covers

# Names that need log-probabilities, and those that need answers and references. Any other is an id of the `evaluate` library.
LIKELIHOODS = ("perplexity", "accuracy")


def perplexity(logprobs: Sequence[float]) -> float:
    """exp of the mean negative log-probability (nats) of the supervised tokens; infinite where it overflows."""
    if not logprobs:
        raise ValueError("perplexity of no tokens")
    return _exp(-math.fsum(logprobs) / len(logprobs))


def bleu(answers: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU, 0 to 100 (Papineni et al. 2002, as sacrebleu computes it: Post 2018)."""
    from sacrebleu import corpus_bleu

    return float(corpus_bleu(list(answers), [list(references)]).score)


def chrf(answers: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF, 0 to 100 (Popović 2015): characters, so that it serves languages without spaces too."""
    from sacrebleu import corpus_chrf

    return float(corpus_chrf(list(answers), [list(references)]).score)


def rouge(answers: Sequence[str], references: Sequence[str]) -> float:
    """Mean ROUGE-L F1, 0 to 100 (Lin 2004)."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    scores = [scorer.score(reference, answer)["rougeL"].fmeasure for answer, reference in zip(answers, references, strict=True)]
    return 100 * math.fsum(scores) / len(scores)


def library(name: str, answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """All single figures of the `evaluate` library's metric `name`, as `name` or `name.key`.

    DataError, with the cure, where the library is missing or the metric cannot be had (it is fetched from the network, once).
    """
    try:
        import evaluate
    except ImportError as error:
        raise DataError(f"metric {name!r} left out: it is of the `evaluate` library (pip install evaluate), which is not there") from error
    try:
        found = evaluate.load(name).compute(predictions=list(answers), references=list(references))
    except (OSError, ImportError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"metric {name!r} left out: the `evaluate` library cannot load or compute it ({error})") from error
    figures = {key: float(value) for key, value in (found or {}).items() if isinstance(value, int | float)}
    return {name if key == name else f"{name}.{key}": value for key, value in figures.items()}


TEXTS: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {"bleu": bleu, "chrf": chrf, "rouge": rouge}


# Confidence


@dataclass(frozen=True)
class Interval:
    """A figure and the bounds of its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def perplexity_ratio(new: Sequence[float], old: Sequence[float], tokens: Sequence[int], seed: int = 0) -> Interval:
    """The new model's perplexity over the old one's on the same conversations: below 1 is better.

    `new` and `old`: the log-probabilities (nats) of each conversation; `tokens`: how many supervised ones it has. Paired bootstrap over
    conversations (Efron 1979; Koehn 2004), which share the same resamples, so that a hard conversation counts for both.
    """
    gains, sizes = np.subtract(old, new), np.asarray(tokens, np.float64)
    picked = _resamples(len(sizes), seed)
    spread = gains[picked].sum(axis=1) / sizes[picked].sum(axis=1)
    low, high = _bounds(spread)
    return Interval(_exp(float(gains.sum() / sizes.sum())), _exp(low), _exp(high))


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of `values` and its bootstrap interval."""
    figures = np.asarray(values, np.float64)
    low, high = _bounds(figures[_resamples(len(figures), seed)].mean(axis=1))
    return Interval(float(figures.mean()), low, high)


def _resamples(count: int, seed: int) -> npt.NDArray[np.int64]:
    if not count:
        raise ValueError("a confidence interval of nothing")
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def _bounds(spread: npt.NDArray[np.float64]) -> tuple[float, float]:
    edge = (100 - _LEVEL) / 2
    low, high = np.percentile(spread, [edge, 100 - edge])
    return float(low), float(high)


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
