"""Write a version as a Gradio Space: a folder with a chat app that runs on Hugging Face Spaces.

It also runs on any machine with Python. app.py, requirements.txt and README.md come from
templates/space; the model is one GGUF beside them.
"""

from pathlib import Path

from fine_tuning import paths
from fine_tuning.engines.base import Engine
from fine_tuning.errors import ExportError
from fine_tuning.events import Watch
from fine_tuning.model_management.bundle import make_folder, write_whole
from fine_tuning.model_management.model_registry import Version

MODEL = "model.gguf"
_TEMPLATES = Path(__file__).parent / "templates" / "space"
_FILES = ("app.py", "requirements.txt", "README.md")


def write_space(
    engine: Engine, version: Version, folder: Path, quantization: str = "q8_0", watch: Watch | None = None
) -> Path:
    """Write a version's Space to `folder`, which must be new or empty; return `folder`.

    `quantization`: as for `write_whole`. Raises ConfigError if the folder is not empty, and
    ExportError if the version's run is missing or the disk is full.
    """
    try:
        make_folder(folder)
        write_whole(engine, version, folder / MODEL, quantization, watch or Watch())
        for name in _FILES:
            text = (_TEMPLATES / f"{name}.txt").read_text(encoding="utf-8")
            paths.atomic_write(folder / name, text.replace("@TITLE@", version.tag))
    except OSError as error:
        raise ExportError(
            f"cannot write {folder}: {error.strerror or error}. Choose another folder, or check the disk and the "
            "permissions"
        ) from error
    return folder
