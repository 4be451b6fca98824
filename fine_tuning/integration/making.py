"""Make versions from other versions for a page: a smaller one, or several merged into one.

Both are done by jobs, and their results are judged by the gate like those of a training
(quantising.py, merging.py). The module is independent of Streamlit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fine_tuning import paths
from fine_tuning.integration.service import Service
from fine_tuning.jobs.store import Job, State
from fine_tuning.model_management.model_pruner import run_of
from fine_tuning.model_management.model_registry import Registry, Version
from fine_tuning.runs import Run
from fine_tuning.units import size

Method = Literal["linear", "ties", "dare"]
METHODS: dict[Method, tuple[str, str]] = {
    "linear": (
        "Add up",
        "Adds up all that each version learned. The right choice for versions of different subjects.",
    ),
    "ties": (
        "Settle conflicts",
        "Keeps the largest changes of each version; where they disagree, the majority counts (TIES).",
    ),
    "dare": ("Thin out", "Keeps a random part of each version's changes, scaled up to make up for the rest (DARE)."),
}
NOW = "now"  # name of the version's current form in a table of forms


def can_be_made_smaller(version: Version) -> bool:
    """Return whether a version can be quantised: it is not retired, and its run still exists."""
    run = run_of(version)
    return version.state != "retired" and run is not None and run.is_dir()


def partners(registry: Registry, version: Version) -> list[Version]:
    """Return the versions that can be merged with `version`, newest first: other adapters on exactly the same base."""
    if not version.base_digest or not _has_adapter(version):
        return []
    others = (each for each in registry.list() if each.tag != version.tag and each.base_digest == version.base_digest)
    return sorted(filter(_has_adapter, others), key=lambda each: (each.created, each.number), reverse=True)


def _has_adapter(version: Version) -> bool:
    run = run_of(version)
    return version.state != "retired" and run is not None and (Run(run).adapter / "adapter_config.json").exists()


# Smaller


@dataclass(frozen=True)
class Form:
    """A version in one quantisation, with its measurements as texts for people."""

    name: str
    size: str
    speed: str  # relative to the current form
    quality: str  # how much worse it predicts texts that it never learned
    is_smaller: bool  # than the current form


@dataclass(frozen=True)
class Forms:
    """The measurements of a version's quantisations. The first one is the version as it is now."""

    table: tuple[Form, ...]
    recommended: str  # a name in the table; NOW if no other is better
    why: str

    @property
    def smaller(self) -> list[str]:
        """Return the quantisations in which the version would be smaller than it is now, the recommended one first."""
        return sorted((form.name for form in self.table if form.is_smaller), key=lambda name: name != self.recommended)


def measure(service: Service, version: Version, origin: str) -> Job:
    """Submit a job that measures the quantisations of a version; return the job."""
    return service.queue.submit("quantise", _request(service, version), origin=origin)


def make_smaller(service: Service, version: Version, form: str, origin: str) -> Job:
    """Submit a job that makes a new version from `version`, in the quantisation `form`; return the job."""
    return service.queue.submit("quantise", {**_request(service, version), "use": form}, origin=origin)


def _request(service: Service, version: Version) -> dict[str, object]:
    return {**_shared(service), "version": version.number, "name": version.name}


def _shared(service: Service) -> dict[str, object]:
    return {"config": service.config.model_dump(mode="json"), "ollama_url": service.ollama_url}


def measuring(service: Service, version: Version) -> Job | None:
    """Return the last job that measures or has measured the quantisations of a version; None if there is none."""
    return _newest(service, "quantise", lambda request: not request.get("use") and _is_of(request, version))


def shrinking(service: Service, version: Version) -> Job | None:
    """Return the last job that makes or has made a smaller version from this one; None if there is none."""
    return _newest(service, "quantise", lambda request: bool(request.get("use")) and _is_of(request, version))


def _is_of(request: Mapping[str, Any], version: Version) -> bool:
    return request.get("version") == version.number and request.get("name") == version.name


def _newest(service: Service, kind: str, wanted: Callable[[Mapping[str, Any]], bool]) -> Job | None:
    return next((job for job in service.queue.jobs(kinds=[kind], limit=50) if wanted(job.request)), None)


def forms(job: Job | None) -> Forms | None:
    """Return the quantisations that a job has measured; None if the job is not completed."""
    if job is None or job.state != State.COMPLETED or not job.result.exists():
        return None
    found = paths.read_json(job.result)
    now = next(each["size"] for each in found["table"] if each["name"] == NOW)
    return Forms(tuple(_form(each, now) for each in found["table"]), found["recommended"], found["why"])


def _form(measured: Mapping[str, Any], now: int) -> Form:
    """Convert the measurements of a quantisation to a Form. `now` is the size of the current form in bytes."""
    worse = 100 * (measured["worse"]["value"] - 1)
    is_now = measured["name"] == NOW
    return Form(
        measured["name"],
        size(measured["size"]),
        "as it is" if is_now else f"{measured['faster']:.2f} times as fast",
        "as it is" if is_now else "none" if worse < 0.05 else f"{worse:.1f} %",
        measured["size"] < now,
    )


# Combined


def combine(service: Service, weighted: Sequence[tuple[Version, float]], method: Method, origin: str) -> Job:
    """Submit a job that merges versions, given with their weights, into a new one; return the job."""
    parts = [{"version": each.number, "name": each.name, "weight": weight} for each, weight in weighted]
    return service.queue.submit("merge", {**_shared(service), "parts": parts, "method": method}, origin=origin)


def combining(service: Service, version: Version) -> Job | None:
    """Return the last job, over or not, that merges `version` (named first) with others; None if there is none."""
    return _newest(service, "merge", lambda request: _is_of((request.get("parts") or [{}])[0], version))
