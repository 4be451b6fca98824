"""Define where files are stored, how names become paths, and how files are written.

After a crash during a write, a file has either its complete old or its complete new content. All
files are written below `home()`, except those that can be downloaded or computed again, which are
in the user's cache folder.
"""

import hashlib
import json
import os
import re
import stat
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from fine_tuning.errors import Busy, ByoaiError, ConfigError
from fine_tuning.json_values import parse_json

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLES = REPOSITORY / "data" / "samples"
DEFAULT_CONFIG = REPOSITORY / "config" / "fine_tuning_config.yaml"

_T = TypeVar("_T")

SAFE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"  # names that `safe_name` accepts, unless they contain ".." or end in "."
_SAFE = re.compile(SAFE_NAME)


def home() -> Path:
    """Return the data folder: `BYOAI_HOME`, else `data/` in the repository. It may be a link, or not exist yet.

    Raises ConfigError if the path is a file, or the root of the file system, in which `forget`
    would search every file.
    """
    named = os.environ.get("BYOAI_HOME")
    try:
        folder = Path(named or REPOSITORY / "data").expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(
            f"BYOAI_HOME is {named}, and that user has no home folder: name a folder for byoai's data"
        ) from error
    resolved = real(folder)
    if resolved.parent == resolved:
        raise ConfigError(
            f"BYOAI_HOME is {named}, the root of the file system: name a folder of its own for byoai's data"
        )
    if (there := _nearest_that_exists(folder)) and not there.is_dir():
        raise ConfigError(
            f"BYOAI_HOME is {folder}, but {there} is not a folder: name another folder for byoai's data (it is made if "
            "it does not exist)"
        )
    return folder


def _nearest_that_exists(path: Path) -> Path | None:
    for place in (path, *path.parents):
        try:
            place.stat()
        except OSError:
            continue
        return place
    return None


def real(path: Path) -> Path:
    """Return `path` with all links resolved. Raises ConfigError for an invalid path."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(path)[:200]!r} cannot be used as a path: {error}. Choose another path") from error


def within_home(path: Path) -> Path:
    """Return `path` with its links resolved, as a path below `home()`. Raises ConfigError if it is not.

    All paths from the configuration are checked by this function, so that byoai writes and removes
    nothing outside of its data folder.
    """
    try:
        inside = real(path).relative_to(real(home()))
    except ValueError:
        inside = Path()
    if not inside.parts:
        raise ConfigError(
            f"{path} is not in the data folder {home()}: name a path in it, or set BYOAI_HOME to the folder for all of "
            "byoai's data"
        )
    return home() / inside


def is_taken(path: Path) -> bool:
    """Return whether `path` is, or lies in, a subfolder of the data folder that has a fixed purpose."""
    fixed = ("conversations", "datasets", "engine", "exports", "mlflow", "prepared", "samples", "sweeps", "uploads")
    return any(real(path).is_relative_to(real(home() / name)) for name in fixed)


def cache() -> Path:
    """Return the user's cache folder.

    It contains files that can be downloaded or computed again (base models, engine builds).
    """
    return platformdirs.user_cache_path("byoai")


def conversations_dir() -> Path:
    return home() / "conversations"


def datasets_dir() -> Path:
    return home() / "datasets"


def sweeps_dir() -> Path:
    return home() / "sweeps"


def uploads_dir() -> Path:
    return home() / "uploads"


def prepared_dir() -> Path:
    return home() / "prepared"


def state_db() -> Path:
    return home() / "state.db"


def tracking_dir() -> Path:
    """Return the folder of MLflow's store: figures of runs, without texts of chats."""
    return home() / "mlflow"


def engine_dir() -> Path:
    """Return the folder in which the embedded engine stores its tags."""
    return home() / "engine"


def safe_name(name: str) -> str:
    """Return `name` if it is a valid file name on every system; else raise ConfigError.

    Every name from outside is checked by this function before it becomes a part of a path.
    """
    if not _SAFE.fullmatch(name) or name.endswith(".") or ".." in name:
        raise ConfigError(
            f"{name!r} cannot be used as a name: use letters, digits, '.', '_' and '-' (at most 100, a letter or digit "
            "first)"
        )
    return name


def slug(text: str, limit: int = 80) -> str:
    """Return a file name (`safe_name`) for any text: `smollm2:135m` becomes `smollm2-135m`.

    If the name would be empty or longer than `limit` characters, it is cut and gets a hash of the
    text at its end, so that different long texts get different names.
    """
    safe = re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-_")
    if not safe or len(safe) > limit:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        safe = f"{safe[: limit - 9].rstrip('-_') or 'model'}-{digest}"
    return safe_name(safe)


def fsync_dir(folder: Path) -> None:
    """Make new and renamed files in `folder` survive a power cut (does nothing on Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_write(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Write `content`, given as a whole or in pieces, to `path`, completely or not at all.

    Even after a crash, `path` has either the complete old or the complete new content. The folder
    is created if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = content.encode("utf-8") if isinstance(content, str) else content
    pieces = (whole,) if isinstance(whole, bytes) else whole
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


_PATIENCE = 10.0  # seconds to wait for a file that another program changes
_TRIES = 20  # to open a file that is replaced each time; some file systems do not number their files reliably


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock within the `with` block, so that no other thread or process changes `file` meanwhile.

    Use it around reading a file and writing it anew, and around creating one that is missing. The
    lock is a file beside `file`, which stays there. Raises Busy if another program holds the lock for
    more than ten seconds.
    """
    import filelock  # imported here, since it would slow down every start

    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(file.with_name(f"{file.name}.lock"), timeout=_PATIENCE):
            yield
    except filelock.Timeout as error:
        raise Busy(f"{file} is being changed by another program: try again") from error


