"""Figures of quality, from log-probabilities and from texts."""

import math
from collections.abc import Sequence


def perplexity(logprobs: Sequence[float]) -> float:
    """exp of the mean negative log-probability (nats) of the supervised tokens; infinite where it overflows."""
    if not logprobs:
        raise ValueError("perplexity of no tokens")
    mean = -math.fsum(logprobs) / len(logprobs)
    return math.exp(mean) if mean < 700 else math.inf


def bleu(answers: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU, 0 to 100 (Papineni et al. 2002, as sacrebleu computes it: Post 2018)."""
    from sacrebleu import corpus_bleu

    return float(corpus_bleu(list(answers), [list(references)]).score)


def rouge(answers: Sequence[str], references: Sequence[str]) -> float:
    """Mean ROUGE-L F1, 0 to 100 (Lin 2004)."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    scores = [scorer.score(reference, answer)["rougeL"].fmeasure for answer, reference in zip(answers, references, strict=True)]
    return 100 * math.fsum(scores) / len(scores)
