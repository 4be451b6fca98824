"""Routes for turns: search, read, rate, edit, exclude and forget them."""

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
    rating: Literal["up", "down"] | None  # null removes the rating


class Edited(Asked):
    bot_response: Annotated[str, Field(min_length=1, max_length=_LONGEST)]  # the corrected answer


class Excluded(Asked):
    excluded: bool  # whether training leaves the turn out


class ToForget(Asked):
    turns: Annotated[
        list[Annotated[str, Field(pattern=TEXT_ID)]],
        Field(min_length=1, max_length=10_000, description="ids of turns or conversations"),
    ]
    teach_again: bool = True  # train a new version without them, if a version was trained on them
    now: bool = False  # remove the versions that were trained on them before the new one is trained
    id: NewJobId = None


@router.get("/turns")
def search_turns(
    service: Serving, text: Annotated[str, Query(min_length=1, max_length=400)], limit: Limit = 50
) -> Found:
    """Search for the turns that contain every word of `text`, ignoring case; list them newest first."""
    return Found(items=service.log().search(text, limit))


@router.get("/turns/{id}")
def show_turn(id: TurnId, service: Serving) -> Turn:
    """Show a turn as it is now, with its rating and edits."""
    return _turn(id, service)


@router.put("/turns/{id}/rating")
def rate_turn(id: TurnId, asked: Rated, service: Serving) -> Turn:
    """Rate an answer up or down, or remove the rating."""
    service.log().rate(id, asked.rating)
    return _turn(id, service)


@router.put("/turns/{id}/answer")
def edit_turn(id: TurnId, asked: Edited, service: Serving) -> Turn:
    """Replace an answer by a corrected one. The turn also keeps the original answer."""
    service.log().edit(id, asked.bot_response)
    return _turn(id, service)


@router.put("/turns/{id}/excluded")
def exclude_turn(id: TurnId, asked: Excluded, service: Serving) -> Turn:
    """Exclude a turn from training, or include it again."""
    service.log().exclude(id, asked.excluded)
    return _turn(id, service)


@router.post("/forget", status_code=202)
def forget_turns(asked: ToForget, service: Serving) -> JobFacts:
    """Forget turns permanently, by a job of the kind `forget`.

    The job removes them from all files, and removes the versions that were trained on them.
    """
    return forget(service, asked.turns, teach_again=asked.teach_again, now=asked.now, id=asked.id)


def _turn(id: str, service: Service) -> Turn:
    found = service.log().index.turns([id])
    if not found:
        raise TurnNotFound(f"there is no turn {id!r}: GET /api/turns?text=... searches for one")
    return found[0]
