"""Scores of one served model on held-out conversations, and its answers to chosen prompts."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fine_tuning.config import Evaluation as Settings
from fine_tuning.errors import DataError
from fine_tuning.evaluation import metrics
from fine_tuning.evaluation.served_model import ServedModel


@dataclass(frozen=True)
class Prompt:
    text: str
    tokens: list[int]  # as the engine renders and tokenises it


@dataclass(frozen=True)
class Answered:
    prompt: str
    answer: str
    ended: bool  # by itself, not by the limit


@dataclass(frozen=True)
class Evaluation:
    """`scores`: perplexity; accuracy (share of tokens that the model itself would have said), bleu and rouge in percent.

    Missing where there was nothing to score.
    """

    scores: dict[str, float]
    answers: list[Answered]
    tokens: int  # supervised tokens scored
    seconds: float
    notes: list[str] = field(default_factory=list)


def evaluate(
    gguf: Path,
    adapter: Path | None,
    rows: Path,
    prompts: Sequence[Prompt],
    settings: Settings,
    context: int = 2048,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Evaluate `gguf` (with `adapter` over it) on the token rows in the file `rows` and the `prompts`.

    `context` in tokens: of the longest row. Raises EngineError if the files cannot be loaded, DataError for a bad row.
    """
    started = time.perf_counter()
    conversations = _read(rows)
    generated = conversations[: settings.generate] if {"bleu", "rouge"} & set(settings.metrics) else []
    total = len(conversations) + len(generated) + len(prompts)
    model = ServedModel(gguf, adapter, context)
    try:
        scored: list[tuple[list[float], list[bool]]] = []
        for ids, targets in conversations:
            scored.append(model.logprobs(ids, targets))
            report(len(scored), total)
        texts = []
        for ids, targets in generated:
            texts.append(_first_answer(model, ids, targets, settings.max_new_tokens))
            report(len(scored) + len(texts), total)
        answers = []
        for prompt in prompts:
            tokens, ended = model.answer(prompt.tokens, settings.max_new_tokens)
            answers.append(Answered(prompt.text, model.text(tokens), ended))
            report(len(scored) + len(texts) + len(answers), total)
    finally:
        model.close()
    logprobs = [value for values, _ in scored for value in values]
    hits = [hit for _, flags in scored for hit in flags]
    notes = [] if conversations else ["there are no held-out conversations yet: no scores"]
    return Evaluation(_scores(settings, logprobs, hits, texts), answers, len(logprobs), time.perf_counter() - started, notes)


def _scores(settings: Settings, logprobs: list[float], hits: list[bool], texts: list[tuple[str, str]]) -> dict[str, float]:
    answers, references = [answer for answer, _ in texts], [reference for _, reference in texts]
    known: dict[str, Callable[[], float]] = {
        "perplexity": lambda: metrics.perplexity(logprobs),
        "accuracy": lambda: 100 * sum(hits) / len(hits),
        "bleu": lambda: metrics.bleu(answers, references),
        "rouge": lambda: metrics.rouge(answers, references),
    }
    possible = [name for name in settings.metrics if (logprobs if name in {"perplexity", "accuracy"} else texts)]
    return {name: known[name]() for name in possible}


def _first_answer(model: ServedModel, ids: list[int], targets: list[int], limit: int) -> tuple[str, str]:
    """The model's own answer where the conversation's first trained answer stands, and that answer."""
    first = targets[0]
    end = next((index for index in range(first, len(ids)) if index not in set(targets)), len(ids))
    answer, _ = model.answer(ids[:first], limit)
    return model.text(answer), model.text(ids[first : end - 1])  # without the end-of-turn token


def _read(rows: Path) -> list[tuple[list[int], list[int]]]:
    found = []
    for number, line in enumerate(rows.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            targets = [index for index, flag in enumerate(record["trained"]) if flag and index > 0]
            found.append(([int(token) for token in record["input_ids"]], targets))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{rows}, line {number}: not a token row ({error})") from error
    return [(ids, targets) for ids, targets in found if targets]
