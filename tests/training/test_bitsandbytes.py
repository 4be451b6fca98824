"""bitsandbytes, for real, on a CPU: NF4 bases and 8-bit optimisers."""

import json
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from tiny_gguf import VOCABULARY, write_base
from training_run import train

from fine_tuning.config import Training
from fine_tuning.training import checkpoints
from fine_tuning.training.base_model import load_base
from fine_tuning.training.fast.quantised_linear import Nf4Linear
from fine_tuning.training.methods import METHODS

SETTINGS = Training(
    method="qlora", lora_r=4, num_epochs=4, batch_size=2, dtype="float32", learning_rate=1e-2, save_steps=1_000
)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Four short rows to learn, one to validate with."""
    folder = tmp_path / "rows"
    folder.mkdir()
    texts = [
        [(start + step * index) % VOCABULARY for index in range(24)] for start, step in ((1, 1), (5, 2), (9, 3), (2, 5))
    ]
    lines = [json.dumps({"input_ids": ids, "trained": [0] * 8 + [1] * 16}) + "\n" for ids in texts]
    (folder / "train.jsonl").write_text("".join(lines))
    (folder / "validation.jsonl").write_text(lines[0])
    return folder


def losses(base: Path, rows: Path, run: Path, settings: Training) -> list[float]:
    found: list[float] = []
    weights = settings.base_weights if settings.base_weights != "auto" else "dequantised"
    train(base, rows, run, settings, report=lambda progress: found.append(progress.loss), weights=weights)
    return found


def test_an_nf4_layer_computes_what_bitsandbytes_own_layer_does() -> None:
    import bitsandbytes

    torch.manual_seed(0)
    weight, x = torch.randn(96, 128) / 10, torch.randn(5, 128, requires_grad=True)
    theirs = bitsandbytes.nn.Linear4bit(
        128, 96, bias=False, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=True
    )
    theirs.weight = bitsandbytes.nn.Params4bit(
        weight.clone(), requires_grad=False, quant_type="nf4", compress_statistics=True, blocksize=64
    )
    expected = theirs.to("cpu")(x)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), x)
    ours = Nf4Linear(weight)
    ours.take_place_of(torch.nn.Linear(128, 96, bias=False), torch.float32)
    found = ours(x)
    (gradient,) = torch.autograd.grad(found.square().sum(), x)
    torch.testing.assert_close((found, gradient), (expected, expected_gradient))


def test_an_nf4_layer_takes_about_half_a_byte_a_weight() -> None:
    layer = Nf4Linear(torch.randn(512, 1024))
    state = layer._state
    held = [layer.packed, state.absmax, state.state2.absmax]
    assert sum(tensor.nbytes for tensor in held) / (512 * 1024) == pytest.approx(0.516, abs=0.001)


def test_every_matrix_of_a_layer_is_held_in_nf4_and_neither_embedding_nor_output(tmp_path: Path) -> None:
    model = load_base(write_base(tmp_path / "base.gguf", Type.F16, tied=False), torch.float32, tmp_path / "run", "nf4")
    held = {name for name, module in model.named_modules() if isinstance(module, Nf4Linear)}
    assert len(held) == 14 and not any("lm_head" in name or "embed" in name for name in held)


def test_a_folder_in_hugging_face_format_can_be_held_in_nf4(tmp_path: Path) -> None:
    whole = load_base(write_base(tmp_path / "base.gguf", Type.F16), torch.float32, tmp_path / "run")
    whole.save_pretrained(tmp_path / "folder")
    model = load_base(tmp_path / "folder", torch.float32, tmp_path / "run", "nf4")
    assert sum(isinstance(module, Nf4Linear) for module in model.modules()) == 14
    ids = torch.arange(16)[None]
    difference = (model(ids).logits - whole(ids).logits).std() / whole(ids).logits.std()
    assert 0.001 < difference < 0.5  # rounded (NF4 loses a tenth of each matrix), and the same function else


def test_steps_on_an_nf4_base_learn_as_lora_does(tmp_path: Path, rows: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Type.F16)
    lora = losses(base, rows, tmp_path / "lora", SETTINGS.model_copy(update={"method": "lora"}))
    nf4 = losses(base, rows, tmp_path / "nf4", SETTINGS.model_copy(update={"base_weights": "nf4"}))
    assert len(nf4) == len(lora) == 8
    assert nf4 == pytest.approx(lora, rel=0.05) and nf4 != lora
    assert nf4[-1] < 0.8 * nf4[0]


@pytest.mark.slow
def test_the_real_base_in_nf4_learns_as_lora_does(tmp_path: Path, base_gguf: Path, rows: Path) -> None:
    settings = SETTINGS.model_copy(update={"num_epochs": 3, "learning_rate": 1e-3})
    lora = losses(base_gguf, rows, tmp_path / "lora", settings.model_copy(update={"method": "lora"}))
    nf4 = losses(base_gguf, rows, tmp_path / "nf4", settings.model_copy(update={"base_weights": "nf4"}))
    print(f"lora {lora}\nnf4  {nf4}")
    assert nf4 == pytest.approx(lora, rel=0.1)
    assert nf4[-1] < 0.8 * nf4[0]


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw_8bit"])
def test_eight_bit_optimisers_learn_as_adamw_does(tmp_path: Path, rows: Path, optimizer: str) -> None:
    # large enough: bitsandbytes leaves vectors of 4096 and less in 32 bits
    base = write_base(tmp_path / "base.gguf", Type.F32, width=256)
    plain = losses(base, rows, tmp_path / "plain", SETTINGS)
    eight = losses(base, rows, tmp_path / optimizer, SETTINGS.model_copy(update={"optimizer": optimizer}))
    assert eight == pytest.approx(plain, rel=0.1) and eight != plain
    assert eight[-1] < 0.8 * eight[0]


def test_an_eight_bit_optimiser_goes_on_from_its_checkpoint_to_the_same_result(tmp_path: Path, rows: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Type.F32, width=256)
    settings = SETTINGS.model_copy(update={"optimizer": "adamw_8bit", "save_steps": 3})
    whole = losses(base, rows, tmp_path / "whole", settings)
    seen: list[float] = []
    stopping = {"report": lambda progress: seen.append(progress.loss), "cancelled": lambda: len(seen) >= 3}
    with pytest.raises(Exception, match="stopped at step"):
        train(base, rows, tmp_path / "run", settings, **stopping)
    checkpoint, _ = checkpoints.newest_complete(tmp_path / "run" / "checkpoints")
    assert checkpoint and "state1" in "".join(checkpoints.load_file(checkpoint / "state.safetensors"))
    train(base, rows, tmp_path / "run", settings, report=lambda progress: seen.append(progress.loss))
    assert seen == whole


def test_nf4_belongs_to_qlora() -> None:
    with pytest.raises(ValueError, match="base_weights: nf4 can be used only with method qlora"):
        Training(method="lora", base_weights="nf4")
    assert METHODS[Training(base_weights="nf4").method].carriers == ("adapter", "merged")
