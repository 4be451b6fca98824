"""A file of lines that any number of processes append to, and that a crash cannot spoil.

Reading changes nothing. A file that holds lines, and none of the log's, is somebody else's: it is
refused, and left as it is. Each line stands for itself and has a checksum of its own (`log_lines`);
until a rewrite replaces the file, a line stays at its offset.

Beside `conversations.jsonl` lie `conversations.jsonl.lock` (empty, and never removed: all who wait
must wait on the same file) and, if there was damage, `conversations.jsonl.damaged`: the lines that
could not be read, byte for byte.
"""

import errno
import glob
import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import filelock

from fine_tuning import paths
from fine_tuning.data_collection.log_lines import is_ours
from fine_tuning.errors import Busy, DataError

LOCK_TIMEOUT = 60.0  # seconds
_COPIED = 1 << 20  # bytes at once
_PIECE = 1 << 26  # bytes of a line that are looked at, to tell whether it is ours


class Stamp(NamedTuple):
    """State of the file: while the stamp is the same, so is the content. All zero without a file."""

    inode: int = 0
    size: int = 0
    mtime: int = 0  # nanoseconds


class LogFile:
    """All that writes must be called inside `locked()`. Raises DataError when the file system
    refuses, or for a file that is not ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = paths.real(path)  # one lock, by whatever name the log is reached
        self.quarantine = self.path.with_name(self.path.name + ".damaged")
        self._lock = self.path.with_name(self.path.name + ".lock")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other writers out, in this process and any other. Not reentrant. Raises Busy
        when the wait is too long.

        The lock is a file of its own, and the log is opened only under it: who waited never writes
        to a file that was replaced meanwhile.
        """
        self.check("write")  # before anything is made beside it
        with self._refusals("lock"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self._lock, timeout=LOCK_TIMEOUT, poll_interval=0.005)
            try:
                lock.acquire()
            except filelock.Timeout as error:
                raise Busy(
                    f"{self.path} is locked by another program, for more than {LOCK_TIMEOUT:.0f} s: end that "
                    "program, and try again"
                ) from error
        try:
            yield
        finally:
            lock.release()

    def append(self, *lines: bytes) -> None:
        """Add lines; on return they are on the disk. A torn last line is ended first. What cannot
        be written whole is taken back.
        """
        with self._refusals("write"), _opened(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as file:
            end = os.lseek(file, 0, os.SEEK_END)
            try:
                _write_all(file, (b"" if _ends_line(file, end) else b"\n") + b"".join(line + b"\n" for line in lines))
                os.fsync(file)
            except OSError:
                os.ftruncate(file, end)
                raise
            if end == 0:
                paths.fsync_dir(self.path.parent)

    def is_ended(self) -> bool:
        """Return whether the last line is ended, or there is none."""
        with self.opened() as (content, stamp):
            return _ends_line(content.fileno(), stamp.size) if stamp.size else True

    def read(self) -> tuple[list[bytes], bytes]:
        """The ended lines, and what follows the last of them: nothing, a line that is being
        written, or one that never was.
        """
        self.check()
        *lines, tail = self._bytes(self.path).split(b"\n")
        return lines, tail

    @contextmanager
    def opened(self) -> Iterator[tuple[BinaryIO, Stamp]]:
        """Open the file for reading, and say its state at that moment; an empty one where there is none."""
        self.check()
        with self._refusals("read"), ExitStack() as stack:
            try:
                descriptor = stack.enter_context(_opened(self.path, os.O_RDONLY))
                content: BinaryIO = stack.enter_context(os.fdopen(os.dup(descriptor), "rb"))
                stamp = _stamp(os.fstat(descriptor))
            except FileNotFoundError:
                content, stamp = io.BytesIO(), Stamp()
            yield content, stamp

    def cut(self, ranges: Sequence[tuple[int, int]], added: Sequence[bytes] = (), opened: bool = False) -> None:
        """Rewrite the file without the lines at `ranges` (start and length, in order), and with the
        lines `added` behind all others.

        `opened`: if nothing is left behind the first range, the line before it is not ended, as it was before them.
        """

        def pieces() -> Iterator[bytes]:
            with self.opened() as (content, _):
                for start, length in ranges:
                    yield from _read(content, start - content.tell())
                    content.seek(start + length + 1)  # and the line's end
                last = b"\n"
                for last in _read(content, -1):
                    yield last
            if added:
                yield (b"" if last.endswith(b"\n") else b"\n") + b"".join(line + b"\n" for line in added)

        self._replace(self.path, pieces())
        if opened and self.stamp().size == ranges[0][0]:
            with self._refusals("write"):
                os.truncate(self.path, ranges[0][0] - 1)

    def stamp(self) -> Stamp:
        """Return the file's state, without reading it."""
        with self._refusals("read"):
            try:
                return _stamp(self.path.stat())
            except FileNotFoundError:
                return Stamp()

    def check(self, what: str = "read") -> None:
        """DataError if the file is not the log's: no regular file, or with lines of which none is
        ours. Reads to the first that is.
        """
        with self._refusals(what), suppress(FileNotFoundError), _opened(self.path, os.O_RDONLY) as descriptor:
            with os.fdopen(os.dup(descriptor), "rb") as file:
                pieces = filter(bytes.strip, iter(partial(file.readline, _PIECE), b""))
                first = next(pieces, None)
                if first is None or is_ours(first) or any(map(is_ours, pieces)):
                    return
            raise DataError(
                f"{self.path} is no byoai log: no line of it is a turn. It was left as it is; name another file for "
                "the log"
            )

    def rewrite(self, lines: Sequence[bytes]) -> None:
        """Put `lines` in place of all that is there. A crash leaves the old or the new file, and no
        third one for long.
        """
        self._replace(self.path, (line + b"\n" for line in lines))

    def set_aside(self, damaged: Sequence[bytes], kept: Sequence[bytes]) -> None:
        """Move lines into the quarantine. They are safe there before they leave the log; a crash in
        between doubles none of them.
        """
        before = self.quarantined()
        known = set(before)
        self._replace(
            self.quarantine, (line + b"\n" for line in [*before, *(line for line in damaged if line not in known)])
        )
        self.rewrite(kept)

    def quarantined(self) -> list[bytes]:
        return [line for line in self._bytes(self.quarantine).split(b"\n") if line]

    def rewrite_quarantine(self, lines: Sequence[bytes]) -> None:
        self._replace(self.quarantine, (line + b"\n" for line in lines))
        if not lines:
            self.quarantine.unlink()

    def _replace(self, path: Path, content: Iterable[bytes]) -> None:
        with self._refusals("write"):
            # Left by a rewrite that was killed: it holds what people said. Under the lock nobody else's is in use.
            for stale in path.parent.glob(f".{glob.escape(path.name)}.{'?' * 8}"):
                stale.unlink(missing_ok=True)
            paths.atomic_write(path, content)

    def _bytes(self, path: Path) -> bytes:
        with self._refusals("read"):
            try:
                with _opened(path, os.O_RDONLY) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
                    return file.read()
            except FileNotFoundError:
                return b""

    @contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"cannot {what} the log {self.path}: {error.strerror or error}. Check the path, the disk's space and "
                "the permissions"
            ) from error


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def _read(content: BinaryIO, count: int) -> Iterator[bytes]:
    """Yield the next `count` bytes in pieces; all that are left for -1."""
    while count and (piece := content.read(_COPIED if count < 0 else min(count, _COPIED))):
        yield piece
        count -= len(piece) if count > 0 else 0


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """Open a regular file: opening a pipe would wait, and reading a device may never end. Only its
    owner may read a new one.
    """
    file = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o600)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "it is no file, but a folder, a pipe or a device")
        yield file
    finally:
        os.close(file)


def _ends_line(file: int, end: int) -> bool:
    """Whether a line may begin at `end`."""
    if end == 0:
        return True
    os.lseek(file, end - 1, os.SEEK_SET)
    return os.read(file, 1) == b"\n"


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
