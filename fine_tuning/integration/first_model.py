"""Help the user to the first model: a message if there is none, and the job that downloads one.

Chat, Models and Train offer a button; `byoai doctor` and all commands that need a model name the
command. Both download the default base (engines/default_base.py), for Ollama or the embedded engine.
"""

from typing import TYPE_CHECKING

from fine_tuning.engines.default_base import DEFAULT_TAG
from fine_tuning.jobs.store import Job

if TYPE_CHECKING:
    from fine_tuning.integration.service import Service

BUTTON, COMMAND = "Get a small model", "byoai prepare"
SIZE = "98 MB"
KIND = "fetch_base"


def missing(damaged: bool = False) -> str:
    """Return the message that there is no usable base model. `damaged`: whether one exists but is incomplete."""
    return "The base model is damaged" if damaged else "There is no model yet"


def with_command(missing: str) -> str:
    """Return the message `missing` with the command that downloads a model, for terminals and logs."""
    return f"{missing}: `{COMMAND}` gets a small one ({SIZE}, once)"


def fetch(service: "Service", origin: str) -> Job:
    """Submit a job that downloads the default base, unless such a job is waiting or running; return the job."""
    if (job := newest(service)) and not job.over:
        return job
    request = {"config": service.config.model_dump(mode="json"), "ollama_url": service.ollama_url}
    return service.queue.submit(KIND, request, origin=origin)


def newest(service: "Service") -> Job | None:
    """Return the last job that downloads or has downloaded the default base; None if there is none."""
    return next(iter(service.queue.jobs(kinds=[KIND], limit=1)), None)


def fetch_configured(service: "Service", origin: str) -> Job:
    """Submit a job that downloads the configured base, and return it.

    The default base is downloaded as by `fetch`, any other from Ollama's library.
    """
    if (base := service.config.training.base_model) == DEFAULT_TAG:
        return fetch(service, origin)
    return service.queue.submit("pull", {"model": base, "ollama_url": service.ollama_url}, origin=origin)
