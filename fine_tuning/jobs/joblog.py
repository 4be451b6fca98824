"""Write a job's log: what its processes print to stdout and stderr, with secrets masked, in files of limited size."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from fine_tuning import paths
from fine_tuning.data_collection.privacy import PII, finds
from fine_tuning.errors import Busy

LIMIT = 1 << 20  # maximum bytes of log.txt, and of log.1.txt, which holds older output
_LONGEST = 1 << 16  # maximum bytes of a line or of the block of a private key that is masked as a whole
_BEGIN, _END = b"-----BEGIN", b"-----END"


def mask(text: str) -> str:
    """Return `text` with keys and passwords replaced by placeholders."""
    pieces, end = [], 0
    for find in finds(text):
        if find.kind == PII.SECRET:
            pieces += [text[end : find.start], find.kind.placeholder]
            end = find.end
    return "".join([*pieces, text[end:]])


@contextlib.contextmanager
def logged_to(file: Path) -> Iterator[None]:
    """Redirect stdout and stderr of this process and its children to `file` within the `with` block.

    Secrets are masked.
    """
    ours, theirs = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    before = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(theirs, number)
    os.close(theirs)
    writer = threading.Thread(target=_write, args=(ours, file), name="job log", daemon=True)
    writer.start()
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in zip((1, 2), before, strict=True):
            os.dup2(old, number)
            os.close(old)
        writer.join(timeout=2)  # not longer, since a surviving child may keep the pipe open


def _write(source: int, file: Path) -> None:
    with os.fdopen(source, "rb", buffering=0) as pipe:
        rest = b""
        while read := pipe.read(_LONGEST):
            whole, rest = _cut(rest + read)
            append(file, whole)
        append(file, rest)


def _cut(read: bytes) -> tuple[bytes, bytes]:
    """Split output into what can be written now, and the rest, which is written together with later output.

    The rest is an incomplete line or an incomplete block of a private key: secrets are recognised
    only in complete ones. Output of _LONGEST bytes without a line end is written as it is.
    """
    end = read.rfind(b"\n") + 1
    begun = read.rfind(_BEGIN, 0, end)
    if begun >= 0 and _END not in read[begun:end]:
        end = read.rfind(b"\n", 0, begun) + 1
    return (read[:end], read[end:]) if end or len(read) < _LONGEST else (read, b"")


def append(file: Path, content: bytes) -> None:
    """Append output to a log, with secrets masked.

    If the log would exceed LIMIT, it is first renamed to log.1.txt, replacing an older one. Write
    errors are ignored, since they must not fail the job.
    """
    if not content:
        return
    masked = mask(content.decode("utf-8", "replace")).encode("utf-8", "replace")
    with contextlib.suppress(OSError, Busy):
        paths.append_limited(file, masked, LIMIT, file.with_suffix(".1.txt"))


def last_line(file: Path) -> str:
    """Return the last line of a log that is not blank; "" if there is none in its last 4096 bytes."""
    if not file.exists():
        return ""
    with file.open("rb") as log:
        log.seek(max(file.stat().st_size - 4096, 0))
        lines = log.read().decode("utf-8", "replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
