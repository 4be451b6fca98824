"""Receive files from programs part by part, over any number of connections.

data/uploads/<id>/upload.json      what was announced, and, once complete, what the file is; written atomically
                  content/<name>   the bytes received so far (mode 0600): its size is the next offset
                  lock             held while the upload is changed

A part is written only if it follows the bytes received so far. If two programs send parts of one
upload, the slower one gets an error with the current offset. Nothing is unpacked, and nothing is
run.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import filelock

from fine_tuning import paths
from fine_tuning.config import Uploads
from fine_tuning.data_collection.upload_types import type_of
from fine_tuning.errors import (
    Busy,
    ConfigError,
    DataError,
    DatasetNotFound,
    NoRoom,
    QuotaReached,
    TooLarge,
    WrongOffset,
)
from fine_tuning.json_values import parse_json
from fine_tuning.state import is_full

STALE = 86_400.0  # seconds after its last part at which an unfinished upload is removed
_MIB = 1 << 20
_LOCK_TIMEOUT = 60.0  # seconds


@dataclass(frozen=True)
class Upload:
    """A file that is received, or was received completely."""

    id: str
    name: str  # the name that its sender gave it
    file: str  # its name on the disk
    bytes: int  # as announced
    sha256: str  # as announced, or as computed at the end; "" if neither is known
    created: float
    finished: float | None = None  # when it was complete
    type: str = ""  # of its content, once it is complete
    imports: tuple[str, ...] = ()  # ids of the imports that read it

    @property
    def folder(self) -> Path:
        return folder_of(self.id)

    @property
    def content(self) -> Path:
        return self.folder / "content" / self.file

    @property
    def size(self) -> int:
        """The number of bytes received so far."""
        try:
            return self.content.lstat().st_size
        except FileNotFoundError:
            return 0

    def noting_import(self, id: str) -> "Upload":
        """Record that the import `id` reads the upload, and return the upload.

        If a turn of this import is forgotten later, the upload must be deleted too. Raises
        DataError if the upload is not finished.
        """
        with _locked(self.folder):
            now = get(self.id)
            if now.finished is None:
                raise DataError(
                    f"the upload {self.id} is not finished, because only {now.size} of {now.bytes} bytes have arrived: "
                    "send the rest first"
                )
            return _write(replace(now, imports=(*now.imports, id)))


def folder_of(id: str) -> Path:
    """Return the folder of an upload. Raises DatasetNotFound if the id is invalid."""
    try:
        return paths.within_home(paths.uploads_dir() / paths.safe_name(id))
    except ConfigError as error:
        raise DatasetNotFound(f"there is no upload {id[:100]!r}: GET /api/uploads lists them") from error


def get(id: str) -> Upload:
    """Return an upload. Raises DatasetNotFound if no upload has this id."""
    try:
        found = parse_json((folder_of(id) / "upload.json").read_text(encoding="utf-8"))
        known = {name: found[name] for name in (field.name for field in fields(Upload))}
        return Upload(**{**known, "imports": tuple(known["imports"])})
    except FileNotFoundError:
        raise DatasetNotFound(
            f"there is no upload {id[:100]!r}, because it was deleted or removed a day after its last part: send the "
            "file again"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"the upload {id} is damaged: delete it, and send the file again ({error})") from error


def find() -> list[Upload]:
    """Return all uploads, newest first."""
    return sorted(_all(), key=lambda upload: (upload.created, upload.id), reverse=True)


def create(name: str, bytes: int, sha256: str, limits: Uploads) -> Upload:
    """Begin an upload of a file of `bytes` bytes, and return it.

    Raises:
        TooLarge: The file exceeds the limit for one file.
        QuotaReached: All uploads together would exceed their limit, or too many are unfinished.
        NoRoom: The disk does not have enough free space.
    """
    remove_stale()
    id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
    upload = Upload(id, name, _file_name(name), bytes, sha256.lower(), time.time())
    if bytes > limits.largest * _MIB:
        raise TooLarge(
            f"{name} has {_size(bytes)}, more than the {limits.largest} MiB that an upload may have "
            "(uploads.largest): split it"
        )
    paths.uploads_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(paths.uploads_dir()):
        _check_room(upload, find(), limits)
        upload.content.parent.mkdir(mode=0o700, parents=True)
        return _write(upload)


def append(id: str, offset: int, part: bytes, limits: Uploads) -> int:
    """Write a part of an upload, which must begin where the parts before it end; return the new size.

    Raises:
        WrongOffset: The part begins elsewhere; the error's `size` is the right offset.
        TooLarge: The part exceeds the announced size. Nothing of it is written.
        NoRoom: The disk is full. The bytes that were written are kept, and the upload can continue.
    """
    with _locked(folder_of(id)):
        upload = get(id)
        check_offset(upload, offset, len(part))
        if shutil.disk_usage(upload.folder).free < limits.keep_free * _MIB:
            raise NoRoom(
                f"the disk has less than {limits.keep_free} MiB left (uploads.keep_free): make room, and continue "
                f"with offset={offset}"
            )
        try:
            handle = os.open(upload.content, os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
            try:
                rest, at = memoryview(part), offset
                while rest:
                    os.lseek(handle, at, os.SEEK_SET)
                    written = os.write(handle, rest)
                    rest, at = rest[written:], at + written
            finally:
                os.close(handle)
        except OSError as error:
            if not is_full(error):
                raise
            raise NoRoom(f"the disk is full: make room, and continue with offset={upload.size}") from error
        return at


def check_offset(upload: Upload, offset: int, count: int = 0) -> None:
    """Check that a part of `count` bytes may begin at `offset`.

    Raises WrongOffset if it does not follow the parts before it, and TooLarge if it exceeds the
    announced size.
    """
    if upload.finished is not None:
        raise WrongOffset(f"the upload {upload.id} is finished: no more bytes can be added", upload.size)
    if offset != (size := upload.size):
        raise WrongOffset(f"{size} bytes have arrived: continue with offset={size}", size)
    if offset + count > upload.bytes:
        raise TooLarge(
            f"{upload.bytes} bytes were announced, but this part ends at byte {offset + count}: begin an upload "
            "of that size"
        )


def finish(id: str) -> Upload:
    """Check a completely received upload, determine its type, and return it. A finished upload is returned unchanged.

    Raises:
        WrongOffset: Bytes are missing; the error's `size` is the next offset.
        DataError: The content is not what was announced, or may not be uploaded. The upload is removed.
    """
    with _locked(folder_of(id)):
        upload = get(id)
        if upload.finished is not None:
            return upload
        if (size := upload.size) != upload.bytes:
            raise WrongOffset(
                f"{size} of {upload.bytes} bytes have arrived: continue with offset={size}, then finish it", size
            )
        try:
            digest = _digest(upload.content)
            if upload.sha256 not in ("", digest):
                raise DataError(
                    f"{upload.name} arrived with the SHA-256 {digest}, but {upload.sha256} was announced: send it again"
                )
            kind = type_of(upload.content)
        except DataError:
            shutil.rmtree(upload.folder, ignore_errors=True)
            raise
        paths.fsync_dir(upload.content.parent)
        return _write(replace(upload, sha256=digest, type=kind, finished=time.time()))


def remove(id: str) -> None:
    """Delete an upload, finished or not. Raises DatasetNotFound if no upload has this id."""
    folder = folder_of(id)
    if not folder.is_dir() or folder.is_symlink():
        raise DatasetNotFound(f"there is no upload {id[:100]!r}: GET /api/uploads lists them")
    with _locked(folder):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # the lock's file remains if an open file cannot be removed


def remove_stale(now: float | None = None) -> list[str]:
    """Remove unfinished uploads, and remains of deleted ones, that received nothing for a day; return their ids.

    `now` is the current time (seconds since 1970) by default.
    """
    gone = []
    folder = paths.uploads_dir()
    for each in folder.iterdir() if folder.is_dir() else ():
        if not each.is_dir() or each.is_symlink():
            continue
        with contextlib.suppress(DataError):
            if get(each.name).finished is not None:
                continue
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            last = max(path.lstat().st_mtime for path in (each, *each.glob("content/*")))
            if (time.time() if now is None else now) - last > STALE:
                shutil.rmtree(each, ignore_errors=True)
                gone.append(each.name)
    return gone


def _all() -> Iterator[Upload]:
    for file in paths.uploads_dir().glob("*/upload.json"):
        with contextlib.suppress(DataError):  # deleted meanwhile, or damaged
            yield get(file.parent.name)


def _check_room(upload: Upload, others: list[Upload], limits: Uploads) -> None:
    unfinished = [other for other in others if other.finished is None]
    if len(unfinished) >= limits.unfinished:
        raise QuotaReached(f"{len(unfinished)} uploads are unfinished (uploads.unfinished): finish or delete one first")
    if (taken := sum(other.bytes for other in others)) + upload.bytes > limits.quota * _MIB:
        raise QuotaReached(
            f"all uploads together already have {_size(taken)} of {limits.quota} MiB (uploads.quota): delete one first"
        )
    awaited = upload.bytes + sum(other.bytes - other.size for other in unfinished)
    if (free := shutil.disk_usage(paths.uploads_dir()).free) < awaited + limits.keep_free * _MIB:
        raise NoRoom(
            f"the disk has {_size(free)} left, but unfinished uploads need {_size(awaited)}, and "
            f"{limits.keep_free} MiB must stay free (uploads.keep_free): make room first"
        )


def _file_name(name: str) -> str:
    """Return a safe file name for an upload that its sender calls `name`.

    The suffix is kept, since some formats are told apart by it.
    """
    stem, _, ending = name.rpartition(".") if "." in name else (name, "", "")
    ending = ending.lower() if ending.isascii() and ending.isalnum() and len(ending) <= 10 else ""
    return paths.safe_name(f"{paths.slug(stem, 60)}{f'.{ending}' if ending else ''}")


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        os.fsync(content.fileno())
    return digest


def _write(upload: Upload) -> Upload:
    paths.write_json(upload.folder / "upload.json", asdict(upload))
    return upload


def _size(count: int) -> str:
    return f"{count / _MIB:.1f} MiB"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the write lock of an upload's folder within the `with` block.

    Raises DatasetNotFound if the folder is missing, and Busy if the lock is not free in time.
    """
    if not folder.is_dir():
        raise DatasetNotFound(f"there is no upload {folder.name!r}: GET /api/uploads lists them")
    lock = filelock.FileLock(folder / "lock", timeout=_LOCK_TIMEOUT, poll_interval=0.005, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise Busy(f"another part of the upload {folder.name} is being written: try again") from error
    except FileNotFoundError:
        raise DatasetNotFound(f"the upload {folder.name!r} was deleted in the meantime: send the file again") from None
    try:
        yield
    finally:
        lock.release()
