"""Describe a version in plain words, independently of Streamlit: how the gate judged it, and what it was trained on."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fine_tuning import paths
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.errors import ModelNotFound
from fine_tuning.evaluation.test_set import facts_told
from fine_tuning.integration.taught_elsewhere import taught_elsewhere
from fine_tuning.model_management.model_pruner import run_of
from fine_tuning.model_management.model_registry import Registry, Version
from fine_tuning.model_management.model_switcher import Choice, refusal
from fine_tuning.runs import Run
from fine_tuning.units import counted

Outcome = Literal["passed", "warned", "refused", "not judged"]


@dataclass(frozen=True)
class Judged:
    """The result of one rule of the gate."""

    rule: str
    outcome: Outcome
    reason: str
    measured: str = ""
    limit: str = ""


@dataclass(frozen=True)
class Taught:
    """A chat that a version was trained on."""

    session: str
    turns: tuple[str, ...]  # ids of its turns that were learned, in the log's order


@dataclass(frozen=True)
class Lessons:
    """The chats that a version was trained on, newest first."""

    chats: tuple[Taught, ...]
    forgotten: int  # learned turns that no longer exist
    elsewhere: Mapping[str, int] = field(default_factory=dict)  # learned turns from elsewhere, by source

    @property
    def learned(self) -> int:
        return self.forgotten + sum(self.elsewhere.values()) + sum(len(chat.turns) for chat in self.chats)


def judged(version: Version) -> list[Judged]:
    """Return the result of each rule of the gate; no results if the version was not evaluated."""
    results = (version.metrics.get("gate") or {}).get("results") or []
    return [
        Judged(each["rule"], _outcome(each), each.get("reason", ""), each.get("measured", ""), each.get("limit", ""))
        for each in results
    ]


def _outcome(result: dict[str, object]) -> Outcome:
    if not result["passed"]:
        return "refused"
    if str(result.get("reason", "")).startswith("not judged"):
        return "not judged"
    return "warned" if result.get("warned") else "passed"


def marks(version: Version) -> list[str]:
    """Return what a list shows about a version, one word each: live, previous, refused, out of use, pinned, ..."""
    refused = bool(refusal(version))
    state = {
        "live": "live",
        "previous": "previous",
        "retired": "out of use",
        "candidate": "refused" if refused else "candidate",
    }
    return [state[version.state], *(["pinned"] if version.pinned else [])]


def verdict(version: Version) -> str:
    """Return a sentence about the gate's verdict on a version."""
    rules = judged(version)
    if not rules:
        return "The gate has not judged it, so its quality is unknown."
    failed = [each for each in rules if each.outcome == "refused"]
    if failed:
        return f"Refused, for {len(failed)} of {counted(len(rules), 'rule')}: " + "; ".join(
            f"{each.rule}: {each.reason}" for each in failed
        )
    skipped = sum(each.outcome == "not judged" for each in rules)
    return f"Passed {len(rules) - skipped} of {counted(len(rules), 'rule')}" + (
        f"; {skipped} could not be judged" if skipped else ""
    )


@dataclass(frozen=True)
class Asked:
    """A held-out question about an imported document, with the answers of the base model and of the version."""

    prompt: str
    key: str  # the text that a right answer contains
    base: str
    base_right: bool
    answer: str  # the version's
    right: bool


@dataclass(frozen=True)
class Facts:
    """How a version answers held-out wordings of questions about imported documents."""

    asked: tuple[Asked, ...]

    @property
    def right(self) -> int:
        return sum(each.right for each in self.asked)

    @property
    def sentence(self) -> str:
        return facts_told(self.right, len(self.asked))

    def some(self, most: int = 6) -> list[Asked]:
        """Return up to `most` of the questions as examples, about half of them answered wrongly if there are enough."""
        wrong, right = ([each for each in self.asked if each.right == how] for how in (False, True))
        few = max(most // 2, most - len(right))
        return [*wrong[:few], *right[: most - len(wrong[:few])]]


def facts_in(evaluation: Mapping[str, Any]) -> Facts | None:
    """Return the questions about documents in an evaluation (`Comparison.record`); None if it has none."""
    before, after = (evaluation.get(side, {}).get("facts", ()) for side in ("base", "tuned"))
    asked = tuple(
        Asked(new["prompt"], new["key"], old["answer"], old["right"], new["answer"], new["right"])
        for old, new in zip(before, after, strict=True)
    )
    return Facts(asked) if asked else None


def facts_of(version: Version) -> Facts | None:
    """Return how a version answers questions about documents.

    Return None if it was not asked any, or its evaluation no longer exists.
    """
    run = run_of(version)
    if run is None or not Run(run).evaluation.is_file():
        return None
    return facts_in(paths.read_json(Run(run).evaluation))


def comparison_of(version: Version, answers: Choice | None) -> dict[str, str]:
    """Return the query parameters with which the page Models compares a version with the model that answers now.

    If the version itself answers, it is compared with its base.
    """
    other = answers.tag if answers and answers.tag != version.tag else version.base_tag
    return {"view": "compare", "one": other, "other": version.tag}


def lessons(log: ConversationLogger, registry: Registry, version: Version) -> Lessons:
    """Return the chats that a version was trained on, and the numbers of turns from the sample or a file."""
    learned = registry.turns_of(version.name, version.number)
    there = log.index.session_by_turn(learned)
    by_chat: dict[str, list[str]] = {}
    for turn, session in there.items():
        by_chat.setdefault(session, []).append(turn)
    chats = tuple(Taught(session, tuple(turns)) for session, turns in reversed(by_chat.items()))
    elsewhere = Counter(each.source for each in taught_elsewhere(log, registry, version))
    return Lessons(chats, len(learned) - len(there) - elsewhere.total(), dict(elsewhere))


def report_of(registry: Registry, name: str, number: int) -> str:
    """Return a version's report as HTML. Raises ModelNotFound if the version or its report does not exist."""
    version = registry.get(name, number)
    run = run_of(version)
    if run is None or not Run(run).report.is_file():
        raise ModelNotFound(
            f"{version.tag} has no report: it was deleted, by hand or because it quoted a chat that you told byoai to "
            "forget. `byoai evaluate` writes a new one, if the data that it was trained on is still there"
        )
    return Run(run).report.read_text(encoding="utf-8")


def has_report(version: Version) -> bool:
    run = run_of(version)
    return run is not None and Run(run).report.is_file()


def how_sure(votes: int) -> str:
    """Return how reliable a rating from this number of votes is, such as "sure (a share of wins to ±14 points)".

    The number is half the width of the 95 % confidence interval (Wald) of a share of one half, in
    percentage points, and at most 50.
    """
    share = min(round(98 / votes**0.5), 50) if votes else 50
    return (
        f"{'hardly sure' if votes < 10 else 'fairly sure' if votes < 40 else 'sure'} (a share of wins to "
        f"±{share} points)"
    )
