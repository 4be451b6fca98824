"""Token F1: the overlap between the words of an answer and of its reference (SQuAD, arXiv 1606.05250).

The `evaluate` library loads this file by its path.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

# Scripts without spaces between words (Thai, Lao, Khmer, kana, Han) are split into characters, others into words.
_TOKEN = re.compile(
    r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|[^\W\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+"
)


class TokenF1(evaluate.Metric):
    """Mean F1 of the words' precision and recall over all answers, 0 to 100; case and punctuation are ignored."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="",
            inputs_description="predictions and references: texts",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str], **_: Any) -> dict[str, float]:
        scores = [_f1(answer, reference) for answer, reference in zip(predictions, references, strict=True)]
        return {"token_f1": 100 * sum(scores) / len(scores)}


def _f1(answer: str, reference: str) -> float:
    said, wanted = _tokens(answer), _tokens(reference)
    if not said or not wanted:
        return float(said == wanted)
    shared = (Counter(said) & Counter(wanted)).total()
    return 2 * shared / (len(said) + len(wanted))


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())
