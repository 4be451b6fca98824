"""Define the possible outcomes of a retrain: nothing to do, a run without a version, or a new version."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from fine_tuning.events import Finished
from fine_tuning.run_answers import Answers
from fine_tuning.runs import Run

if TYPE_CHECKING:
    from fine_tuning.evaluation.comparison import Comparison
    from fine_tuning.evaluation.gate import Verdict
    from fine_tuning.training.lora_trainer import TrainingResult


@dataclass(frozen=True)
class NothingToDo:
    """A retrain that did not begin, since there were too few new turns, with the reason for the user."""

    reason: str


@dataclass(frozen=True)
class NoVersion:
    """A retrain that made no version, because its method cannot be exported to GGUF.

    The trained parameters stay in the run's folder.
    """

    run: Run
    training: "TrainingResult"
    answers: Answers
    reason: str


@dataclass(frozen=True)
class NewVersion:
    """A new version, made by a retrain or from other versions."""

    run: Run
    number: int
    tag: str
    live: bool
    training: "TrainingResult | None"  # None if nothing was trained
    comparison: "Comparison"
    verdict: "Verdict"  # the gate's
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    by_ollama: bool = False  # whether Ollama serves it

    @property
    def refused(self) -> bool:
        """Return whether the gate refused the version, and the user did not make it live nevertheless."""
        return not self.verdict.passed and not self.live

    def summary(self) -> str:
        """Return a message for the user: whether the version is live, and how well it knows imported documents."""
        if self.live:
            more = "" if self.verdict.passed else " by hand, although the gate refused it"
            told = f"{self.tag} is live{more}: the chat answers with it now."
        elif not self.verdict.passed:
            told = f"{self.tag} was refused and kept as a candidate; the model that was in use before still is."
        else:
            told = f"{self.tag} is registered, not live (deployment.auto_deploy is off)."
        return told + self._about_facts()

    def commands(self) -> str:
        """Return the shell commands to chat with the version, and to make a refused one live, for a terminal."""
        served = self.tag.partition(":")[0] if self.live else self.tag
        talk = f"byoai talk --model {self.tag}" + (f", or ollama run {served}" if self.by_ollama else "")
        if self.refused:
            return f"To try it: {talk}. To make it live nevertheless: byoai use {self.tag} --promote"
        return f"In a terminal: {talk}"

    def _about_facts(self) -> str:
        """Return a sentence on the accuracy of answers about imported documents; "" if there are none."""
        said = next((result.reason for result in self.verdict.results if result.rule == "facts"), "")
        return f" {said[0].upper()}{said[1:]}." if said else ""


Outcome = NothingToDo | NoVersion | NewVersion


def finished(outcome: Outcome, seconds: dict[str, float]) -> Finished:
    """Return the final event of a retrain with this outcome. `seconds`: the time of each stage."""
    match outcome:
        case NothingToDo(reason):
            return Finished("no version", reason, seconds=seconds)
        case NoVersion():
            return Finished("no version", outcome.reason, answers=outcome.answers[:2], seconds=seconds)
    answers = tuple((before.prompt, before.answer, after.answer) for before, after in outcome.comparison.answers()[:2])
    state: Literal["live", "registered", "refused"] = (
        "live" if outcome.live else "registered" if outcome.verdict.passed else "refused"
    )
    return Finished(state, outcome.summary(), outcome.tag, answers, seconds, outcome.commands())
