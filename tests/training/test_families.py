"""Every family on its way through the loop: loaded as llama.cpp computes it, trained, exported,
served as trained; and what is refused.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import tiny_families as tiny
import torch
from training_run import train

from fine_tuning.engines.agreement import make_probes
from fine_tuning.engines.gguf_file import read_gguf
from fine_tuning.errors import TrainingError
from fine_tuning.evaluation.served_model import read_logits
from fine_tuning.model_management import gguf_export, tensor_names
from fine_tuning.training import families
from fine_tuning.training.base_model import load_base
from fine_tuning.training.fast.fused import fuse
from fine_tuning.training.fast.quantised_linear import QuantisedLinear
from fine_tuning.training.loss import packed_loss
from fine_tuning.training.methods import METHODS
from fine_tuning.training.packing import TokenRow, pack

NEAR = 0.005  # half of what is allowed in float32


def test_every_family_that_is_exported_is_described_here() -> None:
    assert set(families.FAMILIES) == tensor_names._PERMUTED | tensor_names._AS_THEY_ARE


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny.make_all(tmp_path_factory.mktemp("families"))


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_family_is_trained_and_exported_as_it_is_served(models: dict[str, Path], tmp_path: Path, family: str) -> None:
    way = tiny.follow(models[family], tmp_path)
    assert way.base < NEAR and way.divergence < 1e-4
    assert way.losses[1] < way.losses[0] and way.learned > 0.1
    assert way.adapter < NEAR and way.merged < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    ["llama 3", "smollm3", "granite", "olmo", "arcee", "qwen3, head of 64", "gemma3", "phi3", "stablelm", "command-r"],
)
def test_a_base_that_stays_quantised_has_the_logits_of_the_dequantised_one(
    models: dict[str, Path], tmp_path: Path, family: str
) -> None:
    """Also where the file holds the rows of queries and keys in another order."""
    base = gguf_export._export(read_gguf(models[family]), {}, tmp_path / "q8_0.gguf", "q8_0", None).path
    tokens = torch.arange(40)[None] * 3 % tiny.VOCABULARY
    plain, kept = (load_base(base, torch.float32, tmp_path, weights) for weights in ("dequantised", "quantised"))
    assert any(isinstance(module, QuantisedLinear) for module in kept.modules())
    with torch.no_grad():
        torch.testing.assert_close(kept(input_ids=tokens).logits, plain(input_ids=tokens).logits)


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_fused_and_packed_steps_have_the_loss_and_gradients_of_transformers(
    models: dict[str, Path], tmp_path: Path, family: str
) -> None:
    """Which computes one conversation after the other, with nothing replaced."""
    rows = [TokenRow(row, [index > 30 for index in range(len(row))]) for row in tiny.write_rows(tmp_path)]
    plain, fused = (tuned(models[family], tmp_path) for _ in range(2))
    fuse(fused)
    losses = []
    for row in rows:
        logits = plain(input_ids=torch.tensor([row.input_ids])).logits[0]
        targets = torch.tensor(row.targets())
        losses.append(torch.nn.functional.cross_entropy(logits[targets - 1], torch.tensor(row.input_ids)[targets]))
    (wanted := torch.stack(losses).mean()).backward()  # the rows are of one length
    loss, _ = packed_loss(fused, pack(rows))
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)
    for mine, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        if theirs.requires_grad:
            assert (mine.grad - theirs.grad).norm() <= 1e-4 * theirs.grad.norm()


def tuned(base: Path, folder: Path) -> Any:
    """A LoRA model whose adapter does something."""
    model = METHODS["lora"].attach(load_base(base, torch.float32, folder), tiny.SETTINGS)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.train()


# What the loaded base gets wrong, by what its file says and the served one says otherwise.
OTHERWISE: dict[str, tuple[str, dict[str, Any], str]] = {
    "base frequency": ("llama", {"rope.freq_base": 10_000.0}, ""),
    "base frequency of Qwen": ("qwen3, head of 64", {"rope.freq_base": 1e6}, ""),
    "slowed positions": ("mistral", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, ""),
    "frequencies of windows": ("gemma3", {"rope.freq_base_swa": 1e6}, ""),
    "turned part of a head": ("stablelm", {"rope.dimension_count": 16}, ""),
    "attention scale": ("granite", {"attention.scale": 0.25}, ""),
    "epsilon of norms": ("qwen2", {"attention.layer_norm_rms_epsilon": 0.1}, ""),
    "epsilon of layer norms": ("starcoder2", {"attention.layer_norm_epsilon": 0.1}, ""),
    "cap of attention": ("gemma2", {"attn_logit_softcapping": 0.5}, ""),
    "cap of logits": ("gemma2", {"final_logit_softcapping": 1.0}, ""),
    "window": ("gemma2", {"attention.sliding_window": 8}, ""),
    "scale of logits": ("command-r", {"logit_scale": 0.2}, ""),
    "scale of embeddings": ("granite", {"embedding_scale": 1.0}, ""),
    "biases": ("stablelm, parallel", {}, r"attn_[qkv]\.bias"),
    "factors of frequencies": ("llama 3", {}, "rope_freqs"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", OTHERWISE)
def test_a_base_that_is_loaded_otherwise_than_served_is_refused(
    models: dict[str, Path], tmp_path: Path, what: str
) -> None:
    family, values, without = OTHERWISE[what]
    gguf = models[family]
    refused(tiny.rewrite(gguf, values, tmp_path / "otherwise.gguf", without), gguf, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["smollm3", "granite", "arcee", "olmo"])
def test_rows_in_the_wrong_order_are_refused(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(families, "_STORED_AS", {})
    refused(models[family], models[family], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma2, as 27B", "gemma3, as 27B"])
def test_the_scale_of_other_gemmas_is_refused(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(families, "_scalar", lambda said, layers: said.head_dim)
    refused(models[family], models[family], tmp_path)


def refused(trained: Path, served: Path, folder: Path) -> None:
    """No step is made; the message names both."""
    rows = tiny.write_rows(folder)
    said = read_logits(served, make_probes(rows, read_gguf(served)))
    steps: list[object] = []
    with pytest.raises(
        TrainingError, match=rf"{re.escape(str(trained))}.*{re.escape(str(served))}.*rounding explains only 1%"
    ):
        train(trained, folder, folder / "run", tiny.SETTINGS, report=steps.append, served=said)
    assert not steps and not (folder / "run" / "adapter").exists()
