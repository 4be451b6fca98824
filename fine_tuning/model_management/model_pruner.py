"""Frees disk space: removes the tags and runs of versions that are no longer needed."""

import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fine_tuning import paths
from fine_tuning.engines.base import Engine
from fine_tuning.errors import ByoaiError
from fine_tuning.model_management.model_deployer import TRIAL
from fine_tuning.model_management.model_registry import Registry, Version, latest_tag
from fine_tuning.runs import Run, all_runs


@dataclass(frozen=True)
class Pruned:
    """Something that is removed, or would be: a version's tag and run, or the run of an unfinished training."""

    version: Version | None
    tag: str  # "" if the engine has none
    run: Path | None  # None if there is none any more
    bytes: int  # the run, and the engine's own copy of the weights


def prune(engine: Engine, registry: Registry, name: str, runs: Path, dry_run: bool = False) -> list[Pruned]:
    """Remove all versions of `name` but the live one, the one before it and pinned ones.

    Unfinished runs that are outdated are removed too. Versions that were only found in the engine
    are kept: byoai did not make them. `runs` is the folder of the runs. The registry keeps the
    entries as retired, so that numbers are never reused and lineage stays known. After an
    interruption the next call finishes the work. With `dry_run` nothing changes. Do not call it
    while a retrain runs.
    """
    versions = registry.list(name)
    digests = {model.tag: model.digest for model in engine.list_models()}
    kept = [version for version in versions if why_kept(version, digests)]
    needed = {run for version in registry.list() if version.name != name or version in kept if (run := run_of(version))}
    found = list(_versions(digests.keys(), [version for version in versions if version not in kept], needed))
    found += [Pruned(None, "", run, _size(run)) for run in _outdated(runs) if run not in needed]
    if not dry_run:
        for each in found:
            _remove(engine, registry, each, digests.keys())
    return found


def prune_one(engine: Engine, registry: Registry, name: str, number: int, dry_run: bool = False) -> Pruned:
    """Remove one version as `prune` removes all.

    Raises ByoaiError for one that `prune` keeps. With `dry_run` nothing changes. Do not call it
    while a retrain runs.
    """
    version, digests = registry.get(name, number), {model.tag: model.digest for model in engine.list_models()}
    if why := why_kept(version, digests):
        raise ByoaiError(f"{version.tag} is kept: {why}")
    needed = {run for other in registry.list() if other != version and (run := run_of(other))}
    found = next(iter(_versions(digests.keys(), [version], needed)), Pruned(version, "", None, 0))
    if not dry_run:
        _remove(engine, registry, found, digests.keys())
    return found


def why_kept(version: Version, digests: Mapping[str, str]) -> str:
    """Return why a version is not removed; "" if it may go.

    `digests`: of the engine's models, by tag; without them the registry counts.
    """
    answering = digests.get(latest_tag(version.name))  # after an interrupted promotion the registry may name another
    if not version.made_here:
        return "it was only found in the engine, and may be somebody else's"
    if version.pinned:
        return "it is pinned"
    if version.state == "live" or (answering and digests.get(version.tag) == answering):
        return "it is live"
    return "it was live before, and a rollback returns to it" if version.state == "previous" else ""


def remove_version(engine: Engine, registry: Registry, version: Version) -> Pruned:
    """Retire one version, made by byoai, and remove its tag and its run."""
    tags = {model.tag for model in engine.list_models()}
    (found,) = _versions(tags, [version], needed=set()) or [Pruned(version, "", None, 0)]
    _remove(engine, registry, found, tags)
    return found


def run_of(version: Version) -> Path | None:
    """Return the folder of the run that made a version; None if it is unknown or lies outside of the data folder."""
    run = (paths.home() / version.run).resolve() if version.run else None
    return run if run and run != paths.home().resolve() and run.is_relative_to(paths.home().resolve()) else None


def _versions(tags: Collection[str], versions: list[Version], needed: set[Path]) -> list[Pruned]:
    """Return what would be removed of `versions`: those that have a tag or a run. `tags` are the engine's."""
    found = []
    for version in versions:
        tag = version.tag if version.tag in tags else ""
        run = run_of(version)
        run = run if run and run.is_dir() and run not in needed else None
        if tag or run:
            copies = (
                sum(_size(artifact) for artifact in (Run(run).adapter_gguf, Run(run).model_gguf)) if tag and run else 0
            )
            found.append(Pruned(version, tag, run, (_size(run) if run else 0) + copies))
    return found


def _outdated(runs: Path) -> Iterator[Path]:
    """Return unfinished runs that are older than a finished one: a retrain resumes only newer ones."""
    finished = False
    for run in all_runs(runs):
        if run.finished:
            finished = True
        elif finished:
            yield run.folder.resolve()


def _remove(engine: Engine, registry: Registry, each: Pruned, tags: Collection[str]) -> None:
    # The registry first: after a crash, leftovers are found again, and no rollback returns to a half-removed version.
    if each.version:
        registry.retire(each.version.name, each.version.number)
    if each.tag:
        engine.delete(each.tag)
    if each.version and (trial := each.version.tag + TRIAL) in tags:
        engine.delete(trial)  # left by a registration that was killed
    if each.run:
        shutil.rmtree(each.run)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
