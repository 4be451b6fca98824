"""Compute metrics from log-probabilities and texts, and their confidence intervals."""

import contextlib
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from fine_tuning.errors import DataError

RESAMPLES = 2000  # number of random resamples of a bootstrap or randomisation test
_LEVEL = 95.0  # per cent that a confidence interval covers
_NORMAL = 1.960  # quantile of the normal distribution that leaves 2.5 % on each side
# the same quantile of Student's t, for 1, 2, 3, ... degrees of freedom
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

# Metrics from log-probabilities; `TEXTS` lists metrics from answers and references. Any other name
# is an id of the `evaluate` library.
LIKELIHOODS = ("perplexity", "accuracy")
_SHIPPED = Path(__file__).with_name("evaluate_metrics")
_ID = re.compile(r"\w+")


def perplexity(logprobs: Sequence[float]) -> float:
    """Return the exponential of the tokens' mean negative log-probability (nats).

    Return infinity if it overflows. Raises ValueError if there are no tokens.
    """
    if not logprobs:
        raise ValueError("perplexity of no tokens")
    return _exp(-math.fsum(logprobs) / len(logprobs))


def bleu(answers: Sequence[str], references: Sequence[str]) -> float:
    """Return corpus BLEU, 0 to 100 (Papineni et al. 2002), computed by sacrebleu (Post 2018)."""
    from sacrebleu import corpus_bleu

    return float(corpus_bleu(list(answers), [list(references)]).score)


def chrf(answers: Sequence[str], references: Sequence[str]) -> float:
    """Return corpus chrF, 0 to 100 (Popović 2015), computed by sacrebleu.

    The metric compares sequences of characters, so it also suits languages without spaces.
    """
    from sacrebleu import corpus_chrf

    return float(corpus_chrf(list(answers), [list(references)]).score)


def rouge(answers: Sequence[str], references: Sequence[str]) -> float:
    """Return the answers' mean ROUGE-L F1, 0 to 100 (Lin 2004), computed by rouge-score."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    scores = [
        scorer.score(reference, answer)["rougeL"].fmeasure
        for answer, reference in zip(answers, references, strict=True)
    ]
    return 100 * math.fsum(scores) / len(scores)


def library(name: str, answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Compute the metric `name` with the `evaluate` library; return its numeric results.

    A result that the library calls `name` keeps this key; any other result `key` becomes
    "name.key". A metric in evaluate_metrics/ is loaded from there; any other comes from the
    library's cache, or from the network the first time. Raises DataError if the metric cannot be
    loaded or computed.
    """
    shipped = _SHIPPED / name
    with _without_pipelines():
        import evaluate
    try:
        # Keep data in memory, or the library would write answers and references to the user's cache.
        metric = evaluate.load(str(shipped) if shipped.is_dir() and _ID.fullmatch(name) else name, keep_in_memory=True)
        found = metric.compute(predictions=list(answers), references=list(references))
    except (OSError, ImportError, ValueError, TypeError, LookupError) as error:
        raise DataError(
            f"the metric {name!r} was left out, because the `evaluate` library cannot load or compute it ({error}). "
            "Install what it needs, or remove it from evaluation.metrics"
        ) from error
    figures = {key: float(value) for key, value in (found or {}).items() if isinstance(value, int | float)}
    return {name if key == name else f"{name}.{key}": value for key, value in figures.items()}


@contextlib.contextmanager
def _without_pipelines() -> Iterator[None]:
    """Make `import transformers.pipelines` fail with ImportError inside the `with` block.

    The `evaluate` library tries this import for its evaluators, which byoai does not use. The
    import would load torch, which takes seconds; without it the library's metrics still work.
    """
    name = "transformers.pipelines"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # None makes Python raise ImportError
    try:
        yield
    finally:
        del sys.modules[name]


TEXTS: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {"bleu": bleu, "chrf": chrf, "rouge": rouge}


# Confidence


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return format(self, "")

    def __format__(self, form: str) -> str:
        form = form or ".3g"
        if math.isinf(self.low):
            return f"{self.value:{form}} [too few to tell]"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def perplexity_ratio(new: Sequence[float], old: Sequence[float], tokens: Sequence[int], seed: int = 0) -> Interval:
    """Return the new model's perplexity divided by the old model's, with its confidence interval.

    Below 1 the new model is better. `new` and `old` are the log-probabilities (nats) of the same
    conversations, `tokens` their numbers of supervised tokens. The comparison is paired, so a
    conversation that is hard for both models favours neither. Raises ValueError if there are no
    conversations.
    """
    gain = _ratio_interval(np.subtract(old, new), np.asarray(tokens, np.float64), seed)
    return Interval(_exp(gain.value), _exp(gain.low), _exp(gain.high))


def chance_of_mean(values: Sequence[float], seed: int = 0) -> float:
    """Return the p-value of the hypothesis that the values are symmetric around 0, against a mean above 0.

    This is Fisher's randomisation test (1935): the share of RESAMPLES random choices of the values'
    signs that give a mean at least as high. It assumes no particular distribution, so it is also
    valid for few values.
    """
    parts = np.asarray(values, np.float64)
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (RESAMPLES, len(parts)))
    as_high = np.count_nonzero(signs @ parts >= parts.sum() - 1e-12)
    return (int(as_high) + 1) / (RESAMPLES + 1)


def median_interval(values: Sequence[float]) -> Interval:
    """Return the median of `values` with its confidence interval.

    The bounds are values of the sample (sign test), so no particular distribution is assumed. With
    fewer than six values no such interval reaches 95 %, and the bounds are infinite.
    Raises statistics.StatisticsError if there are no values.
    """
    ordered = sorted(values)
    count = len(ordered)
    below = 0  # number of values on either side that the interval leaves out
    while 100 * 2 * sum(math.comb(count, each) for each in range(below + 1)) / 2**count <= 100 - _LEVEL:
        below += 1
    if not below:
        return Interval(median(ordered), -math.inf, math.inf)
    return Interval(median(ordered), ordered[below - 1], ordered[-below])


def share_interval(count: int, total: int) -> Interval:
    """Return count / total with its confidence interval (Wilson 1927). `total` must not be 0."""
    share, spread = count / total, _NORMAL**2 / total
    middle = (share + spread / 2) / (1 + spread)
    reach = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return Interval(share, max(middle - reach, 0.0), min(middle + reach, 1.0))


def _ratio_interval(parts: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], seed: int) -> Interval:
    """Return sum(parts) / sum(sizes) with a confidence interval.

    It is the smallest interval that contains both the bootstrap interval (Efron 1979; Koehn 2004)
    and the Student's t interval. For few values the bootstrap interval is too narrow, which the t
    interval corrects. For many values both agree, and the bootstrap interval also reflects the skew
    of the values. For a single value the bounds are infinite.
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
    """Return the 97.5 % quantile of Student's t with `freedom` degrees of freedom.

    From ten on it is approximated by an expansion in 1 / freedom (Cornish and Fisher 1938).
    """
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    return _NORMAL + (_NORMAL**3 + _NORMAL) / (4 * freedom)


def _resamples(count: int, seed: int) -> npt.NDArray[np.int64]:
    if not count:
        raise ValueError("there are no values from which to compute a confidence interval")
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def _bounds(spread: npt.NDArray[np.float64]) -> tuple[float, float]:
    edge = (100 - _LEVEL) / 2
    low, high = np.percentile(spread, [edge, 100 - edge])
    return float(low), float(high)


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
