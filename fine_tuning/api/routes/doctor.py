"""The route that checks whether everything that byoai needs is there and works, like the command `byoai doctor`."""

import threading

from fastapi import APIRouter
from pydantic import BaseModel

from fine_tuning.api.dependencies import NoFields, Serving, one_at_a_time

router = APIRouter(prefix="/api/doctor", tags=["doctor"])

_examining = threading.Lock()


class Finding(BaseModel):
    name: str
    ok: bool
    text: str  # what was found, or what is wrong and what to do about it


class Diagnosis(BaseModel):
    ok: bool
    items: list[Finding]


@router.post("")
def examine_all(asked: NoFields, service: Serving) -> Diagnosis:
    """Check configuration, disk, memory, log, engines and models, and repair the registry of versions.

    This takes a while.
    """
    from fine_tuning.integration.doctor import examine  # imported here, since it imports gguf and numpy

    with one_at_a_time(_examining, "another request is examining already: wait for it"):
        found = [
            Finding(name=check.name, ok=check.ok, text=check.text)
            for check in examine(lambda: service.config, service.ollama_url)
        ]
    return Diagnosis(ok=all(each.ok for each in found), items=found)
