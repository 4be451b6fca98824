"""The Python API: run trainings as jobs that outlive the program, or as coroutines within it.

>>> tuner = get_model_fine_tuner()
>>> prepared = await tuner.prepare_dataset("data/raw.csv", DatasetFormat.CSV)  # doctest: +SKIP
>>> job_id = await tuner.create_fine_tuning_job(FineTuningConfig(dataset_path=prepared, epochs=3))  # doctest: +SKIP
>>> job = await tuner.wait(job_id)  # doctest: +SKIP
>>> tag = await tuner.register_fine_tuned_model(job_id)  # doctest: +SKIP
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fine_tuning import paths
from fine_tuning.config import DatasetFormat, FineTuningConfig, load_config
from fine_tuning.errors import ByoaiError, ConfigError
from fine_tuning.events import Event, EventReader, Watch
from fine_tuning.jobs.progress import Progress, progress_of_job
from fine_tuning.jobs.queue import GRACE, Queue
from fine_tuning.jobs.store import Job, State

if TYPE_CHECKING:
    from fine_tuning.outcome import Outcome
    from fine_tuning.plan import Plan
    from fine_tuning.workshop import Request

_Result = TypeVar("_Result")
_KINDS = ("train", "retrain")
_GLANCE = 0.2  # seconds between checks of a job


@dataclass(frozen=True)
class FineTuningJob:
    """The state of a training job."""

    id: str
    status: State  # equal to "queued", "running", "cancelling", "cancelled", "failed", "completed" or "interrupted"
    progress: float  # share of the work that is done, from 0 to 1
    stage: str = ""
    reason: str = ""  # the outcome as text, once it is over
    tag: str = ""  # tag of the version that it made; "" if it made none
    told: Progress = field(default_factory=Progress, repr=False)  # its steps, notes and plan

    @property
    def over(self) -> bool:
        return self.status not in (State.QUEUED, State.RUNNING, State.CANCELLING)


def get_model_fine_tuner(config: FineTuningConfig | None = None, ollama_url: str | None = None) -> "ModelFineTuner":
    """Return a ModelFineTuner. For the arguments see `ModelFineTuner.__init__`."""
    return ModelFineTuner(config, ollama_url)


class ModelFineTuner:
    """Fine-tunes a base model on a dataset of the user, or on the user's logged conversations."""

    def __init__(
        self, config: FineTuningConfig | None = None, ollama_url: str | None = None, queue: Queue | None = None
    ) -> None:
        """Set the configuration, the engine and the queue.

        Args:
            config: The configuration for `plan` and `fine_tune`; by default the configuration file.
            ollama_url: The URL of Ollama; by default OLLAMA_HOST, or else the URL in the
                configuration.
            queue: The queue of jobs; by default the queue of the data folder.
        """
        self._config, self._url, self._queue = config, ollama_url, queue or Queue()

    @property
    def config(self) -> FineTuningConfig:
        self._config = self._config or load_config()
        return self._config

    # The user's own dataset

    async def prepare_dataset(
        self,
        dataset_path: str | Path,
        dataset_format: DatasetFormat | str = DatasetFormat.JSONL,
        output_format: DatasetFormat | str = DatasetFormat.JSONL,
        preprocessing_steps: Sequence[Mapping[str, object]] = (),
        output_path: str | Path | None = None,
    ) -> str:
        """Read a dataset, apply the preprocessing steps to it, and write it; return the path of the new file.

        For the steps see data_preparation/preprocessing.py. The file is `output_path`, by default a
        file in data/prepared/. Raises ConfigError for an invalid step, with its number; DataError if
        the dataset cannot be read; NoConversations if no record is left.
        """
        from fine_tuning.data_preparation.preprocessing import prepare

        target = Path(output_path) if output_path else None
        work = partial(prepare, dataset_path, dataset_format, output_format, preprocessing_steps or (), target)
        return str(await asyncio.to_thread(work))

    # Trainings as jobs

    async def create_fine_tuning_job(
        self, config: FineTuningConfig, *, job_id: str | None = None, priority: int = 0
    ) -> str:
        """Submit a training on the configured dataset, or on the log if there is none; return the job's id.

        The job runs in its own process, at once or after the jobs before it, and outlives this
        program. If a job with the id `job_id` and the same request exists, its id is returned. Jobs
        with a higher `priority` start first. Raises ConfigError if the dataset does not exist, or
        `job_id` belongs to another request.
        """
        kind, settings = "retrain", config
        if (source := config.dataset.path) is not None:
            prepared = source
            if config.dataset.format != DatasetFormat.JSONL:
                prepared = Path(await self.prepare_dataset(source, config.dataset.format))
            elif not source.is_file():
                raise ConfigError(f"dataset_path: there is no file {source}: check the path")
            dataset = {"dataset.path": str(prepared.absolute()), "dataset.format": DatasetFormat.JSONL}
            kind, settings = "train", config.changed(dataset)
        request = {"config": settings.model_dump(mode="json"), "ollama_url": self._url}
        submit = partial(self._queue.submit, kind, request, id=job_id, priority=priority)
        return (await asyncio.to_thread(submit)).id

    async def get_fine_tuning_job(self, job_id: str) -> FineTuningJob:
        """Return the state of a job. Raises JobNotFound if no job has this id."""
        return _told(await asyncio.to_thread(self._queue.get, job_id))

    async def list_fine_tuning_jobs(
        self, states: Collection[State] | None = None, limit: int = 100
    ) -> list[FineTuningJob]:
        """Return at most `limit` training jobs, newest first: those in one of `states`, by default all."""
        return [_told(job) for job in await asyncio.to_thread(self._queue.jobs, states, _KINDS, limit)]

    async def cancel_fine_tuning_job(
        self, job_id: str, *, discard: bool = False, grace: float = GRACE
    ) -> FineTuningJob:
        """Ask a job to stop, and return its state; after `grace` seconds it is killed.

        `discard`: remove the job's output, from which `resume_fine_tuning_job` could otherwise
        continue. Raises JobNotFound if no job has this id.
        """
        return _told(await asyncio.to_thread(partial(self._queue.cancel, job_id, discard=discard, grace=grace)))

    async def resume_fine_tuning_job(self, job_id: str) -> FineTuningJob:
        """Resume a job that was cancelled, failed or interrupted; return its state.

        Raises WrongState for any other job, and JobNotFound if no job has this id.
        """
        return _told(await asyncio.to_thread(self._queue.resume, job_id))

    async def wait(self, job_id: str, timeout: float | None = None) -> FineTuningJob:
        """Wait until a job is over, and return its state.

        Raises TimeoutError after `timeout` seconds (None: never); the job then continues.
        """
        async with asyncio.timeout(timeout):
            while not (job := await asyncio.to_thread(self._queue.get, job_id)).over:
                await asyncio.sleep(_GLANCE)
        return _told(job)

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[tuple[int, Event]]:
        """Yield (number, event) for the events of a job with numbers above `after`, until the job is over."""
        reader = EventReader((await asyncio.to_thread(self._queue.get, job_id)).events, after)
        while True:
            # before the events are read: if the job is over, all its events are there
            over = (await asyncio.to_thread(self._queue.get, job_id)).over
            for event in await asyncio.to_thread(reader.read):
                yield event
            if over:
                return
            await asyncio.sleep(_GLANCE)

    async def register_fine_tuned_model(self, job_id: str) -> str:
        """Return the tag of the version that a completed job made.

        The job itself has registered the version. If the engine has lost it, it is recreated from
        the run's files. Raises ByoaiError if the job is not completed, or made no version.
        """
        job = await asyncio.to_thread(self._queue.get, job_id)
        if job.state != State.COMPLETED:
            raise ByoaiError(
                f"the job {job_id} is {job.state}{f' ({job.reason})' if job.reason else ''}: only a completed one "
                "has a model"
            )
        return await asyncio.to_thread(_registered, job, self._url)

    # Within this program

    async def plan(self, request: "Request | None" = None, watch: Watch | None = None) -> "Plan":
        """Return the plan of a retrain: what it would learn, and the memory and time that it would take.

        For the arguments, and for what happens when the task is cancelled, see `fine_tune`.
        """
        from fine_tuning.engines.connect import connect
        from fine_tuning.planning import make_plan
        from fine_tuning.workshop import Workshop

        return await _stoppable(
            lambda told: make_plan(Workshop(self.config, connect(self._url, self.config), told, request)), watch
        )

    async def fine_tune(self, request: "Request | None" = None, watch: Watch | None = None) -> "Outcome":
        """Retrain in a thread of this process, and return the outcome. The retrain is listed as a job.

        Cancelling the task stops the retrain at its next safe point (a training step, an answer of
        an evaluation), from which the next training resumes. CancelledError is raised only after
        everything has stopped, so another training may start at once.

        Args:
            request: The options of the retrain, such as `force`.
            watch: Receives the events, in the retrain's thread.

        Raises the errors of `pipeline.retrain`.
        """
        from fine_tuning.jobs.doing import retrain_here

        return await _stoppable(lambda told: retrain_here(self.config, told, request, self._url), watch)


