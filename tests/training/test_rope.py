"""Positions are turned as llama.cpp turns them: what is trained is the function that is served."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from tiny_gguf import write_base

from fine_tuning.engines.gguf_file import TensorInfo, entry, read_gguf, write_gguf
from fine_tuning.errors import TrainingError
from fine_tuning.evaluation.served_model import ServedModel
from fine_tuning.training.base_model import load_base

TOKENS = 120
SCALED = {
    "not at all": {},
    "off": {"type": "none", "factor": 8.0},
    "linear": {"type": "linear", "factor": 8.0},
    "a factor alone": {"factor": 4.0},
    "yarn": {"type": "yarn", "factor": 4.0, "original_context_length": 64},
}


def written(folder: Path, scaling: dict[str, Any], factors: list[float] | None = None) -> Path:
    """A tiny base with `scaling` in its metadata and `factors` as its tensor of them."""
    file = read_gguf(write_base(folder / "plain.gguf", Type.F32))
    content = file.path.read_bytes()
    tensors = [(info, [content[file.starts[info.name] :][: info.size]]) for info in file.tensors.values()]
    if factors:
        tensors.append(
            (TensorInfo("rope_freqs.weight", (len(factors),), Type.F32), [np.array(factors, np.float32).tobytes()])
        )
    metadata = dict(file.metadata)
    for key, value in scaling.items():
        metadata[f"llama.rope.scaling.{key}"] = entry(f"llama.rope.scaling.{key}", value)
    write_gguf(folder / "base.gguf", metadata, tensors)
    return folder / "base.gguf"


def differences(base: Path, folder: Path) -> float:
    """The largest between the log-probabilities that are trained and those that are served."""
    draw = random.Random(0)
    ids = [draw.randrange(96) for _ in range(TOKENS)]
    with torch.no_grad():
        ours = torch.log_softmax(
            load_base(base, torch.float32, folder / "outline")(input_ids=torch.tensor([ids])).logits[0], -1
        )
    with ServedModel(base) as served:
        theirs, _ = served.logprobs(ids, range(1, TOKENS))
    return max(abs(ours[index - 1, ids[index]].item() - theirs[index - 1]) for index in range(1, TOKENS))


@pytest.mark.parametrize("scaling", SCALED.values(), ids=SCALED)
def test_a_scaled_base_is_trained_as_it_is_served(tmp_path: Path, scaling: dict[str, Any]) -> None:
    assert differences(written(tmp_path, scaling), tmp_path) < 0.01


def test_a_factor_for_each_frequency_is_read_as_in_llama_3(tmp_path: Path) -> None:
    assert differences(written(tmp_path, {}, [1, 1, 1, 2, 8, 32, 32, 32]), tmp_path) < 0.01


def test_an_unknown_scaling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="it scales its positions by the method 'spiral'"):
        load_base(written(tmp_path, {"type": "spiral"}), torch.float32, tmp_path)
