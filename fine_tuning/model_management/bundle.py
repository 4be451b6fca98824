"""Write and read bundles: folders that hold a version in a form that can be shared.

A bundle contains no text of conversations. Its files:

README.md                    the model card
byoai.json                   facts about the version: base, method, files with their SHA-256
adapter_config.json, adapter_model.safetensors   the adapter in PEFT's format
adapter.gguf or model.gguf   the served GGUF, and merged-<quantization>.gguf if requested
Modelfile                    for `ollama create NAME -f Modelfile`
"""

import shutil
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fine_tuning import paths
from fine_tuning.engines.base import Engine
from fine_tuning.engines.modelfile import parse_modelfile
from fine_tuning.errors import ConfigError, DataError, ExportError
from fine_tuning.events import Watch
from fine_tuning.model_management.gguf_export import export_full, merge_adapter
from fine_tuning.model_management.model_card import model_card
from fine_tuning.model_management.model_deployer import register
from fine_tuning.model_management.model_pruner import without_run
from fine_tuning.model_management.model_registry import Registry, Version
from fine_tuning.model_management.modelfile import modelfile_text, spec_for
from fine_tuning.runs import Run

FACTS = "byoai.json"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_GGUFS = ("adapter.gguf", "model.gguf")


class Bundle(BaseModel):
    """The content of byoai.json."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    tag: str
    base: str  # the engine's tag of the base
    base_digest: str  # sha256 of the base's GGUF
    method: str
    mode: Literal["adapter", "merged"]
    created: str  # when the version was made: ISO 8601, UTC
    files: dict[str, str]  # name: sha256
    format: Literal[1] = 1  # version of this format


def write_bundle(
    engine: Engine, version: Version, folder: Path, merged: str | None = None, watch: Watch | None = None
) -> Bundle:
    """Write a version as a bundle to `folder`, which must be new or empty; return the content of byoai.json.

    byoai.json is written last, so an incomplete bundle has none.

    Args:
        engine: The engine, which has the base.
        version: The version.
        folder: The folder to write.
        merged: Also write base and adapter merged into one GGUF, in this quantization (q8_0, q4_k_m, ...).
        watch: Reports the progress, and can stop the work.

    Raises ConfigError for a folder that is not empty, ExportError if the version's run is missing
    or the disk is full, and Cancelled if `watch` asks to stop.
    """
    watch, run = watch or Watch(), _run_of(version)
    try:
        make_folder(folder)
        with watch.stage(f"Writing {version.tag}"):
            for file in _files_of(run):
                shutil.copyfile(file, folder / file.name)
                watch.stop_if_asked()
        if merged:
            _merge(engine, version, run, folder / f"merged-{merged.lower()}.gguf", merged, watch)
        paths.atomic_write(folder / "Modelfile", _modelfile(run, folder))
        paths.atomic_write(folder / "README.md", model_card(version, run, engine.show(version.base_tag)))
        bundle = _facts(version, folder)
        paths.write_json(folder / FACTS, bundle.model_dump())
    except OSError as error:
        raise ExportError(
            f"cannot write {folder}: {error.strerror or error}. Choose another folder, or check the disk and the "
            "permissions"
        ) from error
    return bundle


def make_folder(folder: Path) -> None:
    """Create a folder, unless it exists and is empty.

    Raises ConfigError if it is not empty, and OSError if it cannot be created.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty: name a new folder, or an empty one")
    folder.mkdir(parents=True, exist_ok=True)


def write_whole(engine: Engine, version: Version, target: Path, quantization: str, watch: Watch) -> None:
    """Write a version to `target` as one GGUF.

    Base and adapter are merged in this `quantization`. The GGUF of a version that is already merged
    is copied, and `quantization` is ignored. Raises ExportError if the version's run is missing or
    cannot be merged, and OSError if the file cannot be copied.
    """
    run = _run_of(version)
    if version.mode == "adapter":
        _merge(engine, version, run, target, quantization, watch)
    else:
        shutil.copyfile(run.model_gguf, target)


def write_quantised(engine: Engine, version: Version, target: Path, quantization: str, watch: Watch) -> None:
    """Merge base and adapter of a version again into one GGUF `target`, in this `quantization`.

    A fully fine-tuned version is exported again from its trained weights. Raises ExportError if the
    version's run is missing or cannot be merged.
    """
    _merge(engine, version, _run_of(version), target, quantization, watch)


def read_bundle(folder: Path) -> Bundle:
    """Return the content of a bundle's byoai.json, after checking the files against their hashes.

    Raises DataError if a file is missing or differs from its hash.
    """
    facts = _read_facts(folder / FACTS)
    for name, digest in facts.files.items():
        file = folder / paths.safe_name(name)
        if not file.is_file() or paths.sha256_of(file) != digest:
            raise DataError(
                f"{file} is not the file that {FACTS} describes (its hash differs): download or copy the whole folder "
                "again"
            )
    return facts


