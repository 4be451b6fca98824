"""Routes that show the turns from which a version probably learned an answer: the most similar that it learned."""

import threading
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from fine_tuning.api.dependencies import Asked, Serving, TurnId, one_at_a_time
from fine_tuning.api.engine_threads import waits_for_engine
from fine_tuning.api.errors import OF_ENGINE
from fine_tuning.conversation import Turn
from fine_tuning.integration import learned_from as learned

router = APIRouter(prefix="/api", tags=["turns"])

_MOST = 20
_computing = threading.Lock()


class Likelihood(BaseModel):
    """The mean log-probability (nats per token) of an answer after its question, under each of the two models."""

    base: float
    version: float
    times: float  # factor by which a token is more likely under the version than under the base


class Teacher(BaseModel):
    turn: Turn
    likeness: float  # similarity to the answer's turn, 0 to 1
    shared: list[str]  # words that both contain, the rarest first
    excluded: bool  # whether the next training leaves it out
    source: str = ""  # origin of a turn that is not in the log: the shipped sample, or a file's name
    likelihood: Likelihood | None = None


class LearnedFrom(BaseModel):
    turn: str
    version: str  # tag of the version
    base: str
    taught: int  # number of turns that the version was trained on
    gone: int  # number of them that no longer exist
    excluded: int  # number of them that the next training leaves out
    likelihood: Likelihood | None = None  # likelihood of the answer itself
    items: list[Teacher]  # the most similar first


class Weighing(Asked):
    limit: Annotated[int, Field(ge=1, le=_MOST)] = learned.SHOWN


@router.get("/turns/{id}/learned-from")
def show_learned_from(
    id: TurnId, service: Serving, limit: Annotated[int, Query(ge=1, le=_MOST)] = learned.SHOWN
) -> LearnedFrom:
    """Show the turns from which an answer was probably learned: the most similar in its version's training data."""
    return facts_of(learned.learned_from(service.log(), service.registry, id, limit))


@router.post("/turns/{id}/learned-from", responses=OF_ENGINE)
@waits_for_engine
def weigh_learned_from(id: TurnId, asked: Weighing, service: Serving) -> LearnedFrom:
    """Show the turns that GET shows, with the likelihood of each answer under the base model and the version.

    This runs both models.
    """
    found = learned.learned_from(service.log(), service.registry, id, asked.limit)
    with one_at_a_time(_computing, "another request is computing likelihoods: wait for it"):
        return facts_of(learned.with_likelihoods(found, service.engine()))


def facts_of(found: learned.LearnedFrom) -> LearnedFrom:
    """Convert the result of `learned_from` or `with_likelihoods` to the API's response."""
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
