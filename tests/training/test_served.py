"""The network that is trained is the one that is served; each way to get it wrong is refused,
before a step or a version is made.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from tiny_gguf import VOCABULARY, write_base
from training_run import train

from fine_tuning.config import BaseWeights, Training
from fine_tuning.engines.agreement import Reference, check_export, distance, make_probes
from fine_tuning.engines.gguf_file import read_gguf, write_gguf
from fine_tuning.errors import ExportError, TrainingError
from fine_tuning.evaluation.served_model import read_logits
from fine_tuning.model_management import gguf_export, tensor_names
from fine_tuning.model_management.gguf_export import convert_adapter, merge_adapter
from fine_tuning.training import network
from fine_tuning.training.base_model import load_base
from fine_tuning.training.lora_trainer import TrainingResult

SETTINGS = Training(lora_r=4, num_epochs=6, batch_size=2, dtype="float32", learning_rate=1e-2)


@pytest.fixture
def rows(tmp_path: Path) -> list[list[int]]:
    draw = torch.Generator().manual_seed(0)
    made = [torch.randint(VOCABULARY, (60,), generator=draw).tolist() for _ in range(4)]
    lines = (json.dumps({"input_ids": row, "trained": [0] * 20 + [1] * 40}) + "\n" for row in made)
    (tmp_path / "train.jsonl").write_text("".join(lines))
    (tmp_path / "validation.jsonl").write_text("")
    return made


def reference(base: Path, rows: list[list[int]]) -> Reference:
    return read_logits(base, make_probes(rows, read_gguf(base)))


# Before the training


def _frequencies(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], None]:
    def mutate(model: Any) -> None:
        model.model.rotary_emb.inv_freq.copy_(change(model.model.rotary_emb.inv_freq))

    return mutate


def _scale(model: Any) -> None:
    for layer in model.model.layers:
        layer.self_attn.scaling *= 0.5


def _epsilon(model: Any) -> None:
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 1e-1


def _rows(name: str) -> Callable[[Any], None]:
    def mutate(model: Any) -> None:
        layer = model.model.layers[0].self_attn.get_submodule(name)
        order = tensor_names.rotary_order(len(layer.weight), len(layer.weight) // model.config.head_dim)
        layer.weight.data = layer.weight.data[torch.from_numpy(order)]

    return mutate


def _swapped(model: Any) -> None:
    attention = model.model.layers[1].self_attn
    attention.k_proj, attention.v_proj = attention.v_proj, attention.k_proj


def _activation(model: Any) -> None:
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.ReLU()


def _cap(model: Any) -> None:
    model.lm_head.register_forward_hook(lambda module, inputs, output: torch.tanh(output))


def _bias(model: Any) -> None:
    for layer in model.model.layers:
        layer.self_attn.q_proj.bias = torch.nn.Parameter(torch.linspace(-2, 2, layer.self_attn.q_proj.out_features))


def _layer(model: Any) -> None:
    torch.nn.init.zeros_(model.model.layers[1].mlp.down_proj.weight)


def _window(model: Any) -> None:
    for layer in model.model.layers:
        forward = layer.self_attn.forward
        layer.self_attn.forward = lambda *given, forward=forward, **named: forward(
            *given, **named | {"sliding_window": 8}
        )


WRONG = {
    "base frequency": _frequencies(lambda found: found**0.5),
    "slowed positions": _frequencies(lambda found: found / 8),
    "attention scale": _scale,
    "epsilon of the norms": _epsilon,
    "rows of queries": _rows("q_proj"),
    "rows of keys": _rows("k_proj"),
    "keys for values": _swapped,
    "activation": _activation,
    "cap of the logits": _cap,
    "a bias": _bias,
    "a part of a layer": _layer,
    "a window": _window,
}


@pytest.mark.parametrize("kind", [Type.F32, Type.Q8_0, Type.Q4_0])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_network_that_is_not_the_served_one_is_not_trained(
    tmp_path: Path, rows: list[list[int]], monkeypatch: pytest.MonkeyPatch, wrong: str, kind: Type
) -> None:
    base = write_base(tmp_path / "base.gguf", kind, tied=False)

    def loaded(*arguments: Any) -> Any:
        model = load_base(*arguments)
        with torch.no_grad():
            WRONG[wrong](model)
        return model

    monkeypatch.setattr(network, "load_base", loaded)
    steps: list[object] = []
    with pytest.raises(
        TrainingError, match=r"base\.gguf's llama in Transformers and those of .*base\.gguf in llama\.cpp differ"
    ):
        train(base, tmp_path, tmp_path / "run", SETTINGS, report=steps.append, served=reference(base, rows))
    assert not steps


@pytest.mark.parametrize(
    ("backend", "method", "weights"),
    [
        ("packed", "lora", "dequantised"),
        ("packed", "qlora", "quantised"),
        ("packed", "full", "dequantised"),
        ("trl", "lora", "dequantised"),
        ("trl", "qlora", "quantised"),
    ],
)
@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.Q8_0, Type.Q4_0, Type.Q5_1])
def test_an_honest_base_is_trained(
    tmp_path: Path, rows: list[list[int]], kind: Type, backend: str, method: str, weights: BaseWeights
) -> None:
    base = write_base(tmp_path / "base.gguf", kind)
    settings = SETTINGS.model_copy(update={"backend": backend, "method": method, "num_epochs": 1})
    served = reference(base, rows)
    result = train(base, tmp_path, tmp_path / "run", settings, served=served, weights=weights)
    assert result.network is not None
    assert distance(result.network.before, served.logits) < served.rounding / 2


@pytest.mark.parametrize("kind", [Type.F32, Type.Q8_0])
def test_a_training_in_bfloat16_is_no_wrong_one(tmp_path: Path, rows: list[list[int]], kind: Type) -> None:
    base = write_base(tmp_path / "base.gguf", kind)
    settings = SETTINGS.model_copy(update={"dtype": "bfloat16", "num_epochs": 1})
    result = train(base, tmp_path, tmp_path / "run", settings, served=reference(base, rows))
    assert result.network is not None and result.network.more > 0


def test_a_base_in_nf4_is_no_wrong_one_and_its_adapter_is_served(tmp_path: Path, rows: list[list[int]]) -> None:
    base = write_base(tmp_path / "base.gguf", Type.Q8_0)
    settings = SETTINGS.model_copy(update={"method": "qlora", "base_weights": "nf4"})
    result = train(base, tmp_path, tmp_path / "run", settings, served=reference(base, rows), weights="nf4")
    artifact = convert_adapter(base, result.adapter, tmp_path / "adapter.gguf").path
    assert result.network is not None
    check_export(result.network, read_logits(base, result.network.base.probes, artifact))


# After it


@pytest.fixture
def trained(tmp_path: Path, rows: list[list[int]]) -> tuple[Path, TrainingResult]:
    base = write_base(tmp_path / "base.gguf", Type.F32)
    result = train(base, tmp_path, tmp_path / "run", SETTINGS, served=reference(base, rows))
    assert result.network is not None and distance(result.network.after, result.network.before) > 0.3
    return base, result


def test_what_is_exported_is_what_was_trained(tmp_path: Path, trained: tuple[Path, TrainingResult]) -> None:
    base, result = trained
    probes = result.network.base.probes
    beside = convert_adapter(base, result.adapter, tmp_path / "adapter.gguf").path
    assert check_export(result.network, read_logits(base, probes, beside)) < 0.005
    for quantization, most in (("f32", 0.005), ("f16", 0.01), ("q8_0", 0.1), ("same", 0.005)):
        merged = merge_adapter(base, result.adapter, tmp_path / "merged.gguf", quantization).path
        assert check_export(result.network, read_logits(merged, probes, requantised=True)) < most


def test_a_run_that_is_gone_on_with_compares_the_same(
    tmp_path: Path, trained: tuple[Path, TrainingResult], rows: list[list[int]]
) -> None:
    base, result = trained
    again = train(base, tmp_path, tmp_path / "run", SETTINGS, served=reference(base, rows))
    assert again.resumed_from and distance(again.network.after, result.network.after) < 1e-4
    assert distance(again.network.before, result.network.before) == 0


def _rewritten(
    adapter: Path, change: Callable[[str, bytes], bytes | None], metadata: dict[str, bytes] | None = None
) -> Path:
    file, content = read_gguf(adapter), adapter.read_bytes()
    found = [
        (info, change(info.name, content[file.starts[info.name] :][: info.size])) for info in file.tensors.values()
    ]
    write_gguf(
        adapter, dict(file.metadata) | (metadata or {}), [(info, [data]) for info, data in found if data is not None]
    )
    return adapter


def _halved(adapter: Path) -> Path:
    from fine_tuning.engines.gguf_file import entry

    return _rewritten(adapter, lambda name, data: data, {"adapter.lora.alpha": entry("adapter.lora.alpha", 16.0)})


SPOILT: dict[str, Callable[[Path], Path]] = {
    "half of its scale": _halved,
    "nothing in it": lambda adapter: _rewritten(
        adapter, lambda name, data: bytes(len(data)) if name.endswith("lora_b") else data
    ),
    "only its first layer": lambda adapter: _rewritten(
        adapter, lambda name, data: data if name.startswith("blk.0.") else None
    ),
    "no attention": lambda adapter: _rewritten(adapter, lambda name, data: None if "attn" in name else data),
    "rows turned around": lambda adapter: _rewritten(
        adapter, lambda name, data: data[::-1] if "ffn_down.weight.lora_b" in name else data
    ),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_an_adapter_that_is_not_what_was_trained_is_refused(
    tmp_path: Path, trained: tuple[Path, TrainingResult], spoilt: str
) -> None:
    base, result = trained
    adapter = SPOILT[spoilt](convert_adapter(base, result.adapter, tmp_path / "adapter.gguf").path)
    with pytest.raises(ExportError, match=r"adapter\.gguf in llama\.cpp differ"):
        check_export(result.network, read_logits(base, result.network.base.probes, adapter))


@pytest.mark.parametrize("export", [convert_adapter, merge_adapter])
def test_rows_exported_in_the_wrong_order_are_refused(
    tmp_path: Path,
    trained: tuple[Path, TrainingResult],
    monkeypatch: pytest.MonkeyPatch,
    export: Callable[..., gguf_export.Exported],
) -> None:
    base, result = trained
    monkeypatch.setattr(tensor_names, "rotary_order", lambda rows, heads: slice(None))
    made, probes = export(base, result.adapter, tmp_path / "made.gguf").path, result.network.base.probes
    served = (
        read_logits(base, probes, made) if export is convert_adapter else read_logits(made, probes, requantised=True)
    )
    with pytest.raises(ExportError, match=r"made\.gguf in llama\.cpp differ"):
        check_export(result.network, served)
