"""Routes for versions of fine-tuned models: show, download, annotate, switch and remove them."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from fine_tuning.api.dependencies import Asked, Cursor, Limit, NoFields, Page, Serving, from_cursor, page_of
from fine_tuning.api.engine_threads import waits_for_engine
from fine_tuning.api.errors import OF_ENGINE
from fine_tuning.api.version_files import Part, file_of
from fine_tuning.errors import ModelNotFound
from fine_tuning.integration import ollama_integration
from fine_tuning.integration.versions import Asked as FactAsked
from fine_tuning.integration.versions import facts_of, report_of
from fine_tuning.model_management.model_pruner import Pruned, prune, prune_one
from fine_tuning.model_management.model_registry import State, Version
from fine_tuning.model_management.model_switcher import refusal
from fine_tuning.runs import only_one

router = APIRouter(prefix="/api/versions", tags=["versions"])

# A report quotes conversations. In addition to the policy of `security.Door`, it may run no scripts and make no
# requests, and has no origin.
_SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"

Name = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$", description="a fine-tuned model's name, without a version")
]
Number = Annotated[int, Path(ge=1, le=2**53)]


class VersionFacts(BaseModel):
    tag: str
    name: str
    number: int
    state: State
    refused: str  # the reason why the gate refused it; "" if it did not
    verdict: str  # the gate's verdict as text; "" before the evaluation
    base_tag: str
    base_digest: str
    method: str
    mode: str  # adapter or merged
    dataset: str  # hash of the dataset that it was trained on
    run: str  # the folder of its run
    created: str  # ISO 8601, UTC
    pinned: bool  # never pruned
    notes: str
    labels: list[str]
    made_here: bool  # whether byoai made it; otherwise it is never removed


class FactsShown(BaseModel):
    """The answers of the version and of its base model to held-out questions about imported documents."""

    right: int  # number of correct answers
    asked: list[FactAsked]


class VersionShown(VersionFacts):
    learned: int  # number of turns that it was trained on
    metrics: dict[str, object]  # results of the evaluation
    facts: FactsShown | None  # None without questions about imported documents


class Changed(Asked):
    pinned: bool | None = None
    notes: Annotated[str | None, Field(max_length=10_000)] = None
    labels: Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]] | None, Field(max_length=50)] = None


class Using(Asked):
    by_hand: bool = False  # use the version even if the gate refused it; its notes then record this


class Live(BaseModel):
    live: VersionFacts | None  # the version in use; None: the base model is used


class Pruning(Asked):
    dry_run: bool = False  # only list what would be removed


class Removed(BaseModel):
    """A version whose tag and run were removed, or an unfinished run that was removed."""

    version: int | None  # its number; None for an unfinished run
    tag: str
    run: str | None
    bytes: int


class RemovedList(BaseModel):
    items: list[Removed]


@router.get("")
def list_versions(
    service: Serving,
    name: Annotated[str | None, Query(max_length=100, description="only versions of this model")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[VersionFacts]:
    """List versions by model, the newest first."""
    found = sorted(service.registry.list(name), key=lambda version: (version.name, -version.number))
    if cursor:
        place = tuple(from_cursor(cursor, str, int))
        found = [version for version in found if (version.name, -version.number) > place]
    return page_of(found, limit, _facts, lambda version: (version.name, -version.number))


@router.get("/{name}/{number:int}")
def show_version(name: Name, number: Number, service: Serving) -> VersionShown:
    """Show a version with the results of its evaluation."""
    version = service.registry.get(name, number)
    learned = len(service.registry.turns_of(name, number))
    found = facts_of(version)
    facts = FactsShown(right=found.right, asked=list(found.asked)) if found else None
    return VersionShown(**_facts(version).model_dump(), learned=learned, metrics=version.metrics, facts=facts)


@router.get(
    "/{name}/{number:int}/file",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in ("application/octet-stream", "application/zip")}}},
)
def send_file(
    name: Name,
    number: Number,
    service: Serving,
    part: Annotated[
        Part, Query(description="gguf: the whole model, or else its adapter; adapter: PEFT's format, zipped")
    ] = "gguf",
) -> Response:
    """Download a version's GGUF, or its adapter as a zip archive."""
    return file_of(service.registry.get(name, number), part)


