"""Copy the metrics of runs to MLflow's store (data/mlflow), if the extra byoai[mlflow] is installed.

A run's settings, curves, evaluation and verdict are read from its folder and its job's events. Only
numbers, names and paths are stored, never texts of conversations; report.html, which contains some,
is stored as a path only. When a job ends, a separate process does this (`python -m
fine_tuning.jobs.tracking`), since MLflow needs a quarter of a gigabyte of memory. `byoai mlflow`
does it every few seconds while it runs. A run may be copied again at any time: existing entries
are skipped.
"""

import contextlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.config.flat import dotted
from fine_tuning.errors import ByoaiError
from fine_tuning.events import Event, Finished, Step, from_record
from fine_tuning.jobs import processes, store
from fine_tuning.jobs.joblog import append, logged_to
from fine_tuning.jobs.store import Job, State
from fine_tuning.json_values import parse_json
from fine_tuning.runs import Run

INSTALL = f"{sys.executable} -m pip install '{paths.REPOSITORY}[mlflow]'"
# the fields of a Step that become curves
CURVES = ("loss", "validation_loss", "learning_rate", "tokens_per_second", "accuracy", "grad_norm", "epoch")
_STATUS = {State.COMPLETED: "FINISHED", State.FAILED: "FAILED", State.CANCELLED: "KILLED", State.INTERRUPTED: "KILLED"}
# the sections of the configuration that are stored
_SECTIONS = ("data_preparation", "augmentation", "training", "evaluation", "gate", "deployment")
# settings that contain people's texts, or possibly a password
_TEXTS = ("evaluation.test_prompts", "evaluation.canaries", "deployment.ollama_base_url")
_AT_ONCE = 1000  # metrics per call
_Point = tuple[str, float, float, int]  # a point of a curve: name, value, time (seconds since 1970), step


def is_installed() -> bool:
    """Return whether the extra byoai[mlflow] is installed.

    The smaller package mlflow-skinny does not count, since it lacks MLflow's pages.
    """
    return _there("mlflow")


