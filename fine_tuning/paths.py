"""Where artifacts lie, how names become paths, and how files are written.

A crash while a file is written leaves the old or the new one. All that the program writes lies
under `home()`; model caches lie in the user's cache folder. Nothing else of the home folder is
touched.
"""

import hashlib
import json
import os
import re
import tempfile
import traceback
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from fine_tuning.errors import ByoaiError, ConfigError

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLES = REPOSITORY / "data" / "samples"
DEFAULT_CONFIG = REPOSITORY / "config" / "fine_tuning_config.yaml"

_T = TypeVar("_T")

SAFE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"  # what `safe_name` takes; it may neither hold ".." nor end in "."
_SAFE = re.compile(SAFE_NAME)


def home() -> Path:
    """Return the data folder: `BYOAI_HOME`, else `data/` in the repository. It may be a link, and need not exist yet.

    ConfigError for what cannot be one: a file, or the root of all files, of which forgetting would search every one.
    """
    named = os.environ.get("BYOAI_HOME")
    try:
        folder = Path(named or REPOSITORY / "data").expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(
            f"BYOAI_HOME is {named}, and that user has no home folder: name a folder for byoai's data"
        ) from error
    if real(folder).parent == real(folder):
        raise ConfigError(f"BYOAI_HOME is {named}, the root of all files: name a folder of its own for byoai's data")
    if (there := _nearest_that_exists(folder)) and not there.is_dir():
        raise ConfigError(
            f"the data folder (BYOAI_HOME) is {folder}, and {there} is not a folder: name one (it is made if it is not "
            "there)"
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
    """Return where `path` leads, links followed as far as they go. ConfigError for what cannot be a path."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(path)[:200]!r} cannot be a path: {error}") from error


def within_home(path: Path) -> Path:
    """Return `path`, links in it followed, as a path below `home()`. ConfigError if it lies elsewhere.

    What the configuration names becomes a path in this way: byoai writes and removes nothing
    outside of its folder by it.
    """
    try:
        inside = real(path).relative_to(real(home()))
    except ValueError:
        inside = Path()
    if not inside.parts:
        raise ConfigError(
            f"{path} does not lie in the data folder {home()}: name a place in it, or set BYOAI_HOME to the folder "
            "where all data shall lie"
        )
    return home() / inside


def is_taken(path: Path) -> bool:
    """Return whether `path` is, or lies in, a folder of a fixed name and purpose in the data folder."""
    fixed = ("conversations", "datasets", "engine", "exports", "mlflow", "prepared", "samples", "sweeps", "uploads")
    return any(real(path).is_relative_to(real(home() / name)) for name in fixed)


def cache() -> Path:
    """Return the user's cache folder.

    It holds what can be fetched or computed again (base models, engine builds).
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
    """Return the folder of MLflow's store: figures of runs, and nothing of what was said."""
    return home() / "mlflow"


def engine_dir() -> Path:
    """Return the folder in which the embedded engine keeps its tags."""
    return home() / "engine"


def safe_name(name: str) -> str:
    """Return `name` if it can be one path component anywhere, else raise ConfigError.

    This is the only way in which a name from outside becomes a path.
    """
    if not _SAFE.fullmatch(name) or name.endswith(".") or ".." in name:
        raise ConfigError(
            f"{name!r} cannot be a name: use letters, digits, '.', '_' and '-' (at most 100, a letter or digit first)"
        )
    return name


def slug(text: str, limit: int = 80) -> str:
    """Make a safe name from any text: `smollm2:135m` becomes `smollm2-135m`.

    If it is longer than `limit` characters, or nothing is left of it, it ends in a hash of the
    text. Different texts thus have different names.
    """
    safe = re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-_")
    if not safe or len(safe) > limit:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        safe = f"{safe[: limit - 9].rstrip('-_') or 'model'}-{digest}"
    return safe_name(safe)


def fsync_dir(folder: Path) -> None:
    """Make renames and new names in `folder` survive a power cut (a no-op where folders cannot be opened)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_write(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Write `content` (or its pieces), completely or not at all.

    `path` always holds the whole old or the whole new text, also after a crash.
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


def stamp(file: Path) -> tuple[int, int, int]:
    """Return what changes when a file is written to or replaced; zeros where there is none."""
    try:
        found = file.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal; it is never in memory as a whole."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, as `atomic_write` does."""
    atomic_write(path, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n")


_MOST_FAULTS = 1_000_000  # bytes of faults.log; then a new one begins, and one old one is kept


def write_fault(error: BaseException) -> Path:
    """Append the traceback to faults.log in the data folder; return the file.

    If that fails, it goes to a temporary file.
    """
    content = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n{''.join(traceback.format_exception(error))}\n"
    file = home() / "faults.log"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and file.stat().st_size > _MOST_FAULTS:
            file.replace(file.with_suffix(".1.log"))
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError:
        handle, name = tempfile.mkstemp(prefix="byoai-fault-", suffix=".log")
        file = Path(name)
    with os.fdopen(handle, "wb") as target:
        target.write(content.encode("utf-8", "backslashreplace"))
    return file


def check_writable(folder: Path) -> None:
    """Make `folder`, write a file in it and remove that at once. ByoaiError if this fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        raise ByoaiError(
            f"cannot write to {folder}: {error.strerror or error}. Is the disk full, or the folder read-only?"
        ) from error


def read_jsonl(path: Path, parse: Callable[[Any], _T], what: str, error: type[ByoaiError]) -> list[_T]:
    """Return what `parse` makes of each line's JSON.

    `error` names the file, and the line that is not `what`.
    """
    found = []
    try:
        # Not splitlines(): JSON may hold U+2028 as it is, which is a line's end to that.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as problem:
        raise error(f"cannot read {path}: {problem}") from problem
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            found.append(parse(json.loads(line)))
        except (ValueError, KeyError, TypeError) as problem:
            raise error(f"{path}, line {number}: not {what} ({problem})") from problem
    return found


def read_json(path: Path) -> Any:
    """Return the JSON in `path`; ByoaiError names the file when it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ByoaiError(f"cannot read {path}: {error}") from error