def adopt(engine: Engine, registry: Registry, folder: Path, name: str, runs: Path, source: str) -> Version:
    """Register the version in a bundle as the next version of `name`, and return it.

    The version becomes a candidate, and has not been evaluated on this machine. The bundle's
    Modelfile is ignored, since it could refer to any file; template and parameters are those of the
    base.

    Args:
        engine: The engine, which must have the bundle's base.
        registry: The registry to which the version is added.
        folder: The bundle.
        name: The fine-tuned model.
        runs: The folder of all runs, in which a run for the version is created.
        source: The origin of the bundle, for the version's note.

    Raises DataError for a folder that is not a bundle, or whose adapter belongs to another base than
    the engine's; ModelNotFound if the engine lacks the base; ExportError if the disk is full.
    """
    bundle = read_bundle(folder)
    base = engine.show(bundle.base)
    if (needed := f"{'adapter' if bundle.mode == 'adapter' else 'model'}.gguf") not in bundle.files:
        raise DataError(
            f"{source} contains no {needed}: it is incomplete, or byoai did not write it. Download or copy it again"
        )
    if bundle.mode == "adapter" and base.gguf_digest != bundle.base_digest:
        raise DataError(
            f"{source} was trained on other weights of {bundle.base} (sha256 {bundle.base_digest[:12]}...) than those "
            f"in {engine.name} ({base.gguf_digest[:12]}...): an adapter works only with the base that it was trained "
            "on. Install that base first"
        )
    number = registry.next_number(name)
    run = Run(runs / f"adopted-{paths.slug(name)}-v{number}")
    try:
        artifact = run.folder / needed
        wanted = [run.adapter / name for name in ADAPTER_FILES if name in bundle.files]
        for file in [artifact, *wanted]:
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file.name, file)
        spec = spec_for(base, bundle.base, artifact, bundle.mode)
        paths.atomic_write(run.modelfile, modelfile_text(spec, run.folder))
    except OSError as error:
        raise ExportError(
            f"cannot write {run.folder}: {error.strerror or error}. Check the disk and the permissions"
        ) from error
    version = registry.add(
        name,
        number,
        base_tag=bundle.base,
        base_digest=base.gguf_digest,
        run=str(run.folder.relative_to(paths.home())),
        method=bundle.method,
        mode=bundle.mode,
        notes=f"adopted from {source}, where it was {bundle.tag}",
    )
    register(engine, version.tag, spec)
    paths.write_json(run.manifest, {"version": number, "tag": version.tag, "adopted": source})
    return version


def _run_of(version: Version) -> Run:
    run = Run(paths.home() / version.run)
    if not version.run or not run.modelfile.exists():
        raise ExportError(without_run(version, "written"))
    return run


def _files_of(run: Run) -> list[Path]:
    """Return the files of a run that go into a bundle: adapter and GGUF, which contain no text of conversations.

    Raises ExportError if the run has none of them.
    """
    wanted = [*(run.adapter / name for name in ADAPTER_FILES), *(run.folder / name for name in _GGUFS)]
    found = [file for file in wanted if file.is_file()]
    if not found:
        raise ExportError(
            f"{run.folder} contains neither an adapter nor a GGUF, because they were deleted: choose another version"
        )
    return found


def _merge(engine: Engine, version: Version, run: Run, target: Path, quantization: str, watch: Watch) -> None:
    whole = (run.adapter / "model.safetensors").exists()  # the version is fully fine-tuned
    if not whole and not (run.adapter / ADAPTER_FILES[0]).exists():
        raise ExportError(
            f"{version.tag} has no adapter to merge, because it is a whole model already: leave out --merged"
        )
    base = engine.show(version.base_tag)
    if base.gguf_digest != version.base_digest:
        raise ExportError(
            f"{version.tag} cannot be merged, because its base model {version.base_tag} has changed since the "
            "training: leave out --merged, or retrain"
        )
    with watch.stage(f"Merging into {quantization}"):
        write = export_full if whole else merge_adapter
        write(base.gguf, run.adapter, target, quantization, watch.count)


def _modelfile(run: Run, folder: Path) -> str:
    """Return the run's Modelfile for the bundle in `folder`: it names the files there by relative paths."""
    text = run.modelfile.read_text(encoding="utf-8")
    spec = parse_modelfile(text, folder)
    return modelfile_text(spec, folder)


def _facts(version: Version, folder: Path) -> Bundle:
    return Bundle(
        tag=version.tag,
        base=version.base_tag,
        base_digest=version.base_digest,
        method=version.method,
        mode="adapter" if version.mode == "adapter" else "merged",
        created=version.created,
        files={
            file.name: paths.sha256_of(file)
            for file in sorted(folder.iterdir())
            if file.name not in (FACTS, "README.md")
        },
    )


def _read_facts(file: Path) -> Bundle:
    try:
        return Bundle.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{file.parent} is not a version that byoai wrote, because its {FACTS} is missing or cannot be read "
            f"({error}): choose another folder"
        ) from error
