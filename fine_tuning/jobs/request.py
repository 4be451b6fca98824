"""Define the base types of all kinds of jobs: request, result, and the kind itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.engines.base import Engine
from fine_tuning.engines.connect import connect
from fine_tuning.events import Watch

Result = Mapping[str, object] | None  # JSON values, which become the job's result.json


class JobRequest(BaseModel):
    """The base class of the requests of all kinds of jobs.

    `LOCAL` names the fields that the API does not accept from clients, since they name local files,
    servers or code.
    """

    LOCAL: ClassVar[frozenset[str]] = frozenset({"config", "ollama_url"})

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: FineTuningConfig = Field(default_factory=load_config)
    ollama_url: str | None = None  # None: OLLAMA_HOST, or else the configuration's URL

    def record(self) -> dict[str, object]:
        return self.model_dump(mode="json")

    def engine(self) -> Engine:
        return connect(self.ollama_url, self.config)


@dataclass(frozen=True)
class Kind:
    """A kind of job: the type of its request, and its work.

    `work(request, watch)` does the work and returns the result. When `watch` asks for a stop, `work`
    raises Cancelled at its next safe point.
    """

    request: type[JobRequest]
    work: Callable[[Any, Watch], Result]
    heavy: bool = True  # whether it needs most of the processor or memory
