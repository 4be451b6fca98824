"""Turn errors into HTTP responses: a status and {"error": {"message", "type", "code"}}, as in OpenAI's API."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from fine_tuning import errors
from fine_tuning.paths import write_fault
from fine_tuning.state import is_full

_logger = logging.getLogger(__name__)
_MOST_FAULTS = 8  # maximum number of faults in one response

SIZE_HEADER = "x-upload-size"  # sent with WrongOffset: the bytes of the upload received so far

# The first matching class counts, so subclasses come before their base classes.
STATUS: tuple[tuple[type[errors.ByoaiError], int], ...] = (
    (errors.WrongState, 409),
    (errors.ConfigError, 400),
    (errors.JobNotFound, 404),
    (errors.ModelNotFound, 404),
    (errors.TurnNotFound, 404),
    (errors.TurnDeleted, 410),
    (errors.DatasetNotFound, 404),
    (errors.WrongOffset, 409),
    (errors.TooLarge, 413),
    (errors.QuotaReached, 409),
    (errors.NoRoom, 507),
    (errors.NoConversations, 409),
    (errors.TooLittleData, 409),
    (errors.LogDamaged, 409),
    (errors.DataError, 400),
    (errors.EngineUnavailable, 503),
    (errors.EngineTooOld, 503),
    (errors.NotSupported, 400),
    (errors.ModelNotOurs, 409),
    (errors.EngineError, 502),
    (errors.Busy, 409),
    (errors.PromotionRefused, 409),
    (errors.ByoaiError, 409),
)


class ErrorFacts(BaseModel):
    message: str  # what is wrong, and what to do about it
    type: str  # the name of the class in fine_tuning/errors.py, or of the HTTP error
    code: int  # the HTTP status
    param: str | None = None  # the name of the wrong field


class ErrorAnswer(BaseModel):
    error: ErrorFacts


def documented(*statuses: int) -> dict[int | str, dict[str, object]]:
    """Return the OpenAPI description of responses with these error statuses, for a route's `responses`."""
    return {status: {"model": ErrorAnswer} for status in statuses}


OF_ENGINE = documented(502, 503)  # additional statuses of routes that use the engine


def answer(
    status: int, message: str, kind: str, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    facts = ErrorAnswer(error=ErrorFacts(message=message, type=kind, code=status, param=param))
    return JSONResponse(facts.model_dump(), status, headers)


def status_of(error: errors.ByoaiError) -> int:
    """Return the HTTP status of an error: 507 if its cause is a full disk, else the status of its class in STATUS."""
    return 507 if is_full(error) else next(status for kind, status in STATUS if isinstance(error, kind))


def _methods(request: Request) -> set[str]:
    """Return the HTTP methods of all routes at a request's path.

    Starlette itself would report only the methods of the first route.
    """
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] != Match.NONE]
    return {method for route in routes for method in getattr(route, "methods", None) or ()}


def add_handlers(app: FastAPI) -> None:
    """Make `app` answer every exception, expected or not, in the form of ErrorAnswer."""

    @app.exception_handler(errors.ByoaiError)
    async def ours(_: Request, error: errors.ByoaiError) -> JSONResponse:
        headers = {SIZE_HEADER: str(error.size)} if isinstance(error, errors.WrongOffset) else None
        return answer(status_of(error), str(error), type(error).__name__, headers=headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> JSONResponse:
        return answer(
            408,
            "the connection was lost before the whole body had arrived: send the request again",
            type(error).__name__,
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        of_openai = request.url.path.startswith("/v1/")  # OpenAI's clients expect 400 and the bare field name
        faults = [
            (".".join(map(str, fault["loc"][of_openai:] or fault["loc"])), fault["msg"]) for fault in error.errors()
        ]
        message = "; ".join(f"{place}: {what}" for place, what in faults[:_MOST_FAULTS])
        return answer(400 if of_openai else 422, message, "InvalidRequest", faults[0][0] if faults else None)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(sorted(_methods(request)))
        return answer(error.status_code, str(error.detail), "HTTPError", headers=headers)

    @app.exception_handler(OSError)
    async def disk(_: Request, error: OSError) -> JSONResponse:
        full = is_full(error)
        what = (
            "the disk is full: make room, and try again"
            if full
            else (
                f"a file could not be read or written ({error.strerror or error}): `byoai doctor` checks the data "
                "folder"
            )
        )
        return answer(507 if full else 500, what, type(error).__name__)

    @app.exception_handler(Exception)
    async def fault(_: Request, error: Exception) -> JSONResponse:
        place = write_fault(error)
        _logger.error("a fault in byoai: %s; the details are in %s", type(error).__name__, place)
        return answer(500, f"a fault in byoai itself: please report it; the details are in {place}", "Fault")
