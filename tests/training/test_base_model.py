"""The base is loaded as Transformers itself reads its GGUF, and trains alike when it stays quantised."""

import json
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from tiny_gguf import VOCABULARY, write_base
from training_run import train

from fine_tuning.config import BaseWeights, Training
from fine_tuning.errors import TrainingError
from fine_tuning.training.base_model import load_base
from fine_tuning.training.fast.quantised_linear import QuantisedLinear
from fine_tuning.training.loss import packed_loss
from fine_tuning.training.methods import METHODS
from fine_tuning.training.packing import TokenRow, pack

ROWS = [TokenRow([5, 9, 17, 40 + i, 3, i], [False, False, False, True, True, True]) for i in range(4)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "tied"), [(Type.Q8_0, True), (Type.Q4_0, False), (Type.F16, True)])
def test_every_weight_is_what_transformers_makes_of_the_file(
    tmp_path: Path, kind: Type, tied: bool, dtype: torch.dtype
) -> None:
    from transformers import AutoModelForCausalLM

    base = write_base(tmp_path / "base.gguf", kind, tied=tied)
    ours = load_base(base, dtype, tmp_path / "run")
    theirs = AutoModelForCausalLM.from_pretrained(str(tmp_path), gguf_file=base.name, dtype=dtype)
    assert type(ours) is type(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight), name
    assert (ours.get_output_embeddings().weight is ours.get_input_embeddings().weight) == tied
    for name, buffer in theirs.named_buffers():
        assert torch.equal(dict(ours.named_buffers())[name], buffer)


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q4_0, Type.Q5_1])
def test_a_quantised_base_has_the_losses_and_gradients_of_the_dequantised_one(tmp_path: Path, kind: Type) -> None:
    base = write_base(tmp_path / "base.gguf", kind)
    settings = Training(method="qlora", lora_r=4)
    found = []
    for weights in ("dequantised", "quantised"):
        torch.manual_seed(0)
        model = METHODS["qlora"].attach(load_base(base, torch.float32, tmp_path / "run", weights), settings).train()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        loss, _ = packed_loss(model, pack(ROWS))
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        found.append((loss, gradients))
    kept = [module for module in model.modules() if isinstance(module, QuantisedLinear)]
    assert len(kept) == 14  # seven in each of two layers
    torch.testing.assert_close(found[0], found[1])


def test_a_quantised_layer_takes_the_room_of_its_blocks(tmp_path: Path) -> None:
    model = load_base(write_base(tmp_path / "base.gguf", Type.Q4_0), torch.float32, tmp_path / "run", "quantised")
    layer = model.model.layers[0].mlp.up_proj
    assert layer.blocks.nbytes == 96 * 64 * 18 // 32  # a block of 32 takes 18 bytes
    assert layer.weight.untyped_storage().nbytes() == 4
    assert (layer.weight.shape, layer.weight.dtype) == ((96, 64), torch.float32)


def test_every_step_on_a_quantised_base_has_the_loss_of_one_on_the_dequantised(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", Type.Q8_0)
    for name, rows in (("train", ROWS), ("validation", ROWS[:1])):
        lines = (json.dumps({"input_ids": row.input_ids, "trained": row.trained}) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    settings = Training(method="qlora", lora_r=4, num_epochs=3, batch_size=2, dtype="float32", learning_rate=1e-2)
    losses: dict[BaseWeights, list[float]] = {"dequantised": [], "quantised": []}
    for weights, found in losses.items():
        run = tmp_path / f"run {weights}"
        train(
            base,
            tmp_path,
            run,
            settings,
            report=lambda progress, found=found: found.append(progress.loss),
            weights=weights,
        )
    assert losses["quantised"] == pytest.approx(losses["dequantised"], abs=1e-4)
    assert losses["quantised"][-1] < losses["quantised"][0]


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(TrainingError, match=r"broken\.gguf"):
        load_base(broken, torch.float32, tmp_path / "run")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.pkl"])
def test_a_folder_with_a_pickle_is_refused_and_the_pickle_never_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}), encoding="utf-8")
    ran = tmp_path / "ran"
    (tmp_path / name).write_bytes(f"cpathlib\nPosixPath\n(V{ran}\ntRp0\ncpathlib\nPath.touch\n(g0\ntR.".encode())
    with pytest.raises(
        TrainingError,
        match=rf"its weights are a pickle \({name}\), which can run any code.*save it as safetensors",
    ):
        load_base(tmp_path, torch.float32, tmp_path / "run")
    assert not ran.exists()


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"its folder contains no \*\.safetensors"):
        load_base(str(tmp_path), torch.float32, str(tmp_path / "run"))


def test_a_base_without_a_weight_is_refused_by_its_name(tmp_path: Path) -> None:
    from fine_tuning.engines.gguf_file import read_gguf, write_gguf

    file = read_gguf(write_base(tmp_path / "base.gguf", Type.F32))
    data = file.path.read_bytes()
    left = [info for info in file.tensors.values() if info.name != "blk.1.ffn_up.weight"]
    write_gguf(
        tmp_path / "less.gguf",
        file.metadata,
        [(info, [data[file.starts[info.name] : file.starts[info.name] + info.size]]) for info in left],
    )
    with pytest.raises(TrainingError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        load_base(tmp_path / "less.gguf", torch.float32, tmp_path / "run")


def test_the_vocabulary_of_the_outline_is_that_of_the_embedding(tmp_path: Path) -> None:
    assert (
        load_base(write_base(tmp_path / "base.gguf"), torch.float32, tmp_path / "run").config.vocab_size == VOCABULARY
    )
