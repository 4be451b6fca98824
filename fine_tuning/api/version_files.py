"""Send the files of a version: its GGUF, or its adapter as a zip archive."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from fastapi.responses import FileResponse, Response, StreamingResponse

from fine_tuning.errors import ModelNotFound
from fine_tuning.model_management.model_pruner import run_of
from fine_tuning.model_management.model_registry import Version
from fine_tuning.runs import Run

Part = Literal["gguf", "adapter"]

_PIECE = 1 << 20  # bytes


def file_of(version: Version, part: Part) -> Response:
    """Return a response that sends a version's GGUF, or its adapter in PEFT's format as a zip archive.

    Raises ModelNotFound if the version's run has no such file, or was removed.
    """
    folder = run_of(version)
    run = Run(folder) if folder and folder.is_dir() else None
    name = version.tag.replace(":", "-")
    if part == "gguf":
        file = (run.model_gguf if run.model_gguf.exists() else run.adapter_gguf) if run else None
        return FileResponse(_there(version, part, file), media_type="application/octet-stream", filename=f"{name}.gguf")
    adapter = _there(version, part, run.adapter if run else None)
    headers = {"content-disposition": f'attachment; filename="{name}.zip"'}
    return StreamingResponse(_zipped(adapter), media_type="application/zip", headers=headers)


def _there(version: Version, part: Part, file: Path | None) -> Path:
    if file is None or not file.exists():
        raise ModelNotFound(
            f"there is no {part} of {version.tag} on this machine: its run was deleted, or byoai did not make the "
            "version here. Choose another version"
        )
    return file


def _zipped(folder: Path) -> Iterator[bytes]:
    """Yield a zip archive of a folder's files in pieces of about a mebibyte, without a temporary file."""
    out = _Pieces()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(each for each in folder.rglob("*") if each.is_file() and not each.is_symlink()):
            with (
                file.open("rb") as content,
                archive.open(file.relative_to(folder).as_posix(), "w", force_zip64=True) as entry,
            ):
                while piece := content.read(_PIECE):
                    entry.write(piece)
                    yield out.take()
    yield out.take()


class _Pieces(io.RawIOBase):
    """A write-only file in memory. `take` returns what was written since the last call, and frees it."""

    def __init__(self) -> None:
        self._held, self._at = bytearray(), 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any, /) -> int:
        self._held += bytes(data)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def take(self) -> bytes:
        taken = bytes(self._held)
        self._held.clear()
        return taken
