"""Routes for jobs: submit, watch, cancel, resume, retry and delete them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.websockets import WebSocketDisconnect

from fine_tuning import paths
from fine_tuning.api.dependencies import SAFE_ID, Asked, Cursor, Limit, NewJobId, Page, Serving, from_cursor, page_of
from fine_tuning.api.engine_threads import waits_for_engine
from fine_tuning.api.errors import OF_ENGINE
from fine_tuning.api.feed import Feeds
from fine_tuning.errors import Busy, ByoaiError, ConfigError, WrongState
from fine_tuning.integration import job_runs
from fine_tuning.integration import settings as of_settings
from fine_tuning.integration.service import Service
from fine_tuning.jobs.kinds import KINDS
from fine_tuning.jobs.progress import facts, record
from fine_tuning.jobs.queue import GRACE
from fine_tuning.jobs.request import JobRequest
from fine_tuning.jobs.store import Job, State

router = APIRouter(prefix="/api/jobs", tags=["jobs"])

ORIGIN = "api"  # what submitted a job, as recorded with the job
_feeds = Feeds()

Id = Annotated[str, Path(pattern=SAFE_ID, description="a job's id")]
After = Annotated[int, Query(ge=0, le=2**53, description="the number of the last event that the client already has")]


class JobFacts(BaseModel):
    """The state of a job."""

    id: str
    kind: str
    state: State
    priority: int
    attempt: int
    detached: bool
    origin: str  # what submitted it: "api", a page, a command, or the schedule
    created: float  # seconds since 1970, like all times here
    begun: float | None
    ended: float | None
    exit_code: int | None
    reason: str  # why it ended, as text
    run: str  # the folder of its output
    pid: int | None
    progress: float | None = None  # from 0 to 1; None for finished jobs in lists
    stage: str = ""
    events: int | None = None  # the number of the last event


class RemovedJob(BaseModel):
    """The result of removing a job."""

    id: str
    run: str | None  # the removed folder; None if there was none, or another job uses it
    version: str | None  # the tag of the removed version
    bytes: int  # freed disk space


class NewJob(Asked):
    kind: Annotated[str, Field(max_length=40, json_schema_extra={"enum": list(KINDS)})]
    id: NewJobId = None
    request: dict[str, object] = Field(default_factory=dict, description="the fields of this kind of job (docs/api.md)")
    settings: dict[str, object] = Field(
        default_factory=dict, description='changes of the configuration, such as {"training.num_epochs": 5}'
    )
    profile: Annotated[str | None, Field(max_length=200)] = None
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    detached: bool = True  # whether it continues after the server ends


class Cancelling(Asked):
    discard: bool = False  # remove its output; otherwise it can be resumed
    grace: Annotated[float, Field(ge=0, le=600)] = GRACE  # seconds before it is killed


class Resuming(Asked):
    detached: bool = True


class Retrying(Asked):
    id: NewJobId = None  # id of the new job
    detached: bool = True


@router.get("")
def list_jobs(
    service: Serving,
    state: Annotated[list[State], Query(max_length=20)] = [],  # noqa: B006 (never changed)
    kind: Annotated[list[Annotated[str, Field(pattern="^[a-z_]{1,40}$")]], Query(max_length=20)] = [],  # noqa: B006
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[JobFacts]:
    """List jobs, newest first."""
    before = from_cursor(cursor, float)[0] if cursor else None
    found = service.queue.jobs(state or None, kind or None, limit + 1, before)
    return page_of(found, limit, lambda job: job_facts(job, progress=job.active), lambda job: (job.created,))


@router.post("", status_code=201)
def create_job(asked: NewJob, service: Serving) -> JobFacts:
    """Submit a job. It runs in its own process, immediately or when earlier jobs have ended."""
    request = _request(asked, service)
    job = service.queue.submit(
        asked.kind, request, id=asked.id, priority=asked.priority, detached=asked.detached, origin=ORIGIN
    )
    return job_facts(job)


@router.get("/{id}")
def show_job(id: Id, service: Serving) -> JobFacts:
    """Show the state of a job."""
    return job_facts(service.queue.get(id))


@router.post("/{id}/cancel")
def cancel_job(id: Id, asked: Cancelling, service: Serving) -> JobFacts:
    """Ask a job to stop at its next safe point. After `grace` seconds it is killed."""
    return job_facts(service.queue.cancel(id, discard=asked.discard, grace=asked.grace))


@router.post("/{id}/resume")
def resume_job(id: Id, asked: Resuming, service: Serving) -> JobFacts:
    """Resume a job that was cancelled, failed or interrupted."""
    return job_facts(service.queue.resume(id, detached=asked.detached))


@router.post("/{id}/retry", status_code=201)
def retry_job(id: Id, asked: Retrying, service: Serving) -> JobFacts:
    """Submit the request of a finished job again, as a new job."""
    return job_facts(service.queue.retry(id, new_id=asked.id, detached=asked.detached))


@router.delete("/{id}", responses=OF_ENGINE)
@waits_for_engine
def delete_job(id: Id, service: Serving) -> RemovedJob:
    """Remove a finished job, its run, and the version that it made.

    409 if the job is not over, or its version must be kept.
    """
    found = job_runs.removal(service.queue, service.registry, id)
    if why := job_runs.why_kept(found):
        raise Busy(f"the job {id} cannot be removed: {why}")
    found = job_runs.remove(service.queue, service.registry, service.engine() if found.version else None, id)
    return RemovedJob(
        id=id,
        run=str(found.run) if found.run else None,
        version=found.version.tag if found.version else None,
        bytes=found.bytes,
    )


@router.get("/{id}/result")
def show_result(id: Id, service: Serving) -> dict[str, object]:
    """Show the result of a completed job. 409 if it has none."""
    job = service.queue.get(id)
    if not job.result.exists():
        raise WrongState(
            f"the job {id} is {job.state} and has no result" + ("" if job.over else ": wait until it is over")
        )
    found: dict[str, object] = paths.read_json(job.result)
    return found


@router.get(
    "/{id}/log", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
def show_log(id: Id, service: Serving) -> PlainTextResponse:
    """Show what the job's processes printed, with secrets masked."""
    job = service.queue.get(id)
    files = [file for file in (job.log.with_suffix(".1.txt"), job.log) if file.exists()]
    return PlainTextResponse("".join(file.read_text(encoding="utf-8", errors="replace") for file in files))


