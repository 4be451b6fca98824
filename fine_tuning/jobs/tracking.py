"""The figures of runs in MLflow's store (data/mlflow), for those who installed the extra byoai[mlflow].

A run's settings, curves, evaluation and verdict are read from its folder and from what its job
told: numbers, names and paths. What was said, asked or answered never gets there; report.html,
which shows some of it, is only named. That is done when the job has ended, by a process of its own
(`python -m fine_tuning.jobs.tracking`), because MLflow takes a quarter of a gigabyte, which a
training needs itself; and every few seconds while `byoai mlflow` shows the store. It may be done
any number of times: what is there already is left out.
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
from fine_tuning.config_flat import dotted
from fine_tuning.errors import ByoaiError
from fine_tuning.events import Event, Finished, Step, from_record
from fine_tuning.jobs import processes, store
from fine_tuning.jobs.joblog import append, logged_to
from fine_tuning.jobs.store import Job, State
from fine_tuning.runs import Run

INSTALL = f"{sys.executable} -m pip install '{paths.REPOSITORY}[mlflow]'"
CURVES = ("loss", "validation_loss", "learning_rate", "tokens_per_second", "accuracy", "grad_norm", "epoch")
_STATUS = {State.COMPLETED: "FINISHED", State.FAILED: "FAILED", State.CANCELLED: "KILLED", State.INTERRUPTED: "KILLED"}
_SECTIONS = ("data_preparation", "augmentation", "training", "evaluation", "gate", "deployment")
# said by people, or perhaps with a password
_TEXTS = ("evaluation.test_prompts", "evaluation.canaries", "deployment.ollama_base_url")
_AT_ONCE = 1000  # metrics in a call
# of a curve: its name, its value, when it was told (seconds since 1970), the step
_Point = tuple[str, float, float, int]


def is_installed() -> bool:
    """Return whether the extra is installed. MLflow's smaller package, which other programs bring
    along, is not it: it has no pages.
    """
    return _there("mlflow")


def _there(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def store_uri() -> str:
    """Return the store as MLflow names it. ByoaiError for a folder that no such name can lead to."""
    file = paths.tracking_dir() / "mlflow.db"
    if set(str(file)) & set("?#%"):
        raise ByoaiError(
            f"MLflow's store cannot lie in {file.parent}: a name with '?', '#' or '%' in it leads it elsewhere"
        )
    return f"sqlite:///{file}"


def _alone() -> filelock.BaseFileLock:
    """Return what keeps other processes of byoai out of the store."""
    return filelock.FileLock(paths.tracking_dir() / "lock")


def begin(job: Job) -> None:
    """Begin to track the run of a job that has ended, if its settings ask for that."""
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
    """Turn whatever is raised into a ByoaiError."""
    try:
        yield
    except ByoaiError:
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise ByoaiError(
            f"MLflow's store in {paths.tracking_dir()} cannot be used: {type(error).__name__}: {said}"
        ) from error


class Tracker:
    """Writes into the store, and is the only place that imports MLflow. Its methods raise ByoaiError."""

    @_as_ours()
    def __init__(self) -> None:
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "_MLFLOW_"))]:
            del os.environ[name]  # another store's address, say
        # nothing is told to anybody; it is read when MLflow is imported
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        paths.tracking_dir().mkdir(parents=True, exist_ok=True)
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        with _alone():  # the first one makes the tables
            self.client = MlflowClient(tracking_uri=store_uri(), registry_uri=store_uri())
            self.client.search_experiments(max_results=1)
        self._done: set[tuple[str, str]] | None = None  # what is there of ended jobs, by their marks

    @_as_ours()
    def catch_up(self) -> None:
        """Track the jobs that run, and those that have ended and are not in the store, as from
        before the extra was installed.
        """
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
        """Write what is known of a job's run. Nothing is written of a run that was removed."""
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
            self.client.set_tag(id, *_mark(job))  # last: it says that all of this job is there

    def _open(self, job: Job, run: Run) -> tuple[str, bool]:
        """Return the id of a run in the store, and whether it was made just now."""
        config, name = load_config(run.config), paths.safe_name(run.name)
        experiment = self._experiment(config)
        found = self.client.search_runs([experiment], f"tags.`byoai.run` = '{name}'", max_results=1)
        if found:
            return found[0].info.run_id, False
        # not the command line: it may hold texts
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
        """Return what a run is described by: names, states and paths."""
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


# What is read


def parameters(config: FineTuningConfig, inputs: Mapping[str, object]) -> dict[str, str]:
    """Return the settings that decide what becomes of a training, and the hashes of what was
    learned and of the base.
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
    """Return the numbers of an evaluation.json: each model's scores and speed, and how the new one compares."""
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
    """Yield what a job told, each with when (seconds since 1970). A line that is torn, or no event, is left out."""
    for line in job.events.read_bytes().split(b"\n") if job.events.exists() else []:
        try:
            record = json.loads(line)
            when, event = datetime.fromisoformat(record["time"]).timestamp(), from_record(record)
        except (ValueError, TypeError, KeyError):
            continue
        if event is not None:
            yield when, event


def _curves(told: Iterable[tuple[float, Event]], last: Mapping[str, int]) -> Iterator[_Point]:
    """Yield the points of all curves that come after the `last` step that is there: a resumed run repeats some."""
    for when, event in told:
        if not isinstance(event, Step):
            continue
        for curve in CURVES:
            name, value = f"{event.part}/{curve}", getattr(event, curve)
            if value is not None and event.step > last.get(name, -1):
                yield name, value, when, event.step


def _name(text: str) -> str:
    """Return `text` as MLflow takes a name."""
    return re.sub(r"[^\w .:/-]", "_", text, flags=re.ASCII)


def _mark(job: Job) -> tuple[str, str]:
    """Return the tag, and its value, that a run carries once a job is tracked as it stands."""
    return f"job.{job.id}", f"{job.attempt} {job.state}"


def main() -> int:
    """Track the job that stdin tells; what goes wrong is a line in its log."""
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
