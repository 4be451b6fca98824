"""Begin, watch and stop a training from a page, independently of Streamlit.

A training is a job, whatever started it (this page, another one, a terminal, cron), and its folder
contains its events. So a page that was reloaded, or a server that was restarted, still shows it.
"""

from dataclasses import dataclass, field

from fine_tuning.config import FineTuningConfig
from fine_tuning.errors import Busy, ByoaiError
from fine_tuning.events import Finished, read_events
from fine_tuning.jobs.progress import Progress, progress_of_job
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import Job, State
from fine_tuning.profiles import FEW_SHOT, document_profile, laid_below
from fine_tuning.runs import holder

TITLES = {  # how a training ended, by the state of its `Finished`
    "live": "Trained, and better: the new version answers",
    "registered": "Trained: the new version waits for you",
    "refused": "Trained, but not better: the old version stays",
    "no version": "No new version",
    "done": "Done",
    "stopped": "Stopped. The next time goes on from here",
    "failed": "The training failed",
}
_KINDS = ("retrain", "train")
_PATIENCE = 20.0  # seconds for a training to emit its first event, or an error


@dataclass(frozen=True)
class Learning:
    """The running training, or the last one."""

    job: Job | None = None
    told: Progress = field(default_factory=Progress)

    @property
    def known(self) -> bool:
        """Whether there has been a training at all."""
        return self.job is not None

    @property
    def running(self) -> bool:
        """Whether a training is running, or waiting in the queue."""
        return self.job is not None and not self.job.over

    @property
    def broke_off(self) -> bool:
        """Whether the last training was interrupted: its process was killed, or the machine or its server went down."""
        return self.job is not None and self.job.state == State.INTERRUPTED


def look(queue: Queue | None = None) -> Learning:
    """Return the state of the running training; if none is running, of the waiting or the last one."""
    jobs = (queue or Queue()).jobs(kinds=_KINDS, limit=20)
    running, waiting = (
        [each for each in jobs if wanted(each)] for wanted in (lambda each: each.active, lambda each: not each.over)
    )
    job = next(iter([*running, *waiting, *jobs]), None)
    if job is None:
        return Learning()
    return Learning(job, progress_of_job(job))


def least_turns(config: FineTuningConfig) -> int:
    """Return the minimum number of recorded turns for a training, with the profile for few turns."""
    return min(config.training.min_pairs, for_few(config).training.min_pairs)


def for_few(config: FineTuningConfig) -> FineTuningConfig:
    """Return the settings with the profile for few turns, which changes only values that the user has not set."""
    return laid_below(config, FEW_SHOT)


def profile_of_log(config: FineTuningConfig, turns: int, documents: int = 0) -> str:
    """Return the name of the profile for a log of `turns` turns, of which `documents` were made from documents.

    Return "" if no profile is used.
    """
    return document_profile(turns, documents) or (FEW_SHOT if turns < config.training.min_pairs else "")


def start(config: FineTuningConfig, turns: int, ollama_url: str | None = None, documents: int = 0) -> Job:
    """Submit a training on the log as a job, which continues when this process ends; return the job.

    `turns` is the number of turns in the log, and `documents` how many of them were made from
    documents; both decide which profile is used. Raises Busy if a training is running or waiting, and
    ByoaiError if the new one fails at once.
    """
    profile = profile_of_log(config, turns, documents)
    settings = laid_below(config, profile) if profile else config
    return begin("retrain", {"config": settings.model_dump(mode="json"), "auto": True, "ollama_url": ollama_url})


def begin(kind: str, request: dict[str, object]) -> Job:
    """Submit a training (`retrain` or `train`); return the job when it has emitted an event or waits in the queue.

    Raises Busy if a training is running or waiting, and ByoaiError if the new one fails at once.
    """
    now = look()
    if now.running and now.job:
        raise Busy(f"another training is {now.job.state} ({now.job.origin or now.job.id}): wait for it, or stop it")
    if running := holder():
        raise Busy(f"another training is running ({running}): wait for it, or stop it")
    queue = Queue()
    job = _begun(queue, queue.submit(kind, request, origin="the page"))
    if job.state == State.FAILED:
        raise ByoaiError(job.reason)
    return job


def _begun(queue: Queue, job: Job) -> Job:
    """Return the job as soon as it has emitted an event, is over, or waits in the queue."""
    for _ in range(round(_PATIENCE / 0.1)):
        if not job.active or any(not isinstance(event, Finished) for _, event in read_events(job.events)):
            break
        job = queue.wait(job.id, 0.1)
    return queue.get(job.id)


def stop() -> bool:
    """Ask the running training to stop at its next safe point, from which the next one continues.

    Return False if none is running.
    """
    now = look()
    if not now.running or now.job is None:
        return False
    Queue().cancel(now.job.id)
    return True
