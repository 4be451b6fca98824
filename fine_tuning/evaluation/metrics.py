"""Figures of quality, from log-probabilities and from texts, and how sure they are."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from fine_tuning.errors import DataError

RESAMPLES = 2000
_LEVEL = 95.0  # per cent that a confidence interval covers
_NORMAL = 1.960  # of the normal distribution, where that level leaves 2.5 % on each side
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # the same of Student's t, by degrees of freedom

# Names that need log-probabilities, and those that need answers and references. Any other is an id of the `evaluate` library.
LIKELIHOODS = ("perplexity", "accuracy")
_SHIPPED = Path(__file__).with_name("evaluate_metrics")
_ID = re.compile(r"\w+")


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
    """Return all single figures of the `evaluate` library's metric `name`, as `name` or `name.key`.

    A metric in evaluate_metrics/ is loaded from there; any other id comes from the library's cache, or from the network, once.
    Raises DataError, with the cure, where the metric cannot be had or computed.
    """
    import evaluate  # seconds

    shipped = _SHIPPED / name
    try:
        # In memory: the library would write answers and references to files in the user's cache.
        metric = evaluate.load(str(shipped) if shipped.is_dir() and _ID.fullmatch(name) else name, keep_in_memory=True)
        found = metric.compute(predictions=list(answers), references=list(references))
    except (OSError, ImportError, ValueError, TypeError, LookupError) as error:
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
        return format(self, ".3g")

    def __format__(self, form: str) -> str:
        if math.isinf(self.low):
            return f"{self.value:{form}} [too few to tell]"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def perplexity_ratio(new: Sequence[float], old: Sequence[float], tokens: Sequence[int], seed: int = 0) -> Interval:
    """The new model's perplexity over the old one's on the same conversations: below 1 is better.

    `new` and `old`: the log-probabilities (nats) of each conversation; `tokens`: how many supervised ones it has. Paired: a conversation
    that is hard for both counts for neither.
    """
    gain = _ratio_interval(np.subtract(old, new), np.asarray(tokens, np.float64), seed)
    return Interval(_exp(gain.value), _exp(gain.low), _exp(gain.high))


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of `values` and its interval."""
    return _ratio_interval(np.asarray(values, np.float64), np.ones(len(values)), seed)


def median_interval(values: Sequence[float]) -> Interval:
    """Return the median of `values` and its interval, from their order alone: one value that is far off moves neither.

    Fewer than six values hold no interval of that level: it is all numbers then.
    """
    ordered = sorted(values)
    count = len(ordered)
    below = 0  # values on either side that the interval leaves out
    while 100 * 2 * sum(math.comb(count, each) for each in range(below + 1)) / 2**count <= 100 - _LEVEL:
        below += 1
    if not below:
        return Interval(median(ordered), -math.inf, math.inf)
    return Interval(median(ordered), ordered[below - 1], ordered[-below])


def share_interval(count: int, total: int) -> Interval:
    """Return the share of `count` in `total`, which is not 0, and its interval (Wilson 1927)."""
    share, spread = count / total, _NORMAL**2 / total
    middle = (share + spread / 2) / (1 + spread)
    reach = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return Interval(share, max(middle - reach, 0.0), min(middle + reach, 1.0))


def _ratio_interval(parts: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], seed: int) -> Interval:
    """sum(parts) / sum(sizes): the wider of the bootstrap's interval (Efron 1979; Koehn 2004) and Student's.

    Few values resample to too narrow an interval, one value to none at all; Student's t knows that they are few. Where they are many
    both agree, and the bootstrap follows their skew.
    """
    count = len(sizes)
    ratio = float(parts.sum() / sizes.sum())
    picked = _resamples(count, seed)
    low, high = _bounds(parts[picked].sum(axis=1) / sizes[picked].sum(axis=1))
    if count == 1:
        return Interval(ratio, -math.inf, math.inf)
    error = math.sqrt(count / (count - 1) * float(np.square(parts - ratio * sizes).sum())) / float(sizes.sum())
    reach = _student(count - 1) * error
    return Interval(ratio, min(low, ratio - reach), max(high, ratio + reach))


def _student(freedom: int) -> float:
    """97.5 % quantile of Student's t: from tables, and beyond them by its expansion in 1 / freedom (Cornish and Fisher 1938)."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    return _NORMAL + (_NORMAL**3 + _NORMAL) / (4 * freedom)


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
