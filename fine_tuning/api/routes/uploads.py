"""Routes for resumable uploads: a file is sent in parts, and becomes a dataset when it is finished."""

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

_PIECE = 1 << 20  # bytes buffered before they are written

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
    sha256: Annotated[str | None, Field(pattern=r"^[0-9a-fA-F]{64}$", description="is checked at the end")] = None


class UploadFacts(BaseModel):
    """The state of an upload."""

    id: str
    name: str
    bytes: int  # as announced
    size: int  # bytes received so far, which is the offset of the next part
    sha256: str  # as announced, or as computed once finished; else ""
    created: float  # seconds since 1970
    finished: float | None  # likewise; None until it is finished
    type: str  # type of the content; "" until it is finished


@router.get("")
def list_uploads(limit: Limit = 50, cursor: Cursor = None) -> Page[UploadFacts]:
    """List uploads, finished or not, newest first."""
    place = tuple(from_cursor(cursor, float, str)) if cursor else None
    found = [upload for upload in uploads.find() if place is None or (upload.created, upload.id) < place]
    return page_of(found, limit, _facts, lambda upload: (upload.created, upload.id))


@router.post("", status_code=201, responses=documented(413, 507))
def create_upload(asked: NewUpload, service: Serving) -> UploadFacts:
    """Begin an upload. Then send its parts in order, and finish it.

    413 if the file is larger than allowed, 507 if the disk has no room for it.
    """
    return _facts(uploads.create(asked.name, asked.bytes, asked.sha256 or "", service.config.uploads))


@router.get("/{id}")
def show_upload(id: Id) -> UploadFacts:
    """Show the state of an upload; `size` is the offset of the next part."""
    return _facts(uploads.get(id))


@router.put("/{id}", responses=documented(408, 413, 507), openapi_extra=_BYTES)
async def send_part(
    id: Id,
    request: Request,
    service: Serving,
    offset: Annotated[
        int, Query(ge=0, le=2**53, description="where the part begins: the number of bytes sent before it")
    ],
) -> UploadFacts:
    """Send the next part, of any length.

    After an error, continue from the upload's current `size`. A part with another offset gets 409;
    the header X-Upload-Size then holds the current size.
    """
    uploads.check_offset(
        await asyncio.to_thread(uploads.get, id), offset, announced_length(request.headers.get("content-length"))
    )
    await _receive(request, id, offset, service.config.uploads)
    return await asyncio.to_thread(lambda: _facts(uploads.get(id)))


@router.post("/{id}/finish")
def finish_upload(id: Id, asked: NoFields) -> UploadFacts:
    """Finish an upload: check its size and hash, and detect its type from its content.

    400 if the content is forbidden (programs, pickles, archives with paths outside of them); the
    upload is then removed.
    """
    return _facts(uploads.finish(id))


@router.delete("/{id}", status_code=204)
def delete_upload(id: Id, service: Serving) -> None:
    """Delete an upload, finished or not."""
    datasets.remove("upload", id, service.queue)


async def _receive(request: Request, id: str, offset: int, limits: Uploads) -> None:
    """Append a request's body to an upload while it arrives, with at most one piece in memory.

    Raises ClientDisconnect if the client leaves, and the errors of `uploads.append`.
    """
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