@router.get("/{id}/events", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
async def stream_events(id: Id, service: Serving, after: After = 0) -> StreamingResponse:
    """Follow a job as server-sent events, until it is over.

    To continue after a lost connection, send the `id` of the last event as `after`. A WebSocket at
    the same address does the same.
    """
    await asyncio.to_thread(service.queue.get, id)
    headers = {"cache-control": "no-cache"}
    return StreamingResponse(_server_sent(id, after), media_type="text/event-stream", headers=headers)


async def _server_sent(id: str, after: int) -> AsyncIterator[str]:
    async with aclosing(_feeds.watch(id, after)) as told:
        async for each in told:
            yield each.sent


@router.websocket("/{id}/events")
async def socket_events(socket: WebSocket, id: str, after: int = 0) -> None:
    """Follow a job through a WebSocket, with one JSON text per event.

    The socket is closed with 1000 when the job is over, and with 1008 for an error.
    """
    await socket.accept()
    telling, gone = asyncio.create_task(_tell(socket, id, after)), asyncio.create_task(_until_gone(socket))
    code, reason = 1000, ""
    try:
        await asyncio.wait([telling, gone], return_when=asyncio.FIRST_COMPLETED)
        if telling.done():
            telling.result()
    except ByoaiError as error:
        code, reason = 1008, str(error)[:120].encode()[:120].decode(errors="ignore")
    except WebSocketDisconnect:
        return
    finally:
        is_gone = gone.done()
        telling.cancel()
        gone.cancel()
        await asyncio.gather(telling, gone, return_exceptions=True)
    if not is_gone:
        with suppress(WebSocketDisconnect):  # the client may leave at any moment
            await socket.close(code, reason)


async def _tell(socket: WebSocket, id: str, after: int) -> None:
    """Send a job's events until it is over. Raises WebSocketDisconnect if the client is gone or does not read."""
    async with aclosing(_feeds.watch(id, after)) as told:
        async for each in told:
            await socket.send_text(each.socket)


async def _until_gone(socket: WebSocket) -> None:
    """Read from the socket until the watcher disconnects."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


def _request(asked: NewJob, service: Service) -> dict[str, object]:
    """Return the request to submit: the fields for the job's kind, and the whole configuration as "config".

    Raises ConfigError for fields that only the command line may set, and for invalid settings.
    """
    local = KINDS[asked.kind].request.LOCAL if asked.kind in KINDS else JobRequest.LOCAL
    if taken := local & set(asked.request):
        raise ConfigError(
            f"request.{min(taken)} names a file, a server or code, which the API does not accept: send changes of the "
            "configuration as `settings`, and files as an upload"
        )
    learns_log = asked.kind in ("retrain", "plan", "sweep") and not asked.request.get("sample")
    config = of_settings.changed(service, asked.settings, asked.profile, of_log=learns_log)
    return {**asked.request, "config": config.model_dump(mode="json")}


def job_facts(job: Job, *, progress: bool = True) -> JobFacts:
    """Return the state of a job in the API's form. `progress`: also read the job's events, for its progress."""
    return JobFacts.model_validate(record(job) if progress else facts(job))