def _there(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def store_uri() -> str:
    """Return the URI of MLflow's store. Raises ByoaiError if the folder's path contains '?', '#' or '%'."""
    file = paths.tracking_dir() / "mlflow.db"
    if set(str(file)) & set("?#%"):
        raise ByoaiError(
            f"MLflow cannot store data in {file.parent}, because it cannot open paths that contain '?', '#' or '%': "
            "set BYOAI_HOME to another folder"
        )
    return f"sqlite:///{file}"


def _alone() -> filelock.BaseFileLock:
    """Return the lock that a process holds while it uses the store, so that only one does at a time."""
    return filelock.FileLock(paths.tracking_dir() / "lock")


def begin(job: Job) -> None:
    """Start a process that copies the metrics of a finished job's run, if the job's configuration asks for that.

    If that is impossible, the reason is recorded in the job's log.
    """
    mode = _mode(job)
    if not job.run or mode == "off" or (mode == "auto" and not is_installed()):
        return
    if not is_installed() and not _there("mlflow-skinny"):
        append(
            job.log,
            f"not tracked: tracking.mlflow is on, and MLflow is not installed. To install it: {INSTALL}\n".encode(),
        )
        return
    try:
        processes.begin_aside(job, __name__, {"job": job.id, "log": str(job.log)})
    except OSError as error:
        append(job.log, f"not tracked: {error.strerror or error}\n".encode())


def _mode(job: Job) -> str:
    config = job.request.get("config")
    settings = config.get("tracking") if isinstance(config, dict) else None
    return str(settings.get("mlflow", "auto")) if isinstance(settings, dict) else "auto"


@contextlib.contextmanager
def _as_ours() -> Iterator[None]:
    """Turn any exception of the `with` block, or of the decorated function, into a ByoaiError."""
    try:
        yield
    except ByoaiError:
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise ByoaiError(
            f"MLflow's store in {paths.tracking_dir()} cannot be used: {type(error).__name__}: {said}. If it is "
            "damaged, delete this folder: `byoai mlflow` fills it again from the runs"
        ) from error


class Tracker:
    """Copies runs to MLflow's store. Only this class imports MLflow, and its methods raise only ByoaiError."""

    @_as_ours()
    def __init__(self) -> None:
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "_MLFLOW_"))]:
            del os.environ[name]  # for example the address of another store
        # must be set before MLflow is imported
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        paths.tracking_dir().mkdir(parents=True, exist_ok=True)
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        with _alone():  # the first client creates the tables
            self.client = MlflowClient(tracking_uri=store_uri(), registry_uri=store_uri())
            self.client.search_experiments(max_results=1)
        self._done: set[tuple[str, str]] | None = None  # marks (`_mark`) in the store; None until they are read

    @_as_ours()
    def catch_up(self) -> None:
        """Copy the metrics of running jobs, and of finished jobs that are not completely in the store."""
        jobs = [job for job in reversed(store.find(limit=1000)) if job.run and _mode(job) != "off"]
        if self._done is None:
            found = self.client.search_runs(
                [each.experiment_id for each in self.client.search_experiments()], max_results=5000
            )
            self._done = {mark for run in found for mark in run.data.tags.items()}
        for job in jobs:
            if _mark(job) not in self._done:
                self.track(job)
                self._done |= {_mark(job)} if job.over else set()

    @_as_ours()
    def track(self, job: Job) -> None:
        """Copy the settings, metrics and state of a job's run to the store; do nothing if the run was removed."""
        run = Run(Path(job.run))
        if not run.config.exists() or not run.inputs.exists():
            return
        with _alone():
            told = list(_told(job))
            id, fresh = self._open(job, run)
            self._log(id, _curves(told, {} if fresh else self._last_steps(id, told)))
            if run.evaluation.exists():
                when = run.evaluation.stat().st_mtime
                self._log(
                    id, [(name, value, when, 0) for name, value in figures(paths.read_json(run.evaluation)).items()]
                )
            for key, value in self._facts(run, told).items():
                self.client.set_tag(id, key, value)
            if run.finished:
                self.client.log_artifact(id, str(run.manifest))
            if job.over:
                self.client.set_terminated(id, _STATUS[job.state], int(1000 * (job.ended or time.time())))
            else:
                self.client.update_run(id, status="RUNNING")
            self.client.set_tag(id, *_mark(job))  # last, to mark the job as completely tracked

    def _open(self, job: Job, run: Run) -> tuple[str, bool]:
        """Return the store's id of a run, and whether the run was created there just now."""
        config, name = load_config(run.config), paths.safe_name(run.name)
        experiment = self._experiment(config)
        found = self.client.search_runs([experiment], f"tags.`byoai.run` = '{name}'", max_results=1)
        if found:
            return found[0].info.run_id, False
        # set explicitly, since MLflow's default includes the command line, which may contain texts
        tags = {"byoai.run": name, "mlflow.user": "byoai", "mlflow.source.name": "byoai"}
        made = self.client.create_run(experiment, int(1000 * (job.begun or job.created)), tags, name)
        for key, value in parameters(config, paths.read_json(run.inputs)).items():
            self.client.log_param(made.info.run_id, key, value[:500])
        return made.info.run_id, True

    def _experiment(self, config: FineTuningConfig) -> str:
        name = config.tuned_name()
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return str(self.client.create_experiment(name, (paths.tracking_dir() / "artifacts").as_uri()))
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _last_steps(self, id: str, told: list[tuple[float, Event]]) -> dict[str, int]:
        names = {f"{event.part}/{curve}" for _, event in told if isinstance(event, Step) for curve in CURVES}
        return {
            name: max((each.step for each in self.client.get_metric_history(id, name)), default=-1) for name in names
        }

    def _log(self, id: str, found: Iterable[_Point]) -> None:
        from mlflow.entities import Metric

        points = [Metric(_name(name), value, int(1000 * when), step) for name, value, when, step in found]
        for start in range(0, len(points), _AT_ONCE):
            self.client.log_batch(id, metrics=points[start : start + _AT_ONCE])

    def _facts(self, run: Run, told: list[tuple[float, Event]]) -> dict[str, str]:
        """Return what is stored about a run as text: paths of its files, how it ended, and the gate's results."""
        facts = {"folder": str(run.folder)}
        facts |= {
            file.name: str(file)
            for file in (run.report, run.adapter, run.adapter_gguf, run.model_gguf)
            if file.exists()
        }
        if ended := [event for _, event in told if isinstance(event, Finished)]:
            facts |= {"outcome": ended[-1].state, **({"version": ended[-1].tag} if ended[-1].tag else {})}
        if run.evaluation.exists():
            gate = paths.read_json(run.evaluation).get("gate") or {}
            facts["gate"] = "passed" if gate.get("passed") else "refused"
            for rule in gate.get("results", ()):
                state = "failed" if not rule["passed"] else "warned" if rule.get("warned") else "passed"
                facts[_name(f"gate.{rule['rule']}")] = state
        return facts


