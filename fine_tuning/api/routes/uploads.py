"""Uploads: a file sent part by part, over any number of connections, until it is whole and is a dataset."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field

from fine_tuning.api.dependencies import SAFE_ID, Asked, Cursor, Limit, NoFields, Page, Serving, from_cursor, page_of
from fine_tuning.api.errors import documented
from fine_tuning.api.security import announced_length
from fine_tuning.config import Uploads
from fine_tuning.data_collection import uploads
from fine_tuning.data_collection.uploads import Upload
from fine_tuning.integration import datasets

router = APIRouter(prefix="/api/uploads", tags=["uploads"])

_PIECE = 1 << 20  # bytes that are held before they are written

Id = Annotated[str, Path(pattern=SAFE_ID, description="an upload's id")]
_BYTES = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class NewUpload(Asked):
    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f/\\]{1,200}$", description="the file's name, without folders")]
    bytes: Annotated[int, Field(ge=1, le=2**53, description="the file's size")]
    sha256: Annotated[str | None, Field(pattern=r"^[0-9a-fA-F]{64}$", description="checked when it is finished")] = None


class UploadFacts(BaseModel):
    """How an upload stands."""

    id: str
    name: str
    bytes: int  # as announced
    size: int  # that has come: where to go on
    sha256: str  # as announced, later as found; "" before that
    created: float
    finished: float | None
    type: str  # of its content, once it is finished


@router.get("")
def list_uploads(limit: Limit = 50, cursor: Cursor = None) -> Page[UploadFacts]:
    """List uploads, finished or not, newest first."""
    place = tuple(from_cursor(cursor, float, str)) if cursor else None
    found = [upload for upload in uploads.find() if place is None or (upload.created, upload.id) < place]
    return page_of(found, limit, _facts, lambda upload: (upload.created, upload.id))


@router.post("", status_code=201, responses=documented(413, 507))
def create_upload(asked: NewUpload, service: Serving) -> UploadFacts:
    """Begin an upload: then send its parts, in order, and finish it."""
    return _facts(uploads.create(asked.name, asked.bytes, asked.sha256 or "", service.config.uploads))


@router.get("/{id}")
def show_upload(id: Id) -> UploadFacts:
    """Show how an upload stands: `size` is the offset to go on from."""
    return _facts(uploads.get(id))


@router.put("/{id}", responses=documented(408, 413, 507), openapi_extra=_BYTES)
async def send_part(
    id: Id,
    request: Request,
    service: Serving,
    offset: Annotated[
        int, Query(ge=0, le=2**53, description="where the part begins: how many bytes have come before it")
    ],
) -> UploadFacts:
    """Send the next part, of any length. After an error or a lost connection, go on from the `size`
    that the upload has then: what came is kept. A part that begins elsewhere is answered with 409,
    which says the size, also in the header X-Upload-Size.
    """
    uploads.check_offset(
        await asyncio.to_thread(uploads.get, id), offset, announced_length(request.headers.get("content-length"))
    )
    await _receive(request, id, offset, service.config.uploads)
    return await asyncio.to_thread(lambda: _facts(uploads.get(id)))


@router.post("/{id}/finish")
def finish_upload(id: Id, asked: NoFields) -> UploadFacts:
    """Check that the upload is whole and what was announced, and find out by its content what it
    is. What may not be uploaded (programs, pickles, archives that reach outside) is refused with
    400, and removed.
    """
    return _facts(uploads.finish(id))


@router.delete("/{id}", status_code=204)
def delete_upload(id: Id, service: Serving) -> None:
    """Delete an upload, finished or not."""
    datasets.remove("upload", id, service.queue)


async def _receive(request: Request, id: str, offset: int, limits: Uploads) -> None:
    """Write the body as it comes; no more than a piece of it is held."""
    held = bytearray()
    async for chunk in request.stream():
        for start in range(0, len(chunk), _PIECE):
            held += chunk[start : start + _PIECE]
            if len(held) >= _PIECE:
                offset = await asyncio.to_thread(uploads.append, id, offset, bytes(held), limits)
                held.clear()
    if held:
        await asyncio.to_thread(uploads.append, id, offset, bytes(held), limits)


def _facts(upload: Upload) -> UploadFacts:
    told = {name: getattr(upload, name) for name in UploadFacts.model_fields}
    return UploadFacts(**told)
