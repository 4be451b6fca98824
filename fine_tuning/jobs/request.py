"""What every kind of job has: a request, typed, a function that does it, and what comes of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.engines.base import Engine
from fine_tuning.engines.connect import connect
from fine_tuning.events import Watch

Result = Mapping[str, object] | None  # what JSON can hold; it becomes the job's result.json


class JobRequest(BaseModel):
    """What every kind is asked with. `LOCAL` are the fields that name files, servers or code of
    this machine: whoever asks over the network may not give them.
    """

    LOCAL: ClassVar[frozenset[str]] = frozenset({"config", "ollama_url"})

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: FineTuningConfig = Field(default_factory=load_config)
    ollama_url: str | None = None  # None: OLLAMA_HOST, else the configuration's

    def record(self) -> dict[str, object]:
        return self.model_dump(mode="json")

    def engine(self) -> Engine:
        return connect(self.ollama_url, self.config)


@dataclass(frozen=True)
class Kind:
    """`work(request, watch)` does it; it raises Cancelled at its next safe point when the watch says so."""

    request: type[JobRequest]
    work: Callable[[Any, Watch], Result]
    heavy: bool = True  # it needs the processor or the memory for itself