@router.get("/{name}/{number:int}/turns")
def list_learned(name: Name, number: Number, service: Serving, limit: Limit = 100, cursor: Cursor = None) -> Page[str]:
    """List the ids of the turns that a version was trained on. Some may no longer be in the log."""
    service.registry.get(name, number)
    after = from_cursor(cursor, str)[0] if cursor else ""
    found = sorted(id for id in service.registry.turns_of(name, number) if id > after)
    return page_of(found, limit, str, lambda id: (id,))


@router.get(
    "/{name}/{number:int}/report",
    response_class=Response,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
def show_report(name: Name, number: Number, service: Serving) -> HTMLResponse:
    """Show the evaluation report of a version as an HTML page without scripts."""
    page = report_of(service.registry, name, number)
    return HTMLResponse(page, headers={"content-security-policy": _SANDBOX, "cache-control": "no-store"})


@router.patch("/{name}/{number:int}")
def change_version(name: Name, number: Number, asked: Changed, service: Serving) -> VersionFacts:
    """Pin a version or unpin it, or change its notes or labels. Fields that are left out or null stay unchanged."""
    return _facts(service.registry.update(name, number, **asked.model_dump(exclude_none=True)))


@router.post("/{name}/{number:int}/use", responses=OF_ENGINE)
@waits_for_engine
def use_version(name: Name, number: Number, asked: Using, service: Serving) -> VersionFacts:
    """Use a version from now on (make it live). 409 if the gate refused it, unless `by_hand` is true."""
    return _facts(
        ollama_integration.use(service.engine(), service.config, str(number), name=name, by_hand=asked.by_hand)
    )


@router.post("/{name}/rollback", responses=OF_ENGINE)
@waits_for_engine
def roll_back(name: Name, asked: NoFields, service: Serving) -> Live:
    """Use the previous version again (make it live). If no version was live before, use the base model."""
    version = ollama_integration.roll_back(service.engine(), service.config, name=name)
    return Live(live=_facts(version) if version else None)


@router.post("/{name}/prune", responses=OF_ENGINE)
@waits_for_engine
def prune_versions(name: Name, asked: Pruning, service: Serving) -> RemovedList:
    """Free disk space: remove outdated unfinished runs, and versions that are not live, previous or pinned.

    The live version is the one in use; the previous one was live before it. A removed version stays
    in the list, as retired, without its tag and its run.
    """
    if not service.registry.list(name):
        raise ModelNotFound(f"there is no fine-tuned model {name!r}: GET /api/versions lists them")
    with only_one():  # the run of a running training would look unfinished
        found = prune(service.engine(), service.registry, name, service.config.runs_dir, asked.dry_run)
    return RemovedList(items=[_removed(each) for each in found])


@router.delete("/{name}/{number:int}", responses=OF_ENGINE)
@waits_for_engine
def delete_version(name: Name, number: Number, service: Serving) -> Removed:
    """Remove a version's tag and run. 409 if the version is live, previous or pinned, or byoai did not make it."""
    service.registry.get(name, number)
    with only_one():
        return _removed(prune_one(service.engine(), service.registry, name, number))


def _facts(version: Version) -> VersionFacts:
    plain = {key: getattr(version, key) for key in VersionFacts.model_fields if key not in ("refused", "labels")}
    return VersionFacts(**plain, refused=refusal(version), labels=list(version.labels))


def _removed(each: Pruned) -> Removed:
    number = each.version.number if each.version else None
    return Removed(version=number, tag=each.tag, run=str(each.run) if each.run else None, bytes=each.bytes)
