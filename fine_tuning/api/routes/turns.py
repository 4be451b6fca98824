"""Turns: search what was said, and say what an answer is worth, should have been, or that it should be forgotten."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from fine_tuning.api.dependencies import TEXT_ID, Asked, Limit, NewJobId, Serving, TurnId
from fine_tuning.api.routes.conversations import forget
from fine_tuning.api.routes.jobs import JobFacts
from fine_tuning.conversation import Turn
from fine_tuning.errors import TurnNotFound
from fine_tuning.integration.service import Service

router = APIRouter(prefix="/api", tags=["turns"])

_LONGEST = 1_000_000  # characters of an answer


class Found(BaseModel):
    items: list[Turn]


class Rated(Asked):
    rating: Literal["up", "down"] | None  # null takes the thumb back


class Edited(Asked):
    bot_response: Annotated[str, Field(min_length=1, max_length=_LONGEST)]  # the answer as it should have been


class Excluded(Asked):
    excluded: bool  # left out of all that learns


class ToForget(Asked):
    turns: Annotated[
        list[Annotated[str, Field(pattern=TEXT_ID)]],
        Field(min_length=1, max_length=10_000, description="ids of turns or conversations"),
    ]
    teach_again: bool = True  # train a version without them, where one has learned them
    now: bool = False  # remove those versions before that one is trained
    id: NewJobId = None


@router.get("/turns")
def search_turns(
    service: Serving, text: Annotated[str, Query(min_length=1, max_length=400)], limit: Limit = 50
) -> Found:
    """Search: the newest turns in which every word was said, whatever the case, newest first."""
    return Found(items=service.log().search(text, limit))


@router.get("/turns/{id}")
def show_turn(id: TurnId, service: Serving) -> Turn:
    """Read a turn as it stands now."""
    return _turn(id, service)


@router.put("/turns/{id}/rating")
def rate_turn(id: TurnId, asked: Rated, service: Serving) -> Turn:
    """Give an answer a thumb up or down."""
    service.log().rate(id, asked.rating)
    return _turn(id, service)


@router.put("/turns/{id}/answer")
def edit_turn(id: TurnId, asked: Edited, service: Serving) -> Turn:
    """Say what the answer should have been; the turn keeps what was said."""
    service.log().edit(id, asked.bot_response)
    return _turn(id, service)


@router.put("/turns/{id}/excluded")
def exclude_turn(id: TurnId, asked: Excluded, service: Serving) -> Turn:
    """Leave a turn out of all that learns, or take it in again."""
    service.log().exclude(id, asked.excluded)
    return _turn(id, service)


@router.post("/forget", status_code=202)
def forget_turns(asked: ToForget, service: Serving) -> JobFacts:
    """Forget turns for good, a job: they go from all files, and so do the versions that learned
    them. It fails if one is not there.
    """
    return forget(service, asked.turns, teach_again=asked.teach_again, now=asked.now, id=asked.id)


def _turn(id: str, service: Service) -> Turn:
    found = service.log().index.turns([id])
    if not found:
        raise TurnNotFound(f"there is no turn {id!r}: GET /api/turns?text=... searches for one")
    return found[0]
