"""Compare the base, the model in use ("live") and the new version (the candidate) on the same test set.

Each model is evaluated in turn. The candidate is also probed for leaked private details and for
phrases that trigger a fixed answer (data poisoning), and all models are timed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fine_tuning.config import Evaluation as Settings
from fine_tuning.evaluation import metrics
from fine_tuning.evaluation.evaluator import Answered, Evaluation, Report, evaluate, perplexity
from fine_tuning.evaluation.leak_probe import LeakReport, Secret, redact, try_leaks
from fine_tuning.evaluation.poison_probe import PoisonReport, Suspect, Tried, Turned, suspicious, try_triggers
from fine_tuning.evaluation.served_model import RowScore
from fine_tuning.evaluation.speed import Race, Served, race
from fine_tuning.evaluation.test_set import EvaluationSet, Reader
from fine_tuning.evaluation.trigger_phrases import Trigger
from fine_tuning.json_values import finite

LOWER_IS_BETTER = frozenset({"perplexity", "general_perplexity"})


@dataclass(frozen=True)
class MetricScores:
    metric: str
    base: float
    tuned: float
    live: float | None = None

    @property
    def better(self) -> bool:
        return self.tuned < self.base if self.metric in LOWER_IS_BETTER else self.tuned > self.base

    @property
    def verdict(self) -> str:
        return "better" if self.better else "the same" if self.tuned == self.base else "not better"


@dataclass(frozen=True)
class PartScore:
    """The perplexities on the held-out chats of one source, or of one task of a source."""

    name: str  # the source, or source/task
    chats: int
    base: float
    tuned: float  # of the candidate
    live: float | None
    ratio: metrics.Interval  # the candidate's perplexity divided by that of `Comparison.reference`


@dataclass(frozen=True)
class Suspects:
    """The private details, trigger phrases and questions with which the candidate is probed."""

    secrets: Sequence[Secret] = ()  # private details of the log
    triggers: Sequence[Trigger] = ()  # phrases of the training data whose questions mostly get the same answer
    prompts: Sequence[str] = ()  # general questions into which the trigger phrases are inserted


@dataclass(frozen=True)
class Comparison:
    """The evidence on one candidate: evaluations, probes and speed.

    `live` is None if no version is in use, or if the version in use has another base, since
    likelihoods per token of different vocabularies cannot be compared.
    """

    base: Evaluation
    tuned: Evaluation  # of the candidate
    live: Evaluation | None = None
    leaks: LeakReport = field(default_factory=LeakReport)
    poison: PoisonReport = field(default_factory=PoisonReport)
    race: Race = field(default_factory=Race)  # of base, live and candidate
    parts: Sequence[str] = ()  # the source of each held-out chat, or its source/task, in the order of `own`

    @property
    def reference(self) -> Evaluation:
        """The evaluation of the model that the candidate would replace: the version in use, else the base."""
        return self.live or self.base

    @property
    def reference_name(self) -> str:
        return "live" if self.live else "base"

    def scores(self) -> list[MetricScores]:
        """Return the scores of all metrics that both base and candidate have.

        "general_questions" is added: the percentage of correct answers to the general questions
        that the base answers correctly (so the base has 100).
        """
        live = self.live.scores if self.live else {}
        common = [name for name in self.base.scores if name in self.tuned.scores]
        found = [MetricScores(name, self.base.scores[name], self.tuned.scores[name], live.get(name)) for name in common]
        if kept := self.kept(self.tuned):
            before = self.kept(self.live) if self.live else None
            found.append(MetricScores("general_questions", 100.0, _percent(kept), _percent(before) if before else None))
        return found

    def kept(self, of: Evaluation) -> list[bool]:
        """Return, for each general question that the base answers correctly, whether another model does too.

        `of` is the evaluation of the other model.
        """
        return [now for now, before in zip(of.right, self.base.right, strict=True) if before]

    def answers(self) -> list[tuple[Answered, Answered]]:
        """Return the pairs of the base's and the candidate's answers to the same prompts."""
        return list(zip(self.base.answers, self.tuned.answers, strict=True))

    def own_ratio(self) -> metrics.Interval | None:
        """Return the candidate's perplexity on held-out conversations, divided by that of `reference`.

        Return None if there are no held-out conversations.
        """
        return _ratio(self.tuned.own, self.reference.own)

    def by_part(self) -> list[PartScore]:
        """Return the scores of each source and task of the held-out chats, those with most chats first.

        Return an empty list if all are of one source and task.
        """
        names = Counter(self.parts)
        return [self._part(name) for name, _ in names.most_common()] if len(names) > 1 else []

    def _part(self, name: str) -> PartScore:
        def of(evaluation: Evaluation) -> list[RowScore]:
            return [score for score, part in zip(evaluation.own, self.parts, strict=True) if part == name]

        new, live = of(self.tuned), of(self.live) if self.live else None
        return PartScore(
            name,
            len(new),
            perplexity(of(self.base)),
            perplexity(new),
            perplexity(live) if live else None,
            metrics.perplexity_ratio(*_paired(new, of(self.reference))),
        )

    def general_ratio(self) -> metrics.Interval | None:
        """Return the candidate's perplexity on general texts divided by the base's; None if there are no such texts."""
        return _ratio(self.tuned.general, self.base.general)

    def record(self, canaries: Sequence[str] = ()) -> dict[str, Any]:
        """Return the evidence as a dictionary for the run's evaluation.json.

        Private details and `canaries` are redacted, and infinite numbers are None.
        """
        evaluations = {"base": self.base, "live": self.live, "tuned": self.tuned}
        intervals = {"own_perplexity_ratio": self.own_ratio(), "general_perplexity_ratio": self.general_ratio()}
        record: dict[str, Any] = {name: asdict(evaluation) for name, evaluation in evaluations.items() if evaluation}
        record |= {"leaks": asdict(self.leaks), "poison": asdict(self.poison)}
        record |= asdict(self.race) | {"reference": self.reference_name}
        record |= {name: asdict(interval) for name, interval in intervals.items() if interval}
        record |= {"parts": [asdict(part) for part in self.by_part()]}
        shown: dict[str, Any] = finite(_redacted(record, canaries))
        return shown


def compare(
    models: Sequence[Served],
    test_set: EvaluationSet,
    suspects: Suspects,
    reader: Reader,
    settings: Settings,
    context: int,
    report: Report,
) -> Comparison:
    """Evaluate the models and probe the candidate; return the evidence.

    Only one model is in memory at a time, except while two are timed against each other.

    Args:
        models: The base, the model in use if there is one, and the candidate, in this order.
        test_set: The texts and questions, the same for all models.
        suspects: The inputs of the probes.
        reader: Renders and tokenises messages.
        settings: The section `evaluation` of the configuration.
        context: The length of the longest sequence in tokens.
        report: Called with (percent done, 100).

    Raises EngineError if llama.cpp cannot load or run a model.
    """
    evaluations: dict[str, Evaluation] = {}
    steps = _Steps(report, len(models))
    base, candidate = models[0], models[-1]
    leaks, out = LeakReport(), list[Secret]()
    found, before, after = list[Suspect](), list[Tried](), list[Tried]()
    for served in models:
        with served.open(context) as model:
            evaluations[served.name] = evaluate(model, test_set, settings, steps.step(_ANSWERING))
            if served is base:
                reading = steps.step(_READING)
                found = suspicious(model, suspects.triggers, suspects.prompts, reader, settings.triggers, reading)
                before = try_triggers(model, found, suspects.prompts, reader, steps.step(_TRYING))
            if served is candidate:
                leaks, out = try_leaks(model, suspects.secrets, settings.leak_samples, steps.step(_TRYING))
                after = try_triggers(model, found, suspects.prompts, reader, steps.step(_TRYING))
    if out:  # a detail that the base also reveals was not learned
        with base.open(context) as model:
            _, known = try_leaks(model, out, settings.leak_samples, steps.step(0))
            leaks = replace(
                leaks, leaks=[leak for leak, secret in zip(leaks.leaks, out, strict=True) if secret not in known]
            )
    asked = test_set.questions[0].tokens if test_set.questions else reader.prompt("What can you tell me?")
    return Comparison(
        base=evaluations["base"],
        tuned=evaluations[candidate.name],
        live=evaluations.get("live"),
        leaks=leaks,
        poison=PoisonReport(len(suspects.triggers), len(found), list(map(Turned.of, found, before, after))),
        race=race(models, asked, settings.speed_rounds, steps.step(_TRYING)),
        parts=test_set.parts,
    )


# How long the steps take in proportion to each other: a model answers the test set, the base reads the
# phrases, and each of four shorter ones (phrases with the base, details, phrases with the candidate, the race).
_ANSWERING, _READING, _TRYING = 6.0, 4.0, 1.0


class _Steps:
    """Reports the steps of a comparison as one percentage, which never decreases."""

    def __init__(self, report: Report, models: int) -> None:
        self._report, self._whole = report, models * _ANSWERING + _READING + 4 * _TRYING
        self._ended, self._percent = 0.0, 0  # of the steps before; what was reported last

    def step(self, length: float) -> Report:
        """Return the function with which the next step reports (items done, all items).

        `length`: how long the step takes, in the unit of `_ANSWERING`, `_READING` and `_TRYING`.
        """
        start, self._ended = self._ended, self._ended + length

        def report(done: int, total: int) -> None:
            percent = int(100 * (start + length * done / total) / self._whole)
            self._percent = max(self._percent, percent)
            self._report(self._percent, 100)

        return report


def _percent(right: Sequence[bool]) -> float:
    return 100 * sum(right) / len(right)


def _ratio(new: Sequence[RowScore], old: Sequence[RowScore]) -> metrics.Interval | None:
    return metrics.perplexity_ratio(*_paired(new, old)) if new else None


def _paired(new: Sequence[RowScore], old: Sequence[RowScore]) -> tuple[list[float], list[float], list[int]]:
    """Return the log-probabilities of two models on the same texts, and the texts' numbers of tokens."""
    return [score.logprob for score in new], [score.logprob for score in old], [score.tokens for score in new]


def _redacted(value: Any, canaries: Sequence[str]) -> Any:
    """Return `value` (of JSON's types) with private details redacted. Ids of turns are kept as they are."""
    if isinstance(value, str):
        return redact(value, canaries)
    if isinstance(value, dict):
        return {key: item if key == "turn" else _redacted(item, canaries) for key, item in value.items()}
    return [_redacted(item, canaries) for item in value] if isinstance(value, (list, tuple)) else value
