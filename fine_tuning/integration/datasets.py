"""List, show and remove what can be learned besides the log: uploads, and datasets that byoai wrote.

upload     data/uploads/<id>/     sent over the API
prepared   data/prepared/<id>     written by `prepare_dataset`: a filtered or changed dataset
built      data/datasets/<id>/    made from the log by a training, and made again when it is needed
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fine_tuning import paths
from fine_tuning.config import DatasetFormat
from fine_tuning.data_collection import uploads
from fine_tuning.data_collection.importers.huggingface import PREFIX
from fine_tuning.data_preparation.dataset_builder import MANIFEST
from fine_tuning.errors import Busy, ConfigError, DatasetNotFound
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import ACTIVE, Job, State
from fine_tuning.runs import only_one

Kind = Literal["upload", "prepared", "built"]

AT_ONCE = 8 << 20  # largest file, in bytes, that is prepared while its sender waits; a larger one becomes a job
_FORMATS = {
    "jsonl": DatasetFormat.JSONL,
    "json": DatasetFormat.JSONL,
    "csv": DatasetFormat.CSV,
    "tsv": DatasetFormat.CSV,
    "text": DatasetFormat.TEXT,
    "parquet": DatasetFormat.HUGGINGFACE,
}


@dataclass(frozen=True)
class Dataset:
    kind: Kind
    id: str
    name: str
    type: str  # of an upload, that of its content; else jsonl
    bytes: int
    created: float  # seconds since 1970
    file: Path  # of a built one, its training data

    @property
    def path(self) -> str:
        """The path of the dataset's file in the data folder: the value for `dataset.path` of a training."""
        return self.file.relative_to(paths.home()).as_posix()


def find() -> list[Dataset]:
    """Return all datasets, newest first, without unfinished uploads."""
    return sorted(
        [*_uploaded(), *_prepared(), *_built()], key=lambda each: (each.created, each.kind, each.id), reverse=True
    )


def get(kind: Kind, id: str) -> Dataset:
    """Return a dataset. Raises DatasetNotFound if no dataset has this kind and id."""
    if kind == "upload":
        upload = uploads.get(id)
        if upload.finished is None:
            raise DatasetNotFound(
                f"the upload {id} is not finished, because only {upload.size} of {upload.bytes} bytes have arrived: "
                "send the rest first"
            )
        return _of_upload(upload)
    found = next((each for each in (_prepared() if kind == "prepared" else _built()) if each.id == id), None)
    if found is None:
        raise DatasetNotFound(f"there is no {kind} dataset {id[:100]!r}: GET /api/datasets lists them")
    return found


def remove(kind: Kind, id: str, queue: Queue) -> None:
    """Delete a dataset. Raises DatasetNotFound for an unknown id, and Busy if a queued or running job uses it."""
    if kind == "upload":
        _check_unused(uploads.folder_of(id), id, queue)
        return uploads.remove(id)
    dataset = get(kind, id)
    _check_unused(dataset.file, id, queue)
    if kind == "prepared":
        return dataset.file.unlink(missing_ok=True)
    with only_one("DELETE of a dataset"):
        shutil.rmtree(dataset.file.parent, ignore_errors=True)


def format_of(dataset: Dataset) -> str | None:
    """Return the value of `dataset.format` for a training on a dataset; None if it can only be imported."""
    found = _FORMATS.get(dataset.type)
    return str(found) if found else None


def prepare_request(
    dataset: Dataset, format: str, output_format: str, steps: Sequence[Mapping[str, object]]
) -> dict[str, Any]:
    """Return the request of a job of the kind `prepare`.

    Raises ConfigError for a format that cannot be prepared, or an invalid step.
    """
    from fine_tuning.data_preparation.preprocessing import check_steps

    check_steps(steps)
    if (read_as := format or _FORMATS.get(dataset.type)) is None:
        raise ConfigError(
            f"{dataset.name} is a {dataset.type} file, which cannot be prepared: import it instead (a job of the kind "
            "import)"
        )
    return {
        "source": str(dataset.file),
        "format": str(read_as),
        "output_format": output_format,
        "steps": [dict(step) for step in steps],
    }


def hub_request(name: str) -> dict[str, Any]:
    """Return the request of a job that fetches a dataset of the Hugging Face hub, named "owner/name"."""
    return {"source": f"{PREFIX}{name}", "format": str(DatasetFormat.HUGGINGFACE)}


def prepared(file: str) -> Dataset:
    """Return the Dataset of a file that a preparation wrote."""
    return get("prepared", Path(file).stem)


def _uploaded() -> Iterator[Dataset]:
    return (_of_upload(upload) for upload in uploads.find() if upload.finished is not None)


def _of_upload(upload: uploads.Upload) -> Dataset:
    return Dataset("upload", upload.id, upload.name, upload.type, upload.bytes, upload.created, upload.content)


def _prepared() -> Iterator[Dataset]:
    for file in paths.prepared_dir().glob("[!.]*.jsonl"):
        yield from _of_file("prepared", file.stem, file.name, file)


def _built() -> Iterator[Dataset]:
    for manifest in paths.datasets_dir().glob(f"*/{MANIFEST}"):
        yield from _of_file("built", manifest.parent.name, manifest.parent.name, manifest.with_name("train.jsonl"))


def _of_file(kind: Kind, id: str, name: str, file: Path) -> Iterator[Dataset]:
    with contextlib.suppress(FileNotFoundError):  # it was removed in the meantime
        facts = file.stat()
        yield Dataset(kind, id, name, "jsonl", facts.st_size, facts.st_mtime, file)


def _check_unused(place: Path, id: str, queue: Queue) -> None:
    for job in queue.jobs((State.QUEUED, *ACTIVE), limit=500):
        if _reads(job, place, id):
            raise Busy(
                f"the job {job.id} ({job.kind}) is {job.state} and uses this dataset: cancel the job, or wait until "
                "it is over"
            )


def _reads(job: Job, place: Path, id: str) -> bool:
    asked = job.request
    files = (asked.get("source"), asked.get("config", {}).get("dataset", {}).get("path"))
    named = [Path(file) for file in files if job.kind in ("prepare", "train") and file]
    return any(file.is_relative_to(place) for file in named) or (job.kind == "import" and asked.get("upload") == id)
