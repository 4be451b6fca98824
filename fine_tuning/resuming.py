"""Open the folder of a run: a new folder, or that of an interrupted retrain, which is then resumed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import yaml

from fine_tuning import paths
from fine_tuning.config import load_config
from fine_tuning.data_collection.log.index import Mark
from fine_tuning.data_preparation.dataset_builder import MANIFEST, Dataset
from fine_tuning.data_preparation.preference_builder import read_preference_data
from fine_tuning.durations import keep_forecast
from fine_tuning.errors import ConfigError
from fine_tuning.events import RunOpened
from fine_tuning.model_management.model_deployer import reconcile
from fine_tuning.model_management.model_pruner import run_of, without_run
from fine_tuning.model_management.model_registry import Version
from fine_tuning.plan import Plan
from fine_tuning.planning import (
    check_deployment,
    check_engine,
    check_folders,
    preference_method,
    replay_prompts,
)
from fine_tuning.runs import Run, all_runs
from fine_tuning.workshop import Workshop


def open_run(shop: Workshop, plan: Plan) -> tuple[Run, Plan]:
    """Return the run to store results in, and the plan to follow in it.

    If there is an unfinished run with the same settings and base, return the newest one, and `plan`
    with the data of that run; otherwise a new run, and `plan` itself.
    """
    resolved = plan.config.model_dump(mode="json")
    inputs = {
        "dataset": plan.dataset.path.name,
        "rows": plan.rows.name,
        "preferences": plan.preferences.path.parent.name,
        "base_digest": plan.base.gguf_digest,
        "base": plan.base.tag,
        "seen": plan.seen,
        "context": plan.context,
        "mark": plan.mark and asdict(plan.mark),
    }
    for run in all_runs(plan.config.runs_dir):
        if run.finished:
            break
        if run.inputs.exists() and (found := _resumable(shop, plan, run, resolved)):
            run.forecast.unlink(missing_ok=True)  # the measured times will be only those of the remaining work
            shop.watch.tell(RunOpened(str(run.folder), resumed=True))
            return run, replace(plan, **found)
    run = Run(plan.config.runs_dir / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{plan.dataset.path.name[:8]}")
    run.folder.mkdir(parents=True)
    paths.atomic_write(run.config, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
    paths.write_json(run.inputs, inputs)
    keep_forecast(run, plan.config, plan.times, plan.around.pace)
    shop.watch.tell(RunOpened(str(run.folder), resumed=False))
    return run, plan


def run_behind(version: Version, done: str) -> Run:
    """Return the run that made `version`. Raises ConfigError if its folder is missing.

    `done`: what was to be done with the version, for the message ("merged").
    """
    folder = run_of(version)
    if folder is None or not folder.is_dir():
        raise ConfigError(without_run(version, done))
    return Run(folder)


def check_shop(shop: Workshop) -> None:
    """Check folders, deployment and engine before a version is made from others.

    Differences between registry and engine are repaired, and the user is told about them. Raises
    what the checks in planning.py raise.
    """
    for finding in reconcile(shop.engine, shop.registry, shop.name):
        shop.watch.note(finding.text)
    check_folders(shop)
    check_deployment(shop)
    check_engine(shop)


@contextmanager
def fresh_run(shop: Workshop, label: str, inputs: dict[str, Any]) -> Iterator[Run]:
    """Yield a new run without training, for a version that is made from others.

    `inputs` are recorded in the run, and list the other versions as `made_of`. `label` is a part of
    the folder's name. Such a run is never resumed. It is removed if no version is registered for
    it.
    """
    run = Run(shop.config.runs_dir / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{label}-{inputs['dataset'][:8]}")
    run.folder.mkdir(parents=True)
    shop.watch.tell(RunOpened(str(run.folder), resumed=False))
    try:
        settings = shop.config.model_dump(mode="json")
        paths.atomic_write(run.config, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        paths.write_json(run.inputs, {"base_digest": shop.base.gguf_digest, "base": shop.base.tag, **inputs})
        yield run
    finally:
        if not any(run_of(version) == run.folder.resolve() for version in shop.registry.list(shop.name)):
            shutil.rmtree(run.folder, ignore_errors=True)


def _resumable(shop: Workshop, plan: Plan, run: Run, resolved: dict[str, Any]) -> dict[str, Any] | None:
    """Return new values for fields of `plan`, with which `run` is resumed; None if it cannot be resumed.

    `resolved` is the configuration. The user is told whether the run is resumed, and if not, why.
    """
    before = paths.read_json(run.inputs)
    if "made_of" in before:  # see fresh_run
        return None
    rows = paths.datasets_dir() / before["dataset"] / before["rows"]
    same = _learned_as(load_config(run.config).model_dump(mode="json")) == _learned_as(resolved)
    there = all(
        (folder / MANIFEST).exists() for folder in (rows, paths.datasets_dir() / str(before.get("preferences")))
    )
    if not same or before["base_digest"] != plan.base.gguf_digest or not there:
        shop.watch.note(
            f"{run.name} was interrupted, but its settings, base or data have changed since: a new training is "
            "started, and that run is kept"
        )
        return None
    found = _data_of(plan, before)
    later = len(set(plan.seen) - set(before["seen"]))
    more = f" ({later} newer turns come with the next training)" if later else ""
    shop.watch.note(f"{run.name} was interrupted: it continues from its last complete checkpoint{more}")
    return found


def plan_of_run(plan: Plan, run: Run) -> Plan:
    """Return `plan` with the data that `run` recorded. Raises ConfigError if the data no longer exist."""
    before = paths.read_json(run.inputs)
    rows = paths.datasets_dir() / before["dataset"] / before["rows"]
    if not (rows / MANIFEST).exists():
        raise ConfigError(
            f"the data that {run.name} was trained on was deleted, so its version cannot be evaluated. Retrain "
            "instead: the new version is evaluated automatically"
        )
    return replace(plan, **_data_of(plan, before))


def _data_of(plan: Plan, before: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a plan that describe its data, with the values for the data of an earlier run.

    `before`: the recorded inputs of that run. The configuration is that of `plan`.
    """
    rows = paths.datasets_dir() / before["dataset"] / before["rows"]
    preferences = read_preference_data(paths.datasets_dir() / before["preferences"])
    counts = paths.read_json(rows / MANIFEST)["splits"]
    return {
        "dataset": Dataset(rows.parent),
        "rows": rows,
        "preferences": preferences,
        "preference_method": preference_method(plan.config, preferences),
        "counts": counts,
        "replay_prompts": replay_prompts(plan.config, counts),
        "seen": before["seen"],
        "context": before.get("context", ()),
        "mark": Mark(**before["mark"]) if before.get("mark") else None,
    }


def _learned_as(resolved: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration `resolved` without settings that do not affect the result of the training.

    `batch_tokens` is one of them. `--auto` may choose another value when a run is resumed, since
    another amount of memory is free.
    """
    training = {key: value for key, value in resolved["training"].items() if key != "batch_tokens"}
    return {
        **{key: value for key, value in resolved.items() if key not in ("schedule", "notify", "tracking")},
        "training": training,
    }
