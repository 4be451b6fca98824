"""Convert plans, versions and reports to the dictionaries that `--json` prints.

The dictionaries leave out or rename fields of the internal types.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fine_tuning.data_collection.importers.importing import Report
    from fine_tuning.engines.base import Engine
    from fine_tuning.forgetting import Case, Forgotten
    from fine_tuning.integration.learned_from import LearnedFrom, Likelihood
    from fine_tuning.model_management.model_pruner import Pruned
    from fine_tuning.model_management.model_registry import Registry, Version
    from fine_tuning.plan import Plan

Facts = dict[str, object]


def of_models(engine: "Engine", registry: "Registry", prefix: str) -> list[Facts]:
    """Return every model that users can choose for a chat; for a version also its entry in the registry.

    `prefix` is the beginning of the names of fine-tuned models.
    """
    from fine_tuning.model_management.elo import ratings
    from fine_tuning.model_management.model_switcher import choices

    known, rated, found = {version.tag: version for version in registry.list()}, ratings(), []
    for choice in choices(engine, prefix):
        version = known.get(choice.tag)
        elo, votes = rated.get(choice.tag, (None, 0))
        facts = {
            "tag": choice.tag,
            "kind": choice.kind,
            "live": choice.live,
            "refused": choice.refused,
            "elo": elo,
            "votes": votes,
        }
        found.append(facts | {"version": of_version(version) if version else None})
    return found


def of_version(version: "Version") -> Facts:
    """Return a version's entry in the registry, with its tag."""
    return {"tag": version.tag, **asdict(version)}


def of_plan(plan: "Plan") -> Facts:
    """Return what a retrain would learn, the memory that it would take in bytes, and its time in seconds."""
    names = (
        "name",
        "turns",
        "new_turns",
        "kept_turns",
        "dropped",
        "scrubbed",
        "preference_method",
        "counts",
        "replay_prompts",
        "mode",
    )
    return {
        **{name: getattr(plan, name) for name in names},
        "base": plan.base.tag,
        "dataset": plan.dataset.path,
        "preferences": {"pairs": plan.preferences.pairs, "ratings": plan.preferences.ratings},
        "method": plan.config.training.method,
        "steps": plan.estimate.steps,
        "memory": plan.estimate.memory,
        "available": plan.estimate.available,
        "seconds": plan.estimate.seconds,
        "times": plan.times.record(),
        "fits": plan.estimate.fits,
        "fitting": plan.fitting,
        "warnings": plan.warnings,
    }


def of_pruned(found: "Sequence[Pruned]", dry_run: bool) -> list[Facts]:
    """Return the versions and runs that were removed; with `dry_run`, those that would be."""
    return [
        {
            "version": each.version.tag if each.version else None,
            "tag": each.tag,
            "run": each.run,
            "bytes": each.bytes,
            "removed": not dry_run,
        }
        for each in found
    ]


def of_case(case: "Case", elsewhere: "Sequence[Path]") -> Facts:
    """Return what would be forgotten: the turns with their questions, and the versions that were trained on them.

    `elsewhere`: other files that contain the text to forget, if no turn contains it.
    """
    turns = [{"id": id, "user_message": case.said.get(id)} for id in case.turns]
    return {"turns": turns, "versions": [version.tag for version in case.versions], "files": elsewhere}


def of_forgotten(outcome: "Forgotten") -> Facts:
    """Return the result of forgetting: the new version, removed versions, and files that still contain the text."""
    names = ("version", "retired", "strangers", "left", "unfinished")
    return {"turns": outcome.case.turns, **{name: getattr(outcome, name) for name in names}}


def of_import(report: "Report", written: bool) -> Facts:
    """Return the report of an import, or of its preview if `written` is false."""
    names = (
        "id",
        "added",
        "known",
        "turns",
        "context",
        "conversations",
        "unanswered",
        "open_questions",
        "formats",
        "set_aside",
        "faults",
        "unread",
        "unread_count",
        "logged",
    )
    facts = {name: getattr(report, name) for name in names}
    return {
        **facts,
        "faults": [asdict(fault) for fault in report.faults],
        "planted": [asdict(phrase) for phrase in report.planted],
        "is_whole": report.is_whole,
        "written": written,
    }


def of_learned_from(found: "LearnedFrom") -> Facts:
    """Return the turns from which an answer was probably learned: the most similar in its version's training data."""
    turns = [
        {
            **each.turn.model_dump(mode="json"),
            "likeness": each.likeness,
            "shared": each.shared,
            "excluded": each.excluded,
            "source": each.source,
            "likelihood": _of_likelihood(each.likelihood),
        }
        for each in found.teachers
    ]
    names = ("taught", "gone", "excluded")
    facts = {"turn": found.turn.id, "version": found.version.tag, "base": found.version.base_tag}
    return {
        **facts,
        **{name: getattr(found, name) for name in names},
        "likelihood": _of_likelihood(found.likelihood),
        "turns": turns,
    }


def _of_likelihood(found: "Likelihood | None") -> Facts | None:
    return {**asdict(found), "times": found.times} if found else None
