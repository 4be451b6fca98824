"""Store lines in a file to which any number of processes append, and which survives a crash.

Reading changes nothing. A non-empty file without any line of a log belongs to another program: it
is refused, and left unchanged. Each line has its own checksum (`log_lines`) and does not depend on
the others. A line stays at its offset until a rewrite replaces the file.

Beside `conversations.jsonl` there are two files. `conversations.jsonl.lock` is empty and never
removed, so that all processes wait for the same file. `conversations.jsonl.damaged`, the quarantine,
exists after damage, and holds the unreadable lines, byte for byte.
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
from fine_tuning.data_collection.log.lines import is_ours
from fine_tuning.errors import Busy, DataError

LOCK_TIMEOUT = 60.0  # seconds
_COPIED = 1 << 20  # bytes at once
_PIECE = 1 << 26  # bytes of a line that are examined to recognise a record


class Stamp(NamedTuple):
    """The state of a file. As long as the stamp is the same, so is the content. All zero if there is no file."""

    inode: int = 0
    size: int = 0
    mtime: int = 0  # nanoseconds


class LogFile:
    """Reads and writes the file of a log. Methods that write must be called within `locked()`.

    All methods raise DataError if the file system refuses access, or the file is not a log.
    """

    def __init__(self, path: Path) -> None:
        self.path = paths.real(path)  # so that all names of a log share one lock
        self.quarantine = self.path.with_name(self.path.name + ".damaged")
        self._lock = self.path.with_name(self.path.name + ".lock")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the write lock within the `with` block, against other threads and processes.

        The lock is not reentrant. It is a separate file, and the log is opened only while the lock is held,
        so a process that waited never writes to a file that was replaced in the meantime. Raises Busy if the
        lock is not free within LOCK_TIMEOUT.
        """
        self.check("write")  # before a lock file is created beside it
        with self._refusals("lock"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self._lock, timeout=LOCK_TIMEOUT, poll_interval=0.005)
            try:
                lock.acquire()
            except filelock.Timeout as error:
                raise Busy(
                    f"another program has locked {self.path} for more than {LOCK_TIMEOUT:.0f} s: end that program, and "
                    "try again"
                ) from error
        try:
            yield
        finally:
            lock.release()

    def append(self, *lines: bytes) -> None:
        """Append lines, after ending an incomplete last line. When this returns, they are on the disk.

        If they cannot be written completely, the file is restored.
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
        """Return whether the file is empty or ends with a line end."""
        with self.opened() as (content, stamp):
            return _ends_line(content.fileno(), stamp.size) if stamp.size else True

    def read(self) -> tuple[list[bytes], bytes]:
        """Return the complete lines, and the bytes after the last complete line.

        These are b"", or a line that is still being written or was left incomplete by a crash.
        """
        self.check()
        *lines, tail = self._bytes(self.path).split(b"\n")
        return lines, tail

    @contextmanager
    def opened(self) -> Iterator[tuple[BinaryIO, Stamp]]:
        """Open the file for reading, and yield it with its stamp at that moment.

        If there is no file, an empty one is yielded, with a stamp of zeros.
        """
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
        """Rewrite the file without the lines at `ranges`, and with the lines `added` at its end.

        Args:
            ranges: (start, length) of each line in bytes, without its line end, in order.
            added: Lines without line ends.
            opened: Whether the line before the first range had no line end. If that line is now the last
                one, its line end is removed again.
        """

        def pieces() -> Iterator[bytes]:
            with self.opened() as (content, _):
                for start, length in ranges:
                    yield from _read(content, start - content.tell())
                    content.seek(start + length + 1)  # with the line end
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
        """Raise DataError if the file is not a log: not a regular file, or not empty and without any record.

        It is read only up to its first record. `what` is the verb in the message of an error.
        """
        with self._refusals(what), suppress(FileNotFoundError), _opened(self.path, os.O_RDONLY) as descriptor:
            with os.fdopen(os.dup(descriptor), "rb") as file:
                pieces = filter(bytes.strip, iter(partial(file.readline, _PIECE), b""))
                first = next(pieces, None)
                if first is None or is_ours(first) or any(map(is_ours, pieces)):
                    return
            raise DataError(
                f"{self.path} is not a log of byoai, because none of its lines is a turn. It was not changed; choose "
                "another file for the log"
            )

    def rewrite(self, lines: Sequence[bytes]) -> None:
        """Replace the whole content by `lines`. A crash leaves the old or the new file."""
        self._replace(self.path, (line + b"\n" for line in lines))

    def set_aside(self, damaged: Sequence[bytes], kept: Sequence[bytes]) -> None:
        """Move damaged lines into the quarantine; the lines `kept` stay in the log.

        The damaged lines are on the disk in the quarantine before they are removed from the log. A crash in
        between duplicates none of them.
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
            # remove what a killed rewrite left, which contains messages; under the lock it is not in use
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
    """Yield the next `count` bytes in pieces, or all remaining bytes if `count` is -1."""
    while count and (piece := content.read(_COPIED if count < 0 else min(count, _COPIED))):
        yield piece
        count -= len(piece) if count > 0 else 0


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """Open a regular file, and yield its descriptor. A new file can be read by its owner only.

    Pipes and devices are refused: opening a pipe would block, and reading a device may never end.
    """
    file = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o600)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "it is not a file, but a folder, a pipe or a device")
        yield file
    finally:
        os.close(file)


def _ends_line(file: int, end: int) -> bool:
    """Return whether a line may begin at the offset `end`: at the start of the file, or after a line end."""
    if end == 0:
        return True
    os.lseek(file, end - 1, os.SEEK_SET)
    return os.read(file, 1) == b"\n"


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
