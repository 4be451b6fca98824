"""Routes for the settings: show them with their origin, and change those that clients may change."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from fine_tuning.api.dependencies import Asked, Serving
from fine_tuning.integration import settings
from fine_tuning.integration.settings import Settings

router = APIRouter(prefix="/api/settings", tags=["settings"])


class Changes(Asked):
    settings: Annotated[
        dict[Annotated[str, Field(max_length=200)], object],
        Field(
            min_length=1,
            max_length=200,
            description='new values by dotted key, such as {"training.num_epochs": 5}; null restores the value of the '
            "configuration file",
        ),
    ]


@router.get("")
def show_settings(service: Serving) -> Settings:
    """Show all current settings, and where each comes from."""
    return settings.show(service)


@router.put("")
def change_settings(asked: Changes, service: Serving) -> Settings:
    """Change settings, and show all. If a setting is invalid, none is changed."""
    settings.change(service, asked.settings)
    return settings.show(service)