def files_in(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the files in `folder` and its subfolders with their `stat` results; links are left out.

    Folders that cannot be read, and what disappears meanwhile, are skipped.
    """
    for place, _, names in os.walk(folder):
        for file in (Path(place, name) for name in names):
            with suppress(FileNotFoundError):
                facts = file.lstat()
                if stat.S_ISREG(facts.st_mode):
                    yield file, facts


def stamp(file: Path) -> tuple[int, int, int]:
    """Return (inode, size, time of change in ns) of a file, which differs after it was written or replaced.

    Return zeros if there is no such file.
    """
    try:
        found = file.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits, without loading the whole file into memory."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def holds(target: Path, file: Path, digest: str) -> bool:
    """Return whether `target` has the content of `file`, whose SHA-256 is `digest`; False if `target` is missing."""
    return target.exists() and (target.samefile(file) or sha256_of(target) == digest)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON with `atomic_write`."""
    atomic_write(path, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n")


def append_limited(file: Path, content: bytes, limit: int, older: Path) -> None:
    """Append to a log file that only its owner may read.

    If the file would exceed `limit` bytes, it is first renamed to `older`, which replaces an earlier one.
    Raises OSError if it cannot be written, and Busy if another program keeps the file locked.
    """

    def is_full() -> bool:
        return stamp(file)[1] + len(content) > limit and stamp(file)[1] > 0

    if is_full():
        with suppress(FileNotFoundError), replacing(file):
            if is_full():  # else another thread or process has just renamed it, as also if there is no such file
                file.replace(older)
    with appending(file) as target, os.fdopen(target, "ab", closefd=False) as opened:
        opened.write(content)


@contextmanager
def appending(file: Path) -> Iterator[int]:
    """Open a file that only its owner may read, and yield a descriptor that appends to it.

    If the file is just being replaced (`replacing`), wait until it is done, for at most ten seconds, so that
    nothing is written to the old one.
    """
    with locked(file) if os.name == "nt" else nullcontext():
        target = _open_locked(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, alone=False)
        try:
            yield target
        finally:
            os.close(target)


@contextmanager
def replacing(file: Path) -> Iterator[None]:
    """Keep out those who are `appending` to a file, while it is renamed or written anew in the `with` block.

    Raises FileNotFoundError if there is no such file, and Busy if another program keeps it for more than ten
    seconds.
    """
    if os.name == "nt":  # Windows cannot replace an open file
        with locked(file):
            yield
        return
    handle = _open_locked(file, os.O_RDONLY, alone=True)
    try:
        yield
    finally:
        os.close(handle)


def _open_locked(file: Path, flags: int, *, alone: bool) -> int:
    """Open and lock a file (`_lock`); if it was replaced before it was locked, the file in its place.

    Raises Busy if it cannot be locked alone.
    """
    for left in reversed(range(_TRIES)):
        handle = os.open(file, flags, 0o600)
        try:
            if not _lock(handle, alone=alone) and alone:
                raise Busy(f"{file} is being changed by another program: try again")
            if left == 0 or os.name == "nt" or os.fstat(handle).st_ino == stamp(file)[0]:
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise AssertionError("the last try returns or raises")


def _lock(handle: int, *, alone: bool) -> bool:
    """Lock an open file until it is closed, and return whether that was possible within ten seconds.

    Any number of programs may hold the lock at once, unless it is `alone`. Nothing is locked on Windows, and
    on file systems without locks.
    """
    if os.name == "nt":
        return True
    import fcntl

    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            fcntl.flock(handle, fcntl.LOCK_NB | (fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:
            return True
        else:
            return True
    return False


_MOST_FAULTS = 1_000_000  # bytes of faults.log, and of faults.1.log, which holds older ones


def write_fault(error: BaseException) -> Path:
    """Append an error's traceback to faults.log in the data folder; return the path of the file.

    If that fails, write the traceback to a temporary file instead.
    """
    told = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n{''.join(traceback.format_exception(error))}\n"
    content = told.encode("utf-8", "backslashreplace")
    file = home() / "faults.log"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        append_limited(file, content, _MOST_FAULTS, file.with_suffix(".1.log"))
    except (OSError, Busy):
        handle, name = tempfile.mkstemp(prefix="byoai-fault-", suffix=".log")
        file = Path(name)
        with os.fdopen(handle, "wb") as target:
            target.write(content)
    return file


def check_writable(folder: Path) -> None:
    """Create `folder`, and write and remove a test file in it. Raises ByoaiError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        raise ByoaiError(
            f"cannot write to {folder}: {error.strerror or error}. Is the disk full, or the folder read-only?"
        ) from error


def read_jsonl(
    path: Path,
    parse: Callable[[Any], _T],
    what: str,
    error: type[ByoaiError],
    load: Callable[[str], Any] = parse_json,
) -> list[_T]:
    """Return the result of `parse` for each line of a JSONL file; empty lines are skipped.

    `parse` gets the value that `load` reads in a line, and raises ValueError, KeyError or TypeError
    if it is wrong. For such a line this function raises `error`, whose message names the line and
    `what` it should contain, such as "a token row". It also raises `error` if the file cannot be
    read.
    """
    found = []
    try:
        # Not splitlines(), which also splits at U+2028, a character that JSON may contain unescaped.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as problem:
        raise error(f"cannot read {path}: {problem}") from problem
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            found.append(parse(load(line)))
        except (ValueError, KeyError, TypeError) as problem:
            raise error(f"{path}, line {number}: not {what} ({problem})") from problem
    return found


def read_json(path: Path) -> Any:
    """Return the value in a JSON file. Raises ByoaiError, which names the file, if it cannot be read."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ByoaiError(f"cannot read {path}: {error}. Make it readable, or replace it by a valid file") from error
