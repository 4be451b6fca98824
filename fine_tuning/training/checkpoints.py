"""Write and read training checkpoints, so that a half-written one is recognised after a crash.

The files are written and synced first, then a manifest with their hashes; a folder without a valid
manifest is not used. Only safetensors and JSON are written and read. Nothing is unpickled, so a
malicious file in a run's folder cannot run code.
"""

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from fine_tuning import paths
from fine_tuning.errors import CheckpointDamaged
from fine_tuning.json_values import parse_json

MANIFEST = "manifest.json"
_VERSION = 2  # of the checkpoint format; 1 stored the optimiser's state for each matrix, not per vector (adapters.py)
_TENSORS, _STATE = "state.safetensors", "state.json"


def seal(folder: Path) -> None:
    """Sync every file in `folder` to the disk, then write the manifest that marks the checkpoint as complete."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    for path in files:
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    paths.fsync_dir(folder)
    paths.write_json(
        folder / MANIFEST,
        {"version": _VERSION, "files": {str(path.relative_to(folder)): paths.sha256_of(path) for path in files}},
    )
    paths.fsync_dir(folder.parent)


def check(folder: Path) -> None:
    """Raise CheckpointDamaged unless `folder` holds the files that its manifest lists, unchanged."""
    try:
        manifest = parse_json((folder / MANIFEST).read_text())
        files, version = manifest["files"], _version(manifest)
    except FileNotFoundError:
        raise CheckpointDamaged(f"{folder} is incomplete (it has no {MANIFEST})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointDamaged(f"{folder / MANIFEST} is not a manifest: {error}") from error
    if version != _VERSION:
        raise CheckpointDamaged(f"{folder} was saved by another version of byoai, and cannot be used by this one")
    for name, digest in files.items():
        path = folder / name
        if not path.is_file() or paths.sha256_of(path) != digest:
            raise CheckpointDamaged(f"{path} is missing, or was changed after it was saved")


def is_complete(folder: Path) -> bool:
    """Return whether `folder` holds the files that its manifest lists, unchanged."""
    try:
        check(folder)
    except CheckpointDamaged:
        return False
    return True


def newest_complete(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest complete checkpoint in `folder` (None if there is none).

    Also return a message for each newer checkpoint that is damaged or unfinished.
    """
    passed: list[str] = []
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        try:
            check(checkpoint)
        except CheckpointDamaged as damage:
            passed.append(str(damage))
        else:
            return checkpoint, passed
    return None, passed


def keep_newest(folder: Path, count: int) -> None:
    """Remove all checkpoints in `folder`, except the newest `count` that are finished.

    A finished checkpoint has a manifest of the current format; its files' hashes are not checked.
    """
    found = sorted(folder.glob("checkpoint-*"), key=step_of)
    finished = [each for each in found if _is_finished(each)]
    for old in {*found} - {*finished[-count:]}:
        shutil.rmtree(old)


def _is_finished(folder: Path) -> bool:
    try:
        return _version(parse_json((folder / MANIFEST).read_text())) == _VERSION
    except (OSError, ValueError, AttributeError):
        return False


def _version(manifest: dict[str, Any]) -> int:
    return int(manifest.get("version", 1))


def save_state(folder: Path, optimizer: Any, scheduler: Any) -> None:
    """Write optimiser, scheduler and random states (Python, NumPy, torch CPU and CUDA) to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = optimizer.state_dict()
    values = {f"{index}.{key}": value for index, each in state["state"].items() for key, value in _flat(each)}
    tensors = {f"optimizer.{key}": value.contiguous() for key, value in values.items() if torch.is_tensor(value)}
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    tensors["rng.numpy"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
    save_file(tensors, folder / _TENSORS)
    (folder / _STATE).write_text(
        json.dumps(
            {
                "param_groups": state["param_groups"],
                "numbers": {key: value for key, value in values.items() if isinstance(value, int | float)},
                "scheduler": scheduler.state_dict(),
                "python": random.getstate(),
                "numpy": [kind, position, has_gauss, gauss],
            }
        )
    )


def _flat(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the entries of one parameter's optimiser state, with nested dictionaries flattened.

    bitsandbytes saves a part of its state as a nested dictionary, but can load it from a flat one.
    """
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield key, value


def load_optimizer(folder: Path, optimizer: Any, scheduler: Any) -> None:
    """Restore the optimiser and scheduler states that `save_state` wrote."""
    tensors, state = load_file(folder / _TENSORS), parse_json((folder / _STATE).read_text())
    values: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            values.setdefault(int(index), {})[key] = tensor
    for name, number in state.get("numbers", {}).items():
        index, key = name.split(".", 1)
        values.setdefault(int(index), {})[key] = number
    optimizer.load_state_dict({"state": values, "param_groups": state["param_groups"]})
    scheduler.load_state_dict(state["scheduler"])


def load_random(folder: Path) -> None:
    """Set the random generators (Python, NumPy, torch) to the states that `save_state` wrote."""
    tensors, state = load_file(folder / _TENSORS), parse_json((folder / _STATE).read_text())
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, tensors["rng.numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])


def step_of(checkpoint: Path) -> int:
    """Return the optimiser step after which `checkpoint` was saved; -1 for any other folder."""
    tail = checkpoint.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else -1