def _told(job: Job) -> FineTuningJob:
    progress = progress_of_job(job)
    share = 1.0 if job.state == State.COMPLETED else progress.share
    tag = progress.finished.tag if progress.finished else ""
    return FineTuningJob(job.id, job.state, share, progress.stage, job.reason, tag, progress)


def _registered(job: Job, url: str | None) -> str:
    """Return the tag of the version that a job made; recreate the tag if the engine has lost it."""
    from fine_tuning.engines.connect import connect
    from fine_tuning.model_management.model_deployer import restore
    from fine_tuning.model_management.model_registry import Registry

    result = paths.read_json(job.result)
    if not (tag := str(result.get("tag") or "")):
        raise ByoaiError(f"the job {job.id} made no version: {result.get('reason') or job.reason}")
    config = FineTuningConfig.model_validate(job.request["config"])
    engine = connect(url or job.request["ollama_url"], config)
    if all(model.tag != tag for model in engine.list_models()):
        restore(engine, Registry().get(config.tuned_name(), int(result["version"])))
    return tag


async def _stoppable(work: Callable[[Watch], _Result], watch: Watch | None) -> _Result:
    """Run `work` in a thread with a Watch, and return its result.

    When the task is cancelled, the Watch asks `work` to stop, and CancelledError is raised after
    `work` has ended. The Watch also passes the events on to `watch`, and asks `work` to stop when
    `watch` does.
    """
    stopped, given = threading.Event(), watch or Watch()
    asked = replace(given, stopping=lambda: stopped.is_set() or given.stopping())
    thread = asyncio.get_running_loop().run_in_executor(None, work, asked)
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        stopped.set()
        while not thread.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([thread])
        if not thread.cancelled():
            thread.exception()  # retrieve the exception, so that asyncio does not log it
        raise
