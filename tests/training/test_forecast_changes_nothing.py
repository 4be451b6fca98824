"""A forecast measures this machine, and leaves the process as it was."""

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_gguf import write_base
from token_rows import random_rows

from fine_tuning.config import Training
from fine_tuning.training import hardware
from fine_tuning.training.estimate import estimate_training
from fine_tuning.training.fast import matmul

PROBES = (matmul._faster.__wrapped__, hardware._faster_dtype.__wrapped__)  # type: ignore[attr-defined]


def state() -> dict[str, Any]:
    """What a library, or this project, could have changed for everybody in the process."""
    from transformers import AttentionInterface

    return {
        "threads": torch.get_num_threads(),
        "threads between operations": torch.get_num_interop_threads(),
        "number format": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "products of float32": torch.get_float32_matmul_precision(),
        "oneDNN": torch.backends.mkldnn.enabled,
        "library": matmul.used(),
        "environment": dict(os.environ),
        "random numbers": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
        "attention": sorted(AttentionInterface().valid_keys()),
        "functions": {(where.__name__, name): id(value) for where in PATCHABLE for name, value in vars(where).items()},
    }


PATCHABLE = (torch, torch.nn.functional, torch.nn.Linear, torch.nn.Module, torch.Tensor, torch.autograd.Function)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"products": "onednn", "dtype": "float32"},
        {"products": "blas", "dtype": "bfloat16"},
        {"threads": 3, "seed": 7},
        {"fused": False},
        {"backend": "trl"},
        {"method": "full", "optimizer": "adamw_8bit"},
        {"method": "lora", "use_dora": True, "folds": 3, "early_stop": 1},
    ],
    ids=str,
)
def test_a_forecast_leaves_the_process_as_it_was(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(matmul, "_faster", PROBES[0])
    monkeypatch.setattr(hardware, "_faster_dtype", PROBES[1])
    monkeypatch.setattr("fine_tuning.training.machine._MEASURED", 0.1)
    for name in matmul._KERNEL_CACHES:
        monkeypatch.delenv(name, raising=False)
    base = write_base(tmp_path / "base.gguf")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in random_rows(9)))
    (tmp_path / "replay.jsonl").write_text("".join(json.dumps(row) + "\n" for row in random_rows(3)))
    before = state()
    found = estimate_training(Training(**changes), base, tmp_path, tmp_path / "replay.jsonl").estimate
    after = state()
    assert found.memory > 0 and found.steps > 0
    assert [name for name in before if before[name] != after[name]] == []
