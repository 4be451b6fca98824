"""Free disk space by removing the tags and runs of versions that are no longer needed."""

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
    """A version's tag and run, or an unfinished run, that was or would be removed."""

    version: Version | None
    tag: str  # "" if the engine lacks it
    run: Path | None  # the run's folder; None if it no longer exists, or other versions need it
    bytes: int  # size of the run and of the engine's copy of the weights


def prune(engine: Engine, registry: Registry, name: str, runs: Path, dry_run: bool = False) -> list[Pruned]:
    """Remove the tags and runs of all versions of `name` except those to keep; return what was removed.

    The live, the previous and pinned versions are kept, and versions that were only found in the
    engine, since byoai may not have made them. Unfinished runs are removed too if a newer run has
    finished. The registry keeps the removed versions as retired, so that numbers are not reused and
    lineage stays known. After an interruption the next call finishes the work. Do not call this
    during a retrain.

    Args:
        engine: The engine that has the tags.
        registry: The registry of the versions.
        name: The fine-tuned model.
        runs: The folder of all runs.
        dry_run: Return what would be removed, and change nothing.
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
    """Remove the tag and the run of one version, under the same rules as `prune`; return what was removed.

    `dry_run`: return what would be removed, and change nothing. Do not call this during a retrain.
    Raises ByoaiError for a version that `prune` keeps, and ModelNotFound if there is none.
    """
    version, digests = registry.get(name, number), {model.tag: model.digest for model in engine.list_models()}
    if why := why_kept(version, digests):
        raise ByoaiError(f"{version.tag} cannot be removed: {why}")
    needed = {run for other in registry.list() if other != version and (run := run_of(other))}
    found = next(iter(_versions(digests.keys(), [version], needed)), Pruned(version, "", None, 0))
    if not dry_run:
        _remove(engine, registry, found, digests.keys())
    return found


def why_kept(version: Version, digests: Mapping[str, str]) -> str:
    """Return the reason why a version must be kept; "" if it may be removed.

    `digests` holds the digests of the engine's models by tag; if it is empty, only the registry
    decides which version is live.
    """
    answering = digests.get(latest_tag(version.name))  # the registry may differ after an interrupted promotion
    if not version.made_here:
        return "it was only found in the engine, and may be somebody else's"
    if version.pinned:
        return "it is pinned"
    if version.state == "live" or (answering and digests.get(version.tag) == answering):
        return "it is live"
    return "it was live before, and a rollback returns to it" if version.state == "previous" else ""


def remove_version(engine: Engine, registry: Registry, version: Version) -> Pruned:
    """Remove the tag and the run of a version, even a live or pinned one, and retire it; return what was removed.

    Call it only for a version that byoai made (`Version.made_here`).
    """
    tags = {model.tag for model in engine.list_models()}
    (found,) = _versions(tags, [version], needed=set()) or [Pruned(version, "", None, 0)]
    _remove(engine, registry, found, tags)
    return found


def run_of(version: Version) -> Path | None:
    """Return the folder of the run that made a version; None if it is unknown or outside the data folder.

    The folder may no longer exist.
    """
    run = (paths.home() / version.run).resolve() if version.run else None
    return run if run and run != paths.home().resolve() and run.is_relative_to(paths.home().resolve()) else None


def without_run(version: Version, done: str) -> str:
    """Return the message for a version whose run is missing.

    `done` says what is impossible without the run, such as "merged".
    """
    if not version.run:
        return f"{version.tag} cannot be {done}, because byoai did not make it here: choose another version"
    return (
        f"{version.tag} cannot be {done}, because its run is missing: restore the folder {version.run} in the data "
        "folder, or choose another version"
    )


def _versions(tags: Collection[str], versions: list[Version], needed: set[Path]) -> list[Pruned]:
    """Return for each version what can be removed: its tag and its run.

    A version with neither is left out. `tags` are the engine's tags; runs in `needed` are not
    removed.
    """
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
    """Yield the unfinished runs that are older than a finished one, since a retrain never resumes these."""
    finished = False
    for run in all_runs(runs):
        if run.finished:
            finished = True
        elif finished:
            yield run.folder.resolve()


def _remove(engine: Engine, registry: Registry, each: Pruned, tags: Collection[str]) -> None:
    # The registry is updated first, so that after a crash no rollback returns to a half-removed version.
    if each.version:
        registry.retire(each.version.name, each.version.number)
    if each.tag:
        engine.delete(each.tag)
    if each.version and (trial := each.version.tag + TRIAL) in tags:
        engine.delete(trial)  # left over from a killed registration
    if each.run:
        shutil.rmtree(each.run)


def _size(path: Path) -> int:
    if not path.is_dir():
        return paths.stamp(path)[1]
    return sum(facts.st_size for _, facts in paths.files_in(path))
