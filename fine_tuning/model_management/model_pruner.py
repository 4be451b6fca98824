"""Make room: remove the tags and the runs of versions that nobody goes back to."""

import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from fine_tuning import paths
from fine_tuning.engines.base import Engine
from fine_tuning.model_management.model_deployer import TRIAL
from fine_tuning.model_management.model_registry import Registry, Version, latest_tag

_MANIFEST = "manifest.json"  # a run that has none is unfinished
_BEGINNING = ("config.yaml", "inputs.json")  # written before all else that a run holds
_ARTIFACTS = ("adapter.gguf", "model.gguf")


@dataclass(frozen=True)
class Pruned:
    """What goes, or went: a version's tag and run, or the run of a training that was never finished."""

    version: Version | None
    tag: str  # "" if the engine has none
    run: Path | None  # None if there is none any more
    bytes: int  # the run, and the engine's own copy of the weights


def prune(engine: Engine, registry: Registry, name: str, runs: Path, dry_run: bool = False) -> list[Pruned]:
    """Remove all versions of `name` but the live one, the one before it, and the pinned ones; and unfinished runs that are outdated.
    What was only found in the engine is not byoai's to remove.

    `runs` is the folder of the runs. Not while a retrain runs. The registry keeps the entries, as retired: numbers are never given
    again, and lineage stays known. Killed in between, the next call goes on. With `dry_run` nothing changes.
    """
    versions = registry.list(name)
    digests = {model.tag: model.digest for model in engine.list_models()}
    answering = digests.get(latest_tag(name))  # which the registry need not know, after a promotion that was interrupted
    kept = [
        version
        for version in versions
        if not version.made_here
        or version.pinned
        or version.state in ("live", "previous")
        or (answering and digests.get(version.tag) == answering)
    ]
    needed = {run for version in registry.list() if version.name != name or version in kept if (run := run_of(version))}
    found = list(_versions(digests.keys(), [version for version in versions if version not in kept], needed))
    found += [Pruned(None, "", run, _size(run)) for run in _outdated(runs) if run not in needed]
    if not dry_run:
        for each in found:
            _remove(engine, registry, each, digests.keys())
    return found


def remove_version(engine: Engine, registry: Registry, version: Version) -> Pruned:
    """Retire one version, made by byoai, and remove its tag and its run."""
    tags = {model.tag for model in engine.list_models()}
    (found,) = _versions(tags, [version], needed=set()) or [Pruned(version, "", None, 0)]
    _remove(engine, registry, found, tags)
    return found


def run_of(version: Version) -> Path | None:
    """The folder of the run that made a version; None if it is not known, or lies outside of the data folder."""
    run = (paths.home() / version.run).resolve() if version.run else None
    return run if run and run != paths.home().resolve() and run.is_relative_to(paths.home().resolve()) else None


def is_run(folder: Path) -> bool:
    """Return whether a run made what lies among the runs (an empty folder, too: it was killed at once), and nobody else."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return any((folder / name).exists() for name in (*_BEGINNING, _MANIFEST)) or not any(folder.iterdir())


def _versions(tags: Collection[str], versions: list[Version], needed: set[Path]) -> list[Pruned]:
    """Those of the versions that have a tag or a run; `tags` are the engine's."""
    found = []
    for version in versions:
        tag = version.tag if version.tag in tags else ""
        run = run_of(version)
        run = run if run and run.is_dir() and run not in needed else None
        if tag or run:
            copies = sum(_size(run / artifact) for artifact in _ARTIFACTS) if tag and run else 0
            found.append(Pruned(version, tag, run, (_size(run) if run else 0) + copies))
    return found


def _outdated(runs: Path) -> Iterator[Path]:
    """Unfinished runs that are older than a finished one: a retrain goes on only with what is newer."""
    finished = False
    for run in sorted(filter(is_run, runs.glob("*")), reverse=True):
        if (run / _MANIFEST).exists():
            finished = True
        elif finished:
            yield run.resolve()


def _remove(engine: Engine, registry: Registry, each: Pruned, tags: Collection[str]) -> None:
    # The registry first: what is still there after a crash is then found again, and nothing goes back to what is half gone.
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
