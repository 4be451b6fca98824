"""`training.fused: false` trains with the plain modules of PEFT and Transformers, to the same
losses, gradients and adapter.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_fused import is_fused, other_base, step
from training_run import train
from transformers import Gemma2ForCausalLM, Gemma3ForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from fine_tuning.config import Training
from fine_tuning.events import Step
from fine_tuning.training import network
from fine_tuning.training.fast import fused, matmul, tree_attention
from fine_tuning.training.network import prepare

SETTINGS = Training(batch_size=6, num_epochs=2, learning_rate=1e-2, lora_r=4, dtype="float32", threads=1)
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora"},
    "qlora": {"method": "qlora"},
    "dora": {"method": "lora", "use_dora": True},
    "rslora": {"method": "lora", "use_rslora": True},
    "full": {"method": "full", "learning_rate": 1e-3},
    "prefix tuning": {"method": "prefix_tuning", "virtual_tokens": 4},
    "prompt tuning": {"method": "prompt_tuning", "virtual_tokens": 4},
    "oneDNN": {"method": "lora", "products": "onednn"},
}


def prepared(base: Path, folder: Path, is_on: bool, **changes: object) -> Any:
    """The model as a training prepares it, with adapters that do something."""
    settings = Training(**SETTINGS.model_dump() | changes | {"fused": is_on})
    model = prepare(base, "dequantised", settings, None, folder).model
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.train()


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("kind", [None, Qwen2ForCausalLM, Qwen3ForCausalLM, Gemma2ForCausalLM, Gemma3ForCausalLM])
def test_one_step_has_the_same_loss_and_gradients(
    tiny_base: Path, tmp_path: Path, kind: Any, window: int | None
) -> None:
    """Also where layers look back over a window only, and where scores are capped."""
    base = other_base(tiny_base, tmp_path, kind) if kind else tiny_base
    if window:
        config = json.loads((base / "config.json").read_text())
        if "sliding_window" not in config:
            pytest.skip("this family has no windows")
        layers = ["sliding_attention", "full_attention"]
        changed = config | {"sliding_window": window, "layer_types": layers, "use_sliding_window": True}
        base = Path(shutil.copytree(base, tmp_path / "windowed"))
        (base / "config.json").write_text(json.dumps(changed))
    (loss, gradients), (plain_loss, plain) = (
        step(prepared(base, tmp_path / str(is_on), is_on)) for is_on in (True, False)
    )
    assert abs(loss.item() - plain_loss.item()) < 1e-5
    for mine, theirs in zip(gradients, plain, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_training_has_the_same_losses_and_the_same_result(
    tiny_base: Path, row_folder: Path, tmp_path: Path, method: str
) -> None:
    if method == "oneDNN" and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    steps: dict[bool, list[Step]] = {True: [], False: []}
    for is_on, seen in steps.items():
        settings = Training(**SETTINGS.model_dump() | METHODS[method] | {"fused": is_on})
        train(tiny_base, row_folder, tmp_path / str(is_on), settings, row_folder / "replay.jsonl", seen.append)
    assert len(steps[True]) == len(steps[False]) > 4
    for mine, theirs in zip(*steps.values(), strict=True):
        assert mine.loss == pytest.approx(theirs.loss, abs=1e-4)
        assert mine.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-3, abs=1e-5)
        assert (mine.accuracy, mine.tokens, mine.flops) == pytest.approx((theirs.accuracy, theirs.tokens, theirs.flops))
    (name,) = {file.name for file in (tmp_path / "True" / "adapter").glob("*.safetensors")}
    fast, plain = (load_file(tmp_path / str(is_on) / "adapter" / name) for is_on in steps)
    for key, value in plain.items():
        torch.testing.assert_close(fast[key], value, atol=1e-4, rtol=1e-2)


def test_without_it_nothing_of_the_fast_ways_is_used(
    tiny_base: Path, row_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Whoever looks for a fault can rule them out."""

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a fast way was used")

    monkeypatch.setattr(network, "fuse", refuse)
    monkeypatch.setattr(fused.AdapterVector, "__init__", refuse)
    monkeypatch.setattr(tree_attention, "attend", refuse)
    monkeypatch.setattr(matmul, "_by_onednn", refuse)
    settings = Training(**SETTINGS.model_dump() | {"fused": False, "products": "onednn", "num_epochs": 1})
    assert train(tiny_base, row_folder, tmp_path / "run", settings).products == "blas"
    assert not any(map(is_fused, prepared(tiny_base, tmp_path, False).modules()))
    with pytest.raises(AssertionError, match="a fast way was used"):
        train(tiny_base, row_folder, tmp_path / "other", settings.model_copy(update={"fused": True}))
