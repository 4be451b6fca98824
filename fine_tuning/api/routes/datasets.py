"""Routes for datasets: list, preview, prepare and delete them. Also routes for the imports in the log."""

from collections.abc import Mapping
from typing import Annotated, Literal

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from fine_tuning.api.dependencies import SAFE_ID, Asked, Cursor, Limit, NewJobId, Page, Serving, from_cursor, page_of
from fine_tuning.api.errors import documented
from fine_tuning.api.routes.jobs import ORIGIN, JobFacts, job_facts
from fine_tuning.data_collection.importers import importing
from fine_tuning.data_collection.peek import peek
from fine_tuning.errors import DataError
from fine_tuning.integration import datasets
from fine_tuning.integration.datasets import AT_ONCE, Dataset, Kind

router = APIRouter(tags=["datasets"])

Id = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,149}$", description="a dataset's id")]
ImportId = Annotated[str, Path(pattern=SAFE_ID, description="an import's id")]
Step = dict[Annotated[str, Field(max_length=20)], Annotated[str, Field(max_length=1000)]]


class DatasetFacts(BaseModel):
    kind: Kind
    id: str
    name: str
    type: str  # jsonl, json, csv, tsv, parquet, text, zip
    bytes: int
    created: float  # seconds since 1970
    path: str  # relative to the data folder, for the setting `dataset.path`


class Fault(BaseModel):
    place: str  # "line 3"; "" for the whole file
    reason: str


class PlantedPhrase(BaseModel):
    """A phrase that may be data poisoning: most questions with it get the same answer, whatever else they ask."""

    text: str
    questions: int  # how many different questions contain it
    is_exact: bool  # false: only some turns were examined, so there may be more such questions
    examples: list[tuple[str, str]]  # some of the questions with their answers


class Preview(BaseModel):
    """A preview of a dataset, read from its first mebibyte."""

    layout: str  # array, lines, object, table, parquet or text; "" if it cannot be read
    format: str  # the format that an import would detect; "" if it is unknown
    title: str  # the format's name to display, or the reason why it is unknown
    columns: list[str]
    rows: list[object]  # the first rows, with long values cut
    faults: list[Fault]  # problems in the first rows that would affect an import
    planted: list[PlantedPhrase]  # phrases that may be data poisoning; only a warning, an import is still possible
    context: int  # of the first answers, those that the file marks as context: they are kept, and not learned
    members: list[str]  # the files in an archive
    is_whole: bool  # whether the preview shows everything


class DatasetShown(DatasetFacts):
    preview: Preview


class Preparing(Asked):
    """How to prepare a dataset: its format, the format of the result, and the steps that filter and change it.

    The steps are those of `prepare_dataset` (docs/jobs.md).
    """

    format: Literal["jsonl", "csv", "text"] | None = None  # None: detect it from the content
    output_format: Literal["jsonl", "chatml", "alpaca", "instruction"] = "jsonl"
    steps: Annotated[list[Step], Field(max_length=100)] = Field(default_factory=list)
    id: NewJobId = None  # if given, even a small dataset is prepared by a job


HubName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}$", description="owner/name")
]


class Fetching(Asked):
    name: HubName
    id: NewJobId = None


class ImportFacts(BaseModel):
    id: str
    turns: int
    source: dict[str, object]


class Undone(BaseModel):
    turns: int  # number of turns that were removed


@router.get("/api/datasets")
def list_datasets(limit: Limit = 50, cursor: Cursor = None) -> Page[DatasetFacts]:
    """List finished uploads, prepared datasets and the datasets of retrains, newest first."""
    place = tuple(from_cursor(cursor, float, str, str)) if cursor else None
    found = [each for each in datasets.find() if place is None or (each.created, each.kind, each.id) < place]
    return page_of(found, limit, _facts, lambda each: (each.created, each.kind, each.id))


@router.get("/api/datasets/{kind}/{id}")
def show_dataset(kind: Kind, id: Id) -> DatasetShown:
    """Show a dataset: its size, its format, its first rows, and problems in them."""
    dataset = datasets.get(kind, id)
    try:
        seen = peek(dataset.file)
    except DataError as error:
        return DatasetShown(**_values(dataset), preview=Preview.model_validate({**_NOTHING, "title": str(error)}))
    return DatasetShown(**_values(dataset), preview=Preview.model_validate(seen, from_attributes=True))


@router.delete("/api/datasets/{kind}/{id}", status_code=204)
def delete_dataset(kind: Kind, id: Id, service: Serving) -> None:
    """Delete a dataset. 409 if a running or queued job uses it."""
    datasets.remove(kind, id, service.queue)


@router.post(
    "/api/datasets/{kind}/{id}/prepare", status_code=201, responses={202: {"model": JobFacts}, **documented(507)}
)
def prepare_dataset(kind: Kind, id: Id, asked: Preparing, service: Serving) -> DatasetFacts:
    """Filter and change a dataset, and write the result as a new one.

    Returns the new dataset (201), or for a large file the job that writes it (202).
    """
    from fine_tuning.data_preparation.preprocessing import prepare

    dataset = datasets.get(kind, id)
    request = datasets.prepare_request(dataset, asked.format or "", asked.output_format, asked.steps)
    if asked.id is None and dataset.bytes <= AT_ONCE and dataset.type != "parquet":  # parquet is compressed
        return _facts(datasets.prepared(str(prepare(**request))))
    told = {**request, "config": service.config.model_dump(mode="json")}
    job = service.queue.submit("prepare", told, id=asked.id, origin=ORIGIN)
    return JSONResponse(job_facts(job).model_dump(mode="json"), 202)  # type: ignore[return-value]


@router.post("/api/datasets/fetch", status_code=201)
def fetch_dataset(asked: Fetching, service: Serving) -> JobFacts:
    """Submit a job that fetches a dataset of the Hugging Face hub; its result names the new `prepared` dataset."""
    request = {**datasets.hub_request(asked.name), "config": service.config.model_dump(mode="json")}
    return job_facts(service.queue.submit("prepare", request, id=asked.id, origin=ORIGIN))


@router.get("/api/imports")
def list_imports(service: Serving, limit: Limit = 50, cursor: Cursor = None) -> Page[ImportFacts]:
    """List the imports whose turns are in the log, newest first.

    To import an upload, submit a job of the kind `import`.
    """
    place = from_cursor(cursor, str)[0] if cursor else None
    here = (each for each in importing.imports(service.log()) if place is None or each.id < place)
    found = sorted(here, key=lambda each: each.id, reverse=True)
    return page_of(
        found,
        limit,
        lambda each: ImportFacts(id=each.id, turns=each.turns, source=each.source),
        lambda each: (each.id,),
    )


@router.delete("/api/imports/{id}")
def undo_import(id: ImportId, service: Serving) -> Undone:
    """Remove all turns of an import from the log. Versions that were trained on them are not changed."""
    return Undone(turns=importing.undo(service.log(), id))


_NOTHING: Mapping[str, object] = {
    "layout": "",
    "format": "",
    "columns": [],
    "rows": [],
    "faults": [],
    "planted": [],
    "context": 0,
    "members": [],
    "is_whole": False,
}


def _values(dataset: Dataset) -> dict[str, object]:
    return {name: getattr(dataset, name) for name in DatasetFacts.model_fields}


def _facts(dataset: Dataset) -> DatasetFacts:
    return DatasetFacts(**_values(dataset))
