"""Where a version learned an answer: the turns that taught it which are most like it, with or without likelihoods."""

import threading
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from fine_tuning.api.dependencies import Asked, Serving, TurnId, one_at_a_time
from fine_tuning.api.errors import OF_ENGINE
from fine_tuning.conversation import Turn
from fine_tuning.integration import learned_from as learned

router = APIRouter(prefix="/api", tags=["turns"])

_MOST = 20
_computing = threading.Lock()


class Likelihood(BaseModel):
    """Mean log-probabilities (nats) of an answer's tokens after its question."""

    base: float
    version: float
    times: float  # how many times likelier the version finds one of its tokens


class Teacher(BaseModel):
    turn: Turn
    likeness: float  # 0 to 1
    shared: list[str]  # words of both, the rarest first
    excluded: bool  # left out of what is learned next
    source: str = ""  # of a turn that is not of the log: the shipped sample, or a file's name
    likelihood: Likelihood | None = None


class LearnedFrom(BaseModel):
    turn: str
    version: str  # its tag
    base: str
    taught: int  # turns that taught the version
    gone: int  # of them no longer there
    excluded: int
    likelihood: Likelihood | None = None  # of the answer itself
    items: list[Teacher]  # the likest first


class Weighing(Asked):
    limit: Annotated[int, Field(ge=1, le=_MOST)] = learned.SHOWN


@router.get("/turns/{id}/learned-from")
def show_learned_from(
    id: TurnId, service: Serving, limit: Annotated[int, Query(ge=1, le=_MOST)] = learned.SHOWN
) -> LearnedFrom:
    """Find where an answer was learned: of the turns that taught the version that gave it, those most like it."""
    return facts_of(learned.learned_from(service.log(), service.registry, id, limit))


@router.post("/turns/{id}/learned-from", responses=OF_ENGINE)
def weigh_learned_from(id: TurnId, asked: Weighing, service: Serving) -> LearnedFrom:
    """Find the same, with how likely base and version find each answer. Both models read them,
    which takes seconds: one at a time.
    """
    found = learned.learned_from(service.log(), service.registry, id, asked.limit)
    with one_at_a_time(_computing, "another request is computing likelihoods: wait for it"):
        return facts_of(learned.with_likelihoods(found, service.engine()))


def facts_of(found: learned.LearnedFrom) -> LearnedFrom:
    """Return what was found, for programs."""
    return LearnedFrom(
        turn=found.turn.id,
        version=found.version.tag,
        base=found.version.base_tag,
        taught=found.taught,
        gone=found.gone,
        excluded=found.excluded,
        likelihood=_likelihood(found.likelihood),
        items=[
            Teacher(
                turn=each.turn,
                likeness=each.likeness,
                shared=list(each.shared),
                excluded=each.excluded,
                source=each.source,
                likelihood=_likelihood(each.likelihood),
            )
            for each in found.teachers
        ],
    )


def _likelihood(found: learned.Likelihood | None) -> Likelihood | None:
    return Likelihood(base=found.base, version=found.version, times=found.times) if found else None
