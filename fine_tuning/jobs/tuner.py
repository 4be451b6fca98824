"""The pipeline for programs: trainings and retrains as jobs that go on when the program ends, or as
awaitables within it.

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
from fine_tuning.events import Event, EventReader, Watch, read_events
from fine_tuning.jobs.progress import Progress, progress_of
from fine_tuning.jobs.queue import GRACE, Queue
from fine_tuning.jobs.store import Job, State

if TYPE_CHECKING:
    from fine_tuning.outcome import Outcome
    from fine_tuning.plan import Plan
    from fine_tuning.workshop import Request

_Result = TypeVar("_Result")
_KINDS = ("train", "retrain")
_GLANCE = 0.2  # seconds between two looks at a job


@dataclass(frozen=True)
class FineTuningJob:
    """How a training stands."""

    id: str
    status: State  # equal to "queued", "running", "cancelling", "cancelled", "failed", "completed" or "interrupted"
    progress: float  # of the whole work, from 0 to 1
    stage: str = ""
    reason: str = ""  # in words, once it is over: what came of it, or why nothing did
    tag: str = ""  # of the version that was made
    told: Progress = field(default_factory=Progress, repr=False)

    @property
    def over(self) -> bool:
        return self.status not in (State.QUEUED, State.RUNNING, State.CANCELLING)


def get_model_fine_tuner(config: FineTuningConfig | None = None, ollama_url: str | None = None) -> "ModelFineTuner":
    """Return a ModelFineTuner; by default that of the configuration file and of the engine that answers."""
    return ModelFineTuner(config, ollama_url)


class ModelFineTuner:
    """Fine-tunes a base, on a dataset of one's own or on the log."""

    def __init__(
        self, config: FineTuningConfig | None = None, ollama_url: str | None = None, queue: Queue | None = None
    ) -> None:
        """`config`: of `plan` and `fine_tune`; default: the file's. `ollama_url`: default:
        OLLAMA_HOST, else the configuration's.
        """
        self._config, self._url, self._queue = config, ollama_url, queue or Queue()

    @property
    def config(self) -> FineTuningConfig:
        self._config = self._config or load_config()
        return self._config

    # A dataset of one's own

    async def prepare_dataset(
        self,
        dataset_path: str | Path,
        dataset_format: DatasetFormat | str = DatasetFormat.JSONL,
        output_format: DatasetFormat | str = DatasetFormat.JSONL,
        preprocessing_steps: Sequence[Mapping[str, object]] = (),
        output_path: str | Path | None = None,
    ) -> str:
        """Read a dataset, filter and change it step by step (data_preparation/preprocessing.py),
        and write it; return the file.

        Raises ConfigError for a wrong step, with its number, DataError for what cannot be read,
        NoConversations if nothing is left.
        """
        from fine_tuning.data_preparation.preprocessing import prepare

        target = Path(output_path) if output_path else None
        work = partial(prepare, dataset_path, dataset_format, output_format, preprocessing_steps or (), target)
        return str(await asyncio.to_thread(work))

    # Trainings that go on by themselves

    async def create_fine_tuning_job(
        self, config: FineTuningConfig, *, job_id: str | None = None, priority: int = 0
    ) -> str:
        """Ask for a training, on the configured dataset, or on the log where none is configured; return the job's id.

        It begins now or in its turn, in a process of its own, and goes on when this program ends.
        Asked again with the same `job_id`, it is the same job.
        """
        kind, settings = "retrain", config
        if (source := config.dataset.path) is not None:
            prepared = source
            if config.dataset.format != DatasetFormat.JSONL:
                prepared = Path(await self.prepare_dataset(source, config.dataset.format))
            elif not source.is_file():
                raise ConfigError(f"dataset_path: there is no file {source}")
            dataset = {"dataset.path": str(prepared.absolute()), "dataset.format": DatasetFormat.JSONL}
            kind, settings = "train", config.changed(dataset)
        request = {"config": settings.model_dump(mode="json"), "ollama_url": self._url}
        submit = partial(self._queue.submit, kind, request, id=job_id, priority=priority)
        return (await asyncio.to_thread(submit)).id

    async def get_fine_tuning_job(self, job_id: str) -> FineTuningJob:
        """Return how a job stands. JobNotFound if there is none."""
        return _told(await asyncio.to_thread(self._queue.get, job_id))

    async def list_fine_tuning_jobs(
        self, states: Collection[State] | None = None, limit: int = 100
    ) -> list[FineTuningJob]:
        """Return the trainings, newest first."""
        return [_told(job) for job in await asyncio.to_thread(self._queue.jobs, states, _KINDS, limit)]

    async def cancel_fine_tuning_job(
        self, job_id: str, *, discard: bool = False, grace: float = GRACE
    ) -> FineTuningJob:
        """Ask a job to stop; it is killed if it has not stopped by itself after `grace` seconds.

        `discard`: what it made goes; else `resume_fine_tuning_job` goes on from there.
        """
        return _told(await asyncio.to_thread(partial(self._queue.cancel, job_id, discard=discard, grace=grace)))

    async def resume_fine_tuning_job(self, job_id: str) -> FineTuningJob:
        """Go on with a job that was cancelled, failed, or interrupted."""
        return _told(await asyncio.to_thread(self._queue.resume, job_id))

    async def wait(self, job_id: str, timeout: float | None = None) -> FineTuningJob:
        """Return a job when it is over. TimeoutError after so many seconds; the job itself goes on."""
        async with asyncio.timeout(timeout):
            while not (job := await asyncio.to_thread(self._queue.get, job_id)).over:
                await asyncio.sleep(_GLANCE)
        return _told(job)

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[tuple[int, Event]]:
        """Yield what a job tells, each event with its number, from the number `after` on, until the job is over."""
        reader = EventReader((await asyncio.to_thread(self._queue.get, job_id)).events, after)
        while True:
            # before its events: what it told last is not missed
            over = (await asyncio.to_thread(self._queue.get, job_id)).over
            for event in await asyncio.to_thread(reader.read):
                yield event
            if over:
                return
            await asyncio.sleep(_GLANCE)

    async def register_fine_tuned_model(self, job_id: str) -> str:
        """Return the tag of the version that a completed job made, which answers in the engine from now on.

        The job itself has registered it. Where the engine has lost it since, it is made again from
        the run's files. ByoaiError if the job is not completed, or made no version.
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
        """Return what would be learned, and what it would take. Cancelled, it ends as `fine_tune` does."""
        from fine_tuning.engines.connect import connect
        from fine_tuning.planning import make_plan
        from fine_tuning.workshop import Workshop

        return await _stoppable(
            lambda told: make_plan(Workshop(self.config, connect(self._url, self.config), told, request)), watch
        )

    async def fine_tune(self, request: "Request | None" = None, watch: Watch | None = None) -> "Outcome":
        """Retrain in a thread of its own; `watch` is told what it does, in that thread. It is listed among the jobs.

        Cancelling the task stops it at its next safe point (a training step, an answer of an
        evaluation); the next retrain goes on from there. CancelledError is raised only then:
        nothing runs any more, and another retrain may begin.
        """
        from fine_tuning.jobs.doing import retrain_here

        return await _stoppable(lambda told: retrain_here(self.config, told, request, self._url), watch)


def _told(job: Job) -> FineTuningJob:
    progress = progress_of(event for _, event in read_events(job.events))
    share = 1.0 if job.state == State.COMPLETED else progress.share
    tag = progress.finished.tag if progress.finished else ""
    return FineTuningJob(job.id, job.state, share, progress.stage, job.reason, tag, progress)


def _registered(job: Job, url: str | None) -> str:
    """Return the tag of the version that a job made, and make it again where the engine has it no more."""
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
    """Return what `work` returns, which runs in a thread. When the task is cancelled, `work` is
    asked to stop, and waited for, however often that is asked.
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
            thread.exception()  # taken note of: that it was stopped, or failed on the way
        raise
