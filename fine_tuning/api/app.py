"""Assemble the API as one ASGI app: all routes, uniform errors, and the OpenAPI description at /api/openapi.json."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, FastAPI

from fine_tuning.api import openai
from fine_tuning.api.errors import add_handlers, documented
from fine_tuning.api.repeated import Repeated
from fine_tuning.api.routes import (
    conversations,
    datasets,
    doctor,
    jobs,
    judging,
    learned_from,
    models,
    presets,
    settings,
    turns,
    ui,
    uploads,
    versions,
)
from fine_tuning.integration.service import Service

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

ROUTERS: tuple[APIRouter, ...] = (
    jobs.router,
    models.router,
    versions.router,
    conversations.router,
    turns.router,
    learned_from.router,
    judging.router,
    uploads.router,
    datasets.router,
    settings.router,
    presets.router,
    doctor.router,
    ui.router,
    openai.router,
)
# Error statuses that any route may return, for example for bad values, a missing token, a request that
# `security.Door` rejects, a wrong content type, or a full disk.
_ANYWHERE = (400, 401, 403, 404, 409, 413, 415, 422, 507)

_ABOUT = """\
Everything that people can do with byoai, for programs on this machine. A change needs the token of the data folder (its file
`api_token`) in the header `X-Byoai-Token`; errors are `{"error": {"message", "type", "code"}}`."""  # noqa: E501


def create_app(service: Service, lifespan: Lifespan | None = None) -> FastAPI:
    """Return the app, which must be wrapped in `security.Door`, since it does not control access itself.

    `lifespan` runs while the app is served.
    """
    app = FastAPI(
        title="byoai",
        version=_version(),
        description=_ABOUT,
        openapi_url="/api/openapi.json",
        docs_url=None,  # FastAPI's documentation pages load scripts from other servers
        redoc_url=None,
        responses=documented(*_ANYWHERE),
        generate_unique_id_function=_name,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    add_handlers(app)
    app.add_middleware(Repeated, service=service)
    for router in ROUTERS:
        app.include_router(router)
    return app


def _name(route: object) -> str:
    """Return an operation's id in the OpenAPI description: the name of its function."""
    return str(getattr(route, "name", ""))


def _version() -> str:
    try:
        return version("byoai")
    except PackageNotFoundError:
        return "0"
