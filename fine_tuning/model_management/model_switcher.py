"""Lists the models that can answer, and switches between the versions of a fine-tuned one.

A switch copies a tag; no weights are written.
"""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from fine_tuning.engines.base import Engine, ModelSummary
from fine_tuning.errors import GateRefused, ModelNotFound
from fine_tuning.model_management.model_deployer import (
    TRIAL,
    go_live,
    is_latest_ours,
    reconcile,
    restore,
    version_digests,
)
from fine_tuning.model_management.model_registry import Registry, Version, latest_tag, version_tag

PREFIX = "fine_tuned_"  # config: deployment.model_name_prefix


@dataclass(frozen=True)
class ServedVersion:
    number: int
    tag: str
    digest: str
    live: bool


@dataclass(frozen=True)
class Choice:
    """One model that can be chosen."""

    tag: str
    label: str  # for people
    kind: Literal["base", "fine_tuned"]
    live: bool = False  # whether `latest` of its name is this version
    name: str = ""  # of a fine-tuned model, without version
    number: int = 0  # of its version; 0 for a `latest` that is none of the versions
    refused: str = ""  # why the gate holds it back


def versions(engine: Engine, name: str) -> list[ServedVersion]:
    """Return the versions of `name` that the engine has, oldest first."""
    return _versions(engine.list_models(), name)


def live(engine: Engine, name: str) -> int | None:
    """Return the version whose digest `latest` has (the newest of equal ones).

    None if there is no `latest`, or if it is none of them.
    """
    return next((version.number for version in versions(engine, name) if version.live), None)


def use(engine: Engine, registry: Registry, name: str, number: int, *, by_hand: bool = False) -> Version:
    """Make a version live. If its tag was removed, it is first made again from its run.

    Raises GateRefused for a candidate that failed the gate, unless its owner insists (`by_hand`);
    that is noted in the registry.
    """
    version = registry.get(name, number)
    if refused := refusal(version):
        if not by_hand:
            raise GateRefused(
                f"{version.tag} was {refused}\nIt goes live nevertheless with `byoai use {version.tag} --promote`"
            )
        note = f"promoted by hand on {datetime.now(UTC):%Y-%m-%d}, although {refused}"
        registry.update(name, number, notes="\n".join(filter(None, [version.notes, note])))
    if number not in {served.number for served in versions(engine, name)}:
        restore(engine, version)
    return go_live(engine, registry, name, number)


def refusal(version: Version) -> str:
    """Return why the gate holds a version back; "" if it passed, was never judged, or was live before."""
    judged = version.metrics.get("gate")
    if version.state != "candidate" or not judged or judged["passed"]:
        return ""
    reasons = [f"{result['rule']}: {result['reason']}" for result in judged["results"] if not result["passed"]]
    return "refused by the gate: " + "; ".join(reasons)


def rollback(engine: Engine, registry: Registry, name: str) -> Version | None:
    """Make the previously live version live again; return it, or None if the base answers now.

    A second rollback undoes the first. What was live before is taken from the engine, so that it is
    right after an interrupted promotion too. Raises ModelNotFound if nothing was ever live.
    """
    reconcile(engine, registry, name)
    if previous := registry.previous(name):
        return use(engine, registry, name, previous.number)
    current = registry.live(name)
    if current is None:
        raise ModelNotFound(
            f"no version of {name} is live, so there is nothing to go back from: `byoai use` chooses one"
        )
    unknown = [
        each
        for each in registry.list(name)
        if not each.made_here or each.state == "retired" or (each.state == "candidate" and not each.verdict)
    ]
    if unknown or live(engine, name) != current.number:  # an unknown version may have been live before
        raise ModelNotFound(f"it is not known what was live before {current.tag}: `byoai use` chooses a version")
    step_down(engine, registry, name)
    return None


def step_down(engine: Engine, registry: Registry, name: str) -> None:
    """Let the base answer: no version of `name` is live any more.

    A `latest` that is none of the versions is not byoai's, and stays.
    """
    if is_latest_ours(engine, registry, name):
        engine.delete(latest_tag(name))
    registry.step_down(name)


def choices(engine: Engine, prefix: str = PREFIX, registry: Registry | None = None) -> list[Choice]:
    """Return all models that can answer.

    Base models come first, in the engine's order, then fine-tuned ones by name, newest version
    first. With the registry, each choice also says why the gate holds it back.
    """
    found = _choices(engine, prefix)
    refused = {version.tag: refusal(version) for version in registry.list()} if registry else {}
    return [replace(choice, refused=refused.get(choice.tag, "")) for choice in found]


def _choices(engine: Engine, prefix: str) -> list[Choice]:
    models = engine.list_models()
    names = {model.tag: _tuned_name(model.tag, prefix) for model in models}
    base_tags = [tag for tag, name in names.items() if not name and not tag.endswith(TRIAL)]
    bases = [Choice(tag=tag, label=tag.removesuffix(":latest"), kind="base") for tag in base_tags]
    return bases + [
        choice for name in sorted({name for name in names.values() if name}) for choice in _tuned_choices(models, name)
    ]


def _tuned_choices(models: list[ModelSummary], name: str) -> list[Choice]:
    found = _versions(models, name)
    latest = latest_tag(name)
    entries = [
        Choice(
            tag=version.tag,
            label=f"{name} v{version.number}" + (" (live)" if version.live else ""),
            kind="fine_tuned",
            live=version.live,
            name=name,
            number=version.number,
        )
        for version in reversed(found)
    ]
    if any(version.live for version in found) or all(model.tag != latest for model in models):
        return entries
    return [Choice(tag=latest, label=f"{name} (live)", kind="fine_tuned", live=True, name=name), *entries]


def _versions(models: list[ModelSummary], name: str) -> list[ServedVersion]:
    digests = {model.tag: model.digest for model in models}
    numbers = version_digests(digests, name)
    answering = digests.get(latest_tag(name))
    current = max((number for number, digest in numbers.items() if digest == answering), default=0)
    return [
        ServedVersion(number, version_tag(name, number), digest, number == current)
        for number, digest in numbers.items()
    ]


def _tuned_name(tag: str, prefix: str) -> str:
    """Return the name in a fine-tuned model's tag, without the version; "" for any other tag."""
    found = re.fullmatch(rf"({re.escape(prefix)}.+):(?:v[1-9]\d*|latest)", tag, re.ASCII)
    return found[1] if found else ""
