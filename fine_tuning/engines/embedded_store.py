"""Store the models of the embedded engine in a folder.

A tag is a small JSON file that refers to its weights by their hash. As in Ollama's store, each
weights file is stored once in `blobs/`: tags share it, and deleting a run's folder breaks no tag.

    engine/tags/<name>/<version>.json
    engine/blobs/sha256-<hex>          hard links where the file system allows, else copies
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock

from fine_tuning import paths
from fine_tuning.engines.base import ModelSpec, ModelSummary, full_tag, known_tag
from fine_tuning.engines.gguf_header import GgufHeader, check_adapter, check_model, read_header
from fine_tuning.errors import ByoaiError, EngineError, ModelDamaged, ModelNotFound


@dataclass(frozen=True)
class Tag:
    """The content of a tag's JSON file."""

    gguf: str  # sha256 of the weights
    adapter: str | None
    template: str | None
    system: str | None
    parameters: dict[str, Any]
    license: str | None

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(vars(self), sort_keys=True).encode("utf-8")).hexdigest()


class Store:
    """The embedded engine's folder of models. Any number of processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tags = folder / "tags"
        self._blobs = folder / "blobs"
        self._lock = filelock.FileLock(folder / ".lock")  # guards the files between processes

    def summaries(self) -> list[ModelSummary]:
        """Return the models in the store, newest first."""
        found: dict[ModelSummary, float] = {}  # with the time of each
        for file in self._tags.rglob("*.json"):
            try:
                found[self._summary(file)] = file.stat().st_mtime
            except (EngineError, OSError):
                if file.exists():  # else another process has just deleted the tag
                    raise
        return sorted(found, key=found.__getitem__, reverse=True)

    def read(self, tag: str) -> tuple[str, Tag]:
        """Return (full name, content) of a tag. Raises ModelNotFound; EngineError for a damaged file."""
        full = full_tag(tag)
        file = self._file(full)
        if (entry := self._find(file)) is None:
            known = ", ".join(self._name(each) for each in self._tags.rglob("*.json")) or "none"
            raise ModelNotFound(f"The embedded engine has no model {full}. Its models: {known}.")
        return self._name(file), entry

    def find(self, full: str) -> Tag | None:
        """Return the content of the tag `full`; None if there is no such tag."""
        return self._find(self._file(full))

    def header(self, full: str, entry: Tag) -> GgufHeader:
        """Return the header of the weights of the tag `full`. Raises ModelDamaged if they are missing."""
        blob = self.blob(entry.gguf)
        if not blob.exists():
            raise ModelDamaged(f"the weights of {full} are missing ({blob}): download or make the model again")
        return read_header(blob)

    def blob(self, digest: str) -> Path:
        """Return the file of the weights with this sha256."""
        return self._blobs / f"sha256-{digest}"

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store's lock within the `with` block, and raise EngineError for an OSError in it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._lock:
                yield
        except OSError as error:
            raise EngineError(
                f"cannot write to {self._folder}: {error.strerror or error}. Is the disk full, or the folder read-only?"
            ) from error

    def add(self, spec: ModelSpec) -> Tag:
        """Put the weights of `spec` into the store, within `writing`; return the content for its tag.

        Raises EngineError for a bad file; ModelNotFound if `spec` is based on a tag that does not exist.
        """
        if isinstance(spec.from_, Path):
            base = check_model(read_header(spec.from_))
            entry = Tag(self._keep(spec.from_), None, None, None, {}, None)
        else:
            full, entry = self.read(spec.from_)
            base = self.header(full, entry)
            if entry.adapter and spec.adapter:
                raise EngineError(
                    f"{full} has an adapter already, and a model can have only one: use {spec.adapter.name} with the "
                    f"base model of {full}"
                )
        if spec.adapter:
            check_adapter(read_header(spec.adapter), base)
            entry = replace(entry, adapter=self._keep(spec.adapter))
        return replace(
            entry,
            template=spec.template or entry.template,
            system=spec.system or entry.system,
            parameters={**entry.parameters, **spec.parameters},
            license=spec.license or entry.license,
        )

    def write(self, full: str, entry: Tag) -> None:
        """Store the tag `full`, within `writing`; remove the weights that no tag refers to any more."""
        paths.write_json(self._file(full), vars(entry))
        self._sweep()

    def remove(self, full: str) -> None:
        """Remove the tag `full`, within `writing`, and the weights that no other tag refers to."""
        self._file(full).unlink(missing_ok=True)
        self._sweep()

    def _keep(self, file: Path) -> str:
        """Put `file` into the store unless it is already there; return its sha256."""
        digest = paths.sha256_of(file)
        target = self.blob(digest)
        if not paths.holds(target, file, digest):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            try:
                os.link(file.resolve(), partial)
            except OSError:  # another file system, or one without links
                shutil.copyfile(file, partial)
            partial.replace(target)
        return digest

    def _sweep(self) -> None:
        """Remove the files in the store that no tag refers to, including leftovers of a crash."""
        tags = [self._parse(file) for file in self._tags.rglob("*.json")]
        used = {self.blob(digest) for tag in tags for digest in (tag.gguf, tag.adapter) if digest}
        for file in self._blobs.glob("sha256-*"):
            if file not in used:
                file.unlink()

    def _file(self, full: str) -> Path:
        name, _, version = full.rpartition(":")
        exact = self._tags.joinpath(*(part.replace(":", "%") for part in name.split("/")), f"{version}.json")
        if exact.exists():
            return exact
        others = {self._name(file): file for file in self._tags.rglob("*.json")}
        known = known_tag(full, others)  # the name may differ in case
        return others[known] if known else exact

    def _name(self, file: Path) -> str:
        *name, version = file.relative_to(self._tags).with_suffix("").parts
        return f"{'/'.join(name).replace('%', ':')}:{version}"

    def _find(self, file: Path) -> Tag | None:
        """Return the content of a tag's file; None if there is no such file (any more)."""
        try:
            return self._parse(file)
        except EngineError:
            if file.exists():
                raise
            return None

    def _parse(self, file: Path) -> Tag:
        try:
            return Tag(**paths.read_json(file))
        except (ByoaiError, TypeError) as error:
            raise EngineError(
                f"{file} is damaged ({error}): delete it, and make the model {self._name(file)} again"
            ) from error

    def _summary(self, file: Path) -> ModelSummary:
        entry = self._parse(file)
        files = [self.blob(digest) for digest in (entry.gguf, entry.adapter) if digest]
        summary = ModelSummary(
            self._name(file), entry.digest(), sum(each.stat().st_size for each in files if each.exists())
        )
        try:
            header = self.header(summary.tag, entry)
        except ModelDamaged:  # or missing: `show` reports it; the list stays usable for other models
            return summary
        return replace(
            summary, family=header.architecture, parameter_size=header.parameter_size, quantization=header.quantization
        )
