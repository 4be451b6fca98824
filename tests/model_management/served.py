"""What the deployer's and the switcher's tests share: both engines with a base in them, small
adapters, and versions made of these.
"""

import hashlib
from pathlib import Path

import numpy as np
from lora import write_lora

from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.model_management.model_deployer import register
from fine_tuning.model_management.model_registry import Registry, Version
from fine_tuning.model_management.modelfile import modelfile_text

BASE = "deploy-base:135m"


def write_adapter(path: Path, seed: int, scale: float = 0.0) -> Path:
    """A LoRA on the first layers' q projection of SmolLM2-135M. With scale 0 it changes no answer,
    but each seed is another file.
    """
    noise = np.random.default_rng(seed)
    shapes = {f"blk.{layer}.attn_q": ((1, 576), (576, 1)) for layer in range(4)}
    return write_lora(
        path, {name: (noise.standard_normal(a), scale * noise.standard_normal(b)) for name, (a, b) in shapes.items()}
    )


def make_version(engine: Engine, registry: Registry, name: str, home: Path, seed: int | None = None) -> Version:
    """The next version of `name`, with its run and its tag; versions of the same `seed` are the same model."""
    number = registry.next_number(name)
    run = home / "runs" / f"{name}-{number}"
    run.mkdir(parents=True)
    spec = ModelSpec(from_=BASE, adapter=write_adapter(run / "adapter.gguf", number if seed is None else seed))
    (run / "Modelfile").write_text(modelfile_text(spec, run), encoding="utf-8")
    version = registry.add(name, number, base_tag=BASE, run=str(run.relative_to(home)), mode="adapter")
    register(engine, version.tag, spec)
    return version


def digests(engine: Engine) -> dict[str, str]:
    return {model.tag: model.digest for model in engine.list_models()}


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
