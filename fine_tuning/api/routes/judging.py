"""Routes for feedback: votes between two models' answers, and the answers that are most worth reviewing.

The answers to vote on come from a job of the kind `compare`.
"""

import threading
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from fine_tuning.api.dependencies import Asked, Serving, one_at_a_time
from fine_tuning.api.engine_threads import waits_for_engine
from fine_tuning.api.errors import OF_ENGINE
from fine_tuning.conversation import Turn
from fine_tuning.engines.base import known_tag
from fine_tuning.errors import ConfigError, ModelNotFound
from fine_tuning.model_management import elo

router = APIRouter(prefix="/api", tags=["judging"])

_SCORES = {"one": 1.0, "other": 0.0, "tie": 0.5}
_reviewing = threading.Lock()

Tag = Annotated[str, Field(min_length=1, max_length=400)]


class Vote(Asked):
    one: Tag
    other: Tag
    better: Literal["one", "other", "tie"]


class Rating(BaseModel):
    tag: str
    rating: float  # Elo rating, 1000 before the first vote
    votes: int


class RatingList(BaseModel):
    items: list[Rating]


class Reviewing(Asked):
    count: Annotated[int, Field(ge=1, le=100)] = 10


class Candidate(BaseModel):
    turn: Turn
    surprise: float  # loss of the answer under the version in use, in nats per token
    shift: float  # absolute difference from the answer's loss under the base model, in nats per token
    alike: list[str]  # ids of similar turns


class CandidateList(BaseModel):
    items: list[Candidate]


@router.get("/votes")
def list_ratings() -> RatingList:
    """List the Elo ratings of all models with votes, the best first."""
    rated = sorted(elo.ratings().items(), key=lambda each: -each[1][0])
    return RatingList(items=[Rating(tag=tag, rating=rating, votes=votes) for tag, (rating, votes) in rated])


@router.post("/votes", status_code=201, responses=OF_ENGINE)
@waits_for_engine
def vote(asked: Vote, service: Serving) -> RatingList:
    """Vote for the better of two models' answers; return the new ratings."""
    tags = [model.tag for model in service.engine().list_models()]
    one, other = known_tag(asked.one, tags), known_tag(asked.other, tags)
    if one is None or other is None:
        raise ModelNotFound(
            f"the engine has no model {(asked.one if one is None else asked.other)!r}: GET /api/models lists them"
        )
    if one == other:
        raise ConfigError(f"one and other are both {one}, but a vote compares two models: name two different ones")
    elo.vote(one, other, _SCORES[asked.better])
    return list_ratings()


@router.post("/review", responses=OF_ENGINE)
@waits_for_engine
def find_review(asked: Reviewing, service: Serving) -> CandidateList:
    """Find the answers in the log that are most worth a rating or an edit.

    This runs the version in use and the base model, and takes a while.
    """
    from fine_tuning.review import of_log  # imported here, since it imports numpy

    with one_at_a_time(_reviewing, "another request is looking for answers to review: wait for it"):
        turns = service.log().turns()
        found = of_log(service.config, service.engine(), turns, asked.count) if turns else []
    return CandidateList(
        items=[
            Candidate(turn=each.turn, surprise=each.surprise, shift=each.shift, alike=list(each.alike))
            for each in found
        ]
    )