# Reading runs


def parameters(config: FineTuningConfig, inputs: Mapping[str, object]) -> dict[str, str]:
    """Return the settings that affect a training and the hashes of its data and base, by name, as texts.

    `inputs` is the content of the run's inputs.json. Settings that may contain people's texts or a
    password are left out.
    """
    found = dict(dotted({name: value for name, value in config.model_dump(mode="json").items() if name in _SECTIONS}))
    hashes = {
        "dataset": "dataset",
        "rows": "rows",
        "preferences": "preferences",
        "base_digest": "base.digest",
        "base": "base.tag",
    }
    found |= {name: inputs[key] for key, name in hashes.items() if inputs.get(key)}
    return {name: str(value) for name, value in found.items() if name not in _TEXTS and value is not None}


def figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in an evaluation.json by name: scores and speed of each model, and perplexity ratios."""
    found: dict[str, Any] = {}
    for model in ("base", "live", "tuned"):
        found |= {
            f"{model}/{metric}": value for metric, value in (evaluation.get(model) or {}).get("scores", {}).items()
        }
    for name, speed in (evaluation.get("speeds") or {}).items():
        found[f"{'tuned' if name == 'candidate' else name}/tokens_per_second"] = speed.get("tokens_per_second")
    for name in ("own_perplexity_ratio", "general_perplexity_ratio"):
        found |= {f"{name}/{end}": value for end, value in (evaluation.get(name) or {}).items()}
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _told(job: Job) -> Iterator[tuple[float, Event]]:
    """Yield (time in seconds since 1970, event) for a job's events; invalid lines of the file are skipped."""
    for line in job.events.read_bytes().split(b"\n") if job.events.exists() else []:
        try:
            record = parse_json(line)
            when, event = datetime.fromisoformat(record["time"]).timestamp(), from_record(record)
        except (ValueError, TypeError, KeyError):
            continue
        if event is not None:
            yield when, event


def _curves(told: Iterable[tuple[float, Event]], last: Mapping[str, int]) -> Iterator[_Point]:
    """Yield the points of all curves that are not stored yet.

    `last` holds the last stored step of each curve. Steps up to it are skipped, since a resumed run
    repeats some steps.
    """
    for when, event in told:
        if not isinstance(event, Step):
            continue
        for curve in CURVES:
            name, value = f"{event.part}/{curve}", getattr(event, curve)
            if value is not None and event.step > last.get(name, -1):
                yield name, value, when, event.step


def _name(text: str) -> str:
    """Return `text` with each character that MLflow does not allow in names replaced by "_"."""
    return re.sub(r"[^\w .:/-]", "_", text, flags=re.ASCII)


def _mark(job: Job) -> tuple[str, str]:
    """Return the name and value of the tag that says that a job is completely stored in its current state."""
    return f"job.{job.id}", f"{job.attempt} {job.state}"


def main() -> int:
    """Copy the metrics of a job to MLflow; stdin names the job as JSON (see `begin`). Errors go to the job's log.

    Return 1 if that failed, else 0.
    """
    told = json.load(sys.stdin)
    log = Path(told["log"])
    with logged_to(log):
        try:
            Tracker().track(store.get(told["job"]))
        except ByoaiError as error:
            append(log, f"not tracked: {error}\n".encode())
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
