"""Evaluate one served model on the test set: the likelihood of held-out answers, and the model's own answers."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from fine_tuning.config import Evaluation as Settings
from fine_tuning.data_collection.cleaning.text_quality import is_repetitive
from fine_tuning.errors import DataError
from fine_tuning.evaluation import metrics
from fine_tuning.evaluation.served_model import Ask, RowScore, ServedModel
from fine_tuning.evaluation.test_set import EvaluationSet, Pair, Question
from fine_tuning.token_rows import ScoredRow

_QUESTION_LIMIT = 48  # maximum tokens of an answer to a general question
FACT_LIMIT = 80  # the same for questions about documents, whose answers are whole sentences
_Item = TypeVar("_Item")
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Answered:
    prompt: str
    answer: str
    ended: bool  # whether the model ended the answer before the token limit
    control: bool = False  # whether the answer contains a control token

    @property
    def fault(self) -> str:
        """The fault in the answer's form, whatever the question was; "" if there is none.

        One of "control token", "empty", "repeated", and "endless" (cut off at the token limit).
        """
        if self.control:
            return "control token"
        if not self.answer.strip():
            return "empty"
        if is_repetitive(self.answer):
            return "repeated"
        return "" if self.ended else "endless"


@dataclass(frozen=True)
class Recalled:
    """An answer to a held-out question about a document."""

    prompt: str
    key: str  # the text that a correct answer contains
    answer: str
    right: bool  # whether the answer contains the key


@dataclass(frozen=True)
class Evaluation:
    """The scores and answers of one model on the test set.

    `scores` maps metrics to values: the configured metrics of held-out conversations (perplexity;
    accuracy, the percentage of tokens that the model ranks first; bleu, chrf, rouge and token_f1,
    each from 0 to 100), and general_perplexity, of general texts. A metric that could not be
    computed is missing. All lists are in the test set's order, so item i of two models' lists
    belongs to the same text.
    """

    scores: dict[str, float]
    answers: list[Answered]  # to the configured prompts
    own: list[RowScore]  # of held-out conversations
    general: list[RowScore]  # of general texts
    fits: list[float]  # how much more likely (nats per token) an answer is after its own question than after others
    right: list[bool]  # whether each general question was answered correctly
    said: list[Answered]  # all answers: to prompts, general questions and held-out questions
    tokens: int  # number of scored supervised tokens of held-out conversations
    seconds: float  # duration of the evaluation
    notes: list[str] = field(default_factory=list)  # why metrics are missing, for the user
    facts: list[Recalled] = field(default_factory=list)  # answers to questions about imported documents

    def faults(self) -> dict[str, int]:
        """Return how many answers have each fault (`Answered.fault`); faults that no answer has are left out."""
        found = [answered.fault for answered in self.said]
        return {fault: found.count(fault) for fault in dict.fromkeys(found) if fault}


def evaluate(
    model: ServedModel, test_set: EvaluationSet, settings: Settings, report: Report = lambda done, total: None
) -> Evaluation:
    """Evaluate `model` on the test set, and call `report` with (items done, all items) after each item.

    Raises EngineError if llama.cpp fails.
    """
    started = time.perf_counter()
    references = test_set.own[: settings.generate] if set(settings.metrics) - set(metrics.LIKELIHOODS) else []
    pairs = [row for own, others in test_set.paired for row in [own, *others]]
    total = (
        len(test_set.own)
        + len(pairs)
        + len(test_set.general)
        + len(test_set.prompts)
        + len(test_set.questions)
        + len(references)
        + len(test_set.facts)
    )
    count = _Counter(total, report)

    scores = _scores(model, [*test_set.own, *test_set.general, *pairs], count)
    own, general = scores[: len(test_set.own)], scores[len(test_set.own) : len(test_set.own) + len(test_set.general)]
    asks = [Ask(prompt.tokens, settings.max_new_tokens) for prompt in test_set.prompts]
    asks += [Ask(question.tokens, _QUESTION_LIMIT) for question in test_set.questions]
    asks += [Ask(ids[: targets[0]], settings.max_new_tokens) for ids, targets in references]
    names = (
        [prompt.text for prompt in test_set.prompts]
        + [question.text for question in test_set.questions]
        + ["(held out)"] * len(references)
    )
    said = [
        Answered(name, model.text(answer.tokens).strip(), answer.ended, any(map(model.is_control, answer.tokens)))
        for name, answer in zip(names, count(model.answers(asks)), strict=True)
    ]
    prompts, questions = (
        said[: len(test_set.prompts)],
        said[len(test_set.prompts) : len(test_set.prompts) + len(test_set.questions)],
    )
    right = [
        question.is_right(answered.answer) for question, answered in zip(test_set.questions, questions, strict=True)
    ]
    wanted = [_first_answer(model, ids, targets) for ids, targets in references]
    facts = _recalled(model, test_set.facts, count)
    figures, notes = _figures(settings, own, [answered.answer for answered in said[len(said) - len(wanted) :]], wanted)
    return Evaluation(
        scores=figures | ({"general_perplexity": perplexity(general)} if general else {}),
        answers=prompts,
        own=own,
        general=general,
        fits=fits(scores[len(test_set.own) + len(test_set.general) :], test_set.paired),
        right=right,
        said=said,
        tokens=sum(score.tokens for score in own),
        seconds=time.perf_counter() - started,
        notes=notes,
        facts=facts,
    )


def _scores(model: ServedModel, rows: Sequence[ScoredRow], count: "_Counter") -> list[RowScore]:
    """Return the score of each row.

    They are computed in lexical order, so that what several rows begin with is computed once.
    """
    order = sorted(range(len(rows)), key=lambda index: rows[index])
    found = dict(zip(order, count(model.scores([rows[index] for index in order])), strict=True))
    return [found[index] for index in range(len(rows))]


def _recalled(model: ServedModel, facts: Sequence[Question], count: "_Counter") -> list[Recalled]:
    """Ask the model the questions about documents; return each answer, and whether it contains the expected words."""
    answers = count(model.answers([Ask(fact.tokens, FACT_LIMIT) for fact in facts])) if facts else ()
    said = [model.text(answer.tokens).strip() for answer in answers]
    return [
        Recalled(fact.text, fact.answers[0], text, fact.is_right(text)) for fact, text in zip(facts, said, strict=True)
    ]


class _Counter:
    def __init__(self, total: int, report: Report) -> None:
        self.done, self.total, self.report = 0, total, report

    def __call__(self, items: Iterator[_Item]) -> Iterator[_Item]:
        for item in items:
            self.done += 1
            self.report(self.done, self.total)
            yield item


def _figures(
    settings: Settings, own: list[RowScore], answers: list[str], references: list[str]
) -> tuple[dict[str, float], list[str]]:
    """Return the values of the configured metrics, and a note on each that could not be computed.

    `own` are the likelihoods of all held-out conversations. `answers` are the model's answers to
    some of their questions, `references` the recorded answers to the same questions.
    """
    figures: dict[str, float] = {}
    notes = [] if own else ["there are no held-out conversations yet: no scores"]
    for name in settings.metrics:
        if name in metrics.LIKELIHOODS:
            figures |= {name: _likelihood(name, own)} if own else {}
        elif references and name in metrics.TEXTS:
            figures[name] = metrics.TEXTS[name](answers, references)
        elif references:
            try:
                figures |= metrics.library(name, answers, references)
            except DataError as error:
                notes.append(str(error))
    return figures, notes


def _likelihood(name: str, scores: list[RowScore]) -> float:
    tokens = sum(score.tokens for score in scores)
    if name == "accuracy":
        return 100 * sum(score.hits for score in scores) / tokens
    return perplexity(scores)


def perplexity(scores: list[RowScore]) -> float:
    """Return the perplexity over all scored tokens of `scores`. Raises ValueError if there are none."""
    tokens = sum(score.tokens for score in scores)
    return metrics.perplexity([sum(score.logprob for score in scores) / tokens] if tokens else [])


def fits(scores: Sequence[RowScore], pairs: Sequence[Pair]) -> list[float]:
    """Return for each pair how much more likely the answer is after its own question than after others.

    The unit is nats per token; a positive value means more likely. `scores` are the scores of the
    pairs' rows in order: for each pair, first the row with its own question, then the rows with
    other questions.
    """
    found, remaining = [], iter(scores)
    for _, others in pairs:
        own = next(remaining)
        rest = [next(remaining) for _ in others]
        found.append(own.logprob / own.tokens - sum(score.logprob / score.tokens for score in rest) / len(rest))
    return found


def _first_answer(model: ServedModel, ids: list[int], targets: list[int]) -> str:
    """Return the conversation's first supervised answer without its end-of-turn token."""
    supervised = set(targets)
    end = next((index for index in range(targets[0], len(ids)) if index not in supervised), len(ids))
    return model.text(ids[targets[0] : end - 1]).strip()
