"""List the models that people can chat with, and switch between the versions of a fine-tuned model.

To switch means to point a tag to another version; no weights are copied.
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
    """A version of a fine-tuned model that the engine has."""

    number: int
    tag: str
    digest: str
    live: bool


@dataclass(frozen=True)
class Choice:
    """A model that people can choose."""

    tag: str
    label: str  # name to display
    kind: Literal["base", "fine_tuned"]
    live: bool = False  # whether the tag `latest` is this version
    name: str = ""  # a fine-tuned model's name without version
    number: int = 0  # a fine-tuned model's version; 0 for a `latest` that is none of the versions
    refused: str = ""  # the reason why the gate refused it; "" if it did not


def versions(engine: Engine, name: str) -> list[ServedVersion]:
    """Return the versions of `name` that the engine has, oldest first."""
    return _versions(engine.list_models(), name)


def live(engine: Engine, name: str) -> int | None:
    """Return the number of the live version: the version with the same digest as the tag `<name>:latest`.

    If several versions have this digest, the newest counts. Return None if there is no `latest`, or
    if it is none of the versions.
    """
    return next((version.number for version in versions(engine, name) if version.live), None)


def use(engine: Engine, registry: Registry, name: str, number: int, *, by_hand: bool = False) -> Version:
    """Make a version live; return it. If its tag is missing, it is first recreated from the version's run.

    `by_hand` overrides the gate, and the registry notes this. Raises GateRefused for a
    candidate that failed the gate, ModelNotFound if there is no such version, and ExportError if
    the tag cannot be recreated.
    """
    version = registry.get(name, number)
    if refused := refusal(version):
        if not by_hand:
            raise GateRefused(
                f"{version.tag} was {refused}\nTo make it live nevertheless: `byoai use {version.tag} --promote`"
            )
        note = f"promoted by hand on {datetime.now(UTC):%Y-%m-%d}, although {refused}"
        registry.update(name, number, notes="\n".join(filter(None, [version.notes, note])))
    if number not in {served.number for served in versions(engine, name)}:
        restore(engine, version)
    return go_live(engine, registry, name, number)


def refusal(version: Version) -> str:
    """Return why the gate refused a version; "" if it passed, was never evaluated, or was live before."""
    judged = version.metrics.get("gate")
    if version.state != "candidate" or not judged or judged["passed"]:
        return ""
    reasons = [f"{result['rule']}: {result['reason']}" for result in judged["results"] if not result["passed"]]
    return "refused by the gate: " + "; ".join(reasons)


def rollback(engine: Engine, registry: Registry, name: str) -> Version | None:
    """Make the previous version live again, and return it.

    If no version was live before the live one, the base is put in use again instead, and None is
    returned. A second rollback undoes the first. The registry is first reconciled with the engine,
    in case a promotion was interrupted. Raises ModelNotFound if no version is live, or if it is
    unknown what was live before.
    """
    reconcile(engine, registry, name)
    if previous := registry.previous(name):
        return use(engine, registry, name, previous.number)
    current = registry.live(name)
    if current is None:
        raise ModelNotFound(
            f"no version of {name} is live, so there is nothing to go back from: `byoai use` makes a version live"
        )
    unknown = [
        each
        for each in registry.list(name)
        if not each.made_here or each.state == "retired" or (each.state == "candidate" and not each.verdict)
    ]
    if unknown or live(engine, name) != current.number:  # an unknown version may have been live before
        raise ModelNotFound(
            f"it was not recorded which version was live before {current.tag}: choose one with `byoai use`"
        )
    step_down(engine, registry, name)
    return None


def step_down(engine: Engine, registry: Registry, name: str) -> None:
    """Put the base in use again: delete the tag `<name>:latest`, so that no version of `name` is live.

    A `latest` that is none of the versions is kept, since byoai did not make it.
    """
    with registry.switching():
        if is_latest_ours(engine, registry, name):
            engine.delete(latest_tag(name))
        registry.step_down(name)


def choices(engine: Engine, prefix: str = PREFIX, registry: Registry | None = None) -> list[Choice]:
    """Return all of the engine's models that people can choose to chat with.

    Base models come first, in the engine's order, then fine-tuned models by name, the newest
    version first. `prefix` begins the name of every fine-tuned model. If `registry` is given,
    `Choice.refused` is set.
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
