"""The export: exact weights, untouched bytes, and nothing left behind by a failure."""

import pickle
import shutil
import subprocess
import sys
import textwrap
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_gguf as tiny
from gguf import GGMLQuantizationType as Type
from hypothesis import given
from hypothesis import strategies as st

from fine_tuning.errors import ExportError
from fine_tuning.model_management.gguf_export import (
    check_exportable,
    convert_adapter,
    export_full,
    merge_adapter,
)
from fine_tuning.model_management.tensor_names import rotary_order
from fine_tuning.paths import REPOSITORY


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny.write_base(tmp_path / "base.gguf")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    tiny.write_adapter(tmp_path / "adapter")
    return tmp_path / "adapter"


def logits(model: Path, lora: Path | None = None) -> np.ndarray:
    """llama.cpp's own answer to four tokens."""
    from llama_cpp import Llama

    llama = Llama(str(model), lora_path=lora and str(lora), n_ctx=32, logits_all=True, verbose=False)
    llama.eval([1, 5, 9, 40])
    scores = np.array(llama.scores[:4])
    llama.close()
    return scores


# What comes out


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_merge_adds_the_scaled_product_in_the_ggufs_order_of_rows(base: Path, tmp_path: Path, dtype: str) -> None:
    pairs = tiny.write_adapter(tmp_path / "adapter", dtype=dtype)
    result = merge_adapter(base, tmp_path / "adapter", tmp_path / "out.gguf", "f32")
    before, after = tiny.weights(base), tiny.weights(tmp_path / "out.gguf")
    for name in before:
        wanted = before[name] + tiny.delta(name, *pairs[name], scale=2) if name in pairs else before[name]
        assert np.array_equal(after[name], wanted), name
    assert (result.adapted, result.converted, result.copied) == (14, 0, 6)
    assert result.size == result.path.stat().st_size


def test_q8_0_is_what_llama_cpps_converter_makes_of_the_merged_weights(base: Path, tmp_path: Path) -> None:
    pairs = tiny.write_adapter(tmp_path / "adapter")
    merge_adapter(base, tmp_path / "adapter", tmp_path / "out.gguf", "q8_0")
    before, after = (
        tiny.weights(base),
        {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors},
    )
    for name, weights in before.items():
        if weights.ndim == 1:
            assert np.array_equal(after[name].data, weights)
            continue
        merged = weights + tiny.delta(name, *pairs[name], scale=2) if name in pairs else weights
        assert np.array_equal(after[name].data, gguf.quants.quantize(merged, Type.Q8_0)), name


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.Q8_0, Type.Q4_1])
def test_same_keeps_every_type_and_the_bytes_of_what_is_not_adapted(tmp_path: Path, adapter: Path, kind: Type) -> None:
    base = tiny.write_base(tmp_path / "base.gguf", kind)
    merge_adapter(base, adapter, tmp_path / "out.gguf", "same")
    assert tiny.types(tmp_path / "out.gguf") == tiny.types(base)
    before, after = tiny.raw(base), tiny.raw(tmp_path / "out.gguf")
    assert {name for name in before if before[name] != after[name]} == {
        name for name in before if name.startswith("blk") and "norm" not in name
    }


@pytest.mark.parametrize("kind", [Type.F32, Type.Q8_0])
def test_an_adapter_that_changes_nothing_gives_back_the_very_file(tmp_path: Path, kind: Type) -> None:
    base = tiny.write_base(tmp_path / "base.gguf", kind)
    tiny.write_adapter(tmp_path / "adapter", size=0)
    merge_adapter(base, tmp_path / "adapter", tmp_path / "out.gguf", "same")
    assert (tmp_path / "out.gguf").read_bytes() == base.read_bytes()


def test_metadata_is_kept_also_unknown_keys_and_their_order(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge_adapter(base, adapter, tmp_path / "out.gguf", "f16")
    before, after = (gguf.GGUFReader(path).fields for path in (base, tmp_path / "out.gguf"))
    assert list(after) == [*before, "general.quantization_version"]
    changed = {
        key for key in before if key not in ("GGUF.kv_count",) and before[key].contents() != after[key].contents()
    }
    assert changed == {"general.file_type"}
    assert after["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_F16


def test_a_row_that_does_not_fit_into_blocks_becomes_f16_as_in_the_converter(tmp_path: Path) -> None:
    base = tiny.write_base(tmp_path / "base.gguf", width=48)  # its feed-forward rows have 72 weights
    tiny.write_adapter(tmp_path / "adapter", width=48)
    merge_adapter(base, tmp_path / "adapter", tmp_path / "out.gguf", "q8_0")
    kinds = {name: kind for name, kind in tiny.types(tmp_path / "out.gguf").items() if "norm" not in name}
    assert set(kinds.values()) == {"F16"}


def test_mixtures_choose_and_fall_back_as_llama_quantize_does(tmp_path: Path) -> None:
    wide = tiny.write_base(tmp_path / "wide.gguf", width=256)
    tiny.write_adapter(tmp_path / "wide", width=256)
    merge_adapter(wide, tmp_path / "wide", tmp_path / "out.gguf", "q4_k_m")
    kinds = tiny.types(tmp_path / "out.gguf")
    assert (kinds["blk.0.attn_q.weight"], kinds["token_embd.weight"], kinds["output_norm.weight"]) == (
        "Q4_K",
        "Q6_K",
        "F32",
    )
    assert kinds["blk.0.ffn_down.weight"] == "Q5_0"  # 384 is no multiple of 256

    narrow = tiny.write_base(tmp_path / "narrow.gguf")
    tiny.write_adapter(tmp_path / "narrow")
    merge_adapter(narrow, tmp_path / "narrow", tmp_path / "out.gguf", "q4_k_m")
    counts = Counter(kind for name, kind in tiny.types(tmp_path / "out.gguf").items() if "norm" not in name)
    assert set(counts) <= {"Q5_0", "Q8_0"} and counts["Q5_0"]
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


@pytest.mark.parametrize("quantization", ["q4_0", "q5_1", "iq4_nl", "q6_k", "q2_k", "q3_k_l", "q5_k_s"])
def test_every_mixture_can_be_loaded(base: Path, adapter: Path, tmp_path: Path, quantization: str) -> None:
    merge_adapter(base, adapter, tmp_path / "out.gguf", quantization)
    assert np.isfinite(logits(tmp_path / "out.gguf")).all()


# Scales


@pytest.mark.parametrize(
    ("config", "scale_of"),
    [
        ({"use_rslora": True}, lambda name: 8 / 4**0.5),
        (
            {"alpha_pattern": {"q_proj": 2, "layers.1.mlp.*": 4}},
            lambda name: {"q": 0.5, "m": 1.0}.get(_pattern(name), 2.0),
        ),
    ],
    ids=["rank-stabilised", "alpha_pattern"],
)
def test_scales_follow_peft(base: Path, tmp_path: Path, config: dict[str, Any], scale_of: Any) -> None:
    pairs = tiny.write_adapter(tmp_path / "adapter", **config)
    merge_adapter(base, tmp_path / "adapter", tmp_path / "out.gguf", "f32")
    before, after = tiny.weights(base), tiny.weights(tmp_path / "out.gguf")
    for name, (a, b) in pairs.items():
        assert np.array_equal(after[name], before[name] + tiny.delta(name, a, b, scale_of(name))), name
    # and llama.cpp, which knows one alpha for all, comes to the same with the adapter beside the base
    convert_adapter(base, tmp_path / "adapter", tmp_path / "lora.gguf")
    assert np.abs(logits(base, tmp_path / "lora.gguf") - logits(tmp_path / "out.gguf")).max() < 1e-4


def _pattern(name: str) -> str:
    return "q" if "attn_q" in name else "m" if name.startswith("blk.1.ffn") else ""


# DoRA, and models trained whole


def test_with_dora_each_row_gets_its_learned_length(base: Path, tmp_path: Path) -> None:
    pairs = tiny.write_adapter(tmp_path / "adapter", dora=True)
    merge_adapter(base, tmp_path / "adapter", tmp_path / "out.gguf", "f32")
    before, after = tiny.weights(base), tiny.weights(tmp_path / "out.gguf")
    for name, (a, b) in pairs.items():
        moved = before[name] + tiny.delta(name, a, b, scale=2)
        magnitude = tiny.in_order(name, tiny.magnitudes(len(moved)))
        wanted = moved * (magnitude / np.sqrt((moved.astype(np.float64) ** 2).sum(axis=1)))[:, None]
        assert np.allclose(after[name], wanted, atol=1e-6), name


def test_dora_cannot_be_an_adapter_beside_the_base_and_that_is_said(base: Path, tmp_path: Path) -> None:
    tiny.write_adapter(tmp_path / "adapter", dora=True)
    with pytest.raises(ExportError, match=r"DoRA.*set deployment\.mode to merged"):
        convert_adapter(base, tmp_path / "adapter", tmp_path / "lora.gguf")


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_model_trained_whole_takes_the_place_of_the_base(base: Path, tmp_path: Path, dtype: str) -> None:
    whole = tiny.write_model(tmp_path / "model", dtype=dtype)
    result = export_full(base, tmp_path / "model", tmp_path / "out.gguf", "f32")
    after = tiny.weights(tmp_path / "out.gguf")
    assert set(after) == set(whole) and (result.adapted, result.converted, result.copied) == (20, 0, 0)
    for name, weights in whole.items():
        assert np.array_equal(after[name], weights), name
    before, out = (gguf.GGUFReader(path).fields for path in (base, tmp_path / "out.gguf"))
    assert before["custom.floats"].contents() == out["custom.floats"].contents()
    export_full(base, tmp_path / "model", tmp_path / "q8.gguf", "q8_0")
    made = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "q8.gguf").tensors}
    for name, weights in whole.items():
        assert np.array_equal(
            made[name].data, weights if weights.ndim == 1 else gguf.quants.quantize(weights, Type.Q8_0)
        ), name


def test_a_model_that_does_not_fit_or_is_not_whole_is_named(base: Path, tmp_path: Path) -> None:
    tiny.write_model(tmp_path / "wide", width=128)
    with pytest.raises(ExportError, match=r"was not trained on .*embed_tokens\.weight is \(96, 128\)"):
        export_full(base, tmp_path / "wide", tmp_path / "out.gguf")
    tiny.write_model(tmp_path / "part", leave_out="blk.1.ffn_up.weight")
    with pytest.raises(ExportError, match=r"lacks blk\.1\.ffn_up\.weight"):
        export_full(base, tmp_path / "part", tmp_path / "out.gguf")
    tiny.write_model(tmp_path / "nan", size=float("nan"))
    with pytest.raises(ExportError, match="the training diverged"):
        export_full(base, tmp_path / "nan", tmp_path / "out.gguf")
    assert not list(tmp_path.glob("*out.gguf*"))


# The adapter beside the base


def test_the_adapter_gguf_holds_what_llama_cpps_converter_writes(base: Path, tmp_path: Path) -> None:
    pairs = tiny.write_adapter(tmp_path / "adapter")
    result = convert_adapter(base, tmp_path / "adapter", tmp_path / "lora.gguf")
    reader = gguf.GGUFReader(result.path)
    values = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF")}
    assert values == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
    }
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(found) == 2 * len(pairs) == 2 * result.adapted
    for name, (a, b) in pairs.items():
        heads = tiny.HEADS if "attn_q" in name else tiny.KV_HEADS if "attn_k" in name else None
        assert np.array_equal(found[f"{name}.lora_a"], a)
        assert np.array_equal(found[f"{name}.lora_b"], tiny.permuted(b, heads) if heads else b)


def test_base_with_adapter_and_merged_model_answer_alike(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge_adapter(base, adapter, tmp_path / "merged.gguf", "f32")
    convert_adapter(base, adapter, tmp_path / "lora.gguf")
    plain, merged, beside = logits(base), logits(tmp_path / "merged.gguf"), logits(base, tmp_path / "lora.gguf")
    assert np.abs(merged - beside).max() < 1e-4 < 0.1 < np.abs(merged - plain).max()
    assert (merged.argmax(axis=1) == beside.argmax(axis=1)).all()


def test_an_embedding_with_an_output_of_its_own_can_be_adapted(tmp_path: Path) -> None:
    base = tiny.write_base(tmp_path / "base.gguf", tied=False)
    noise = np.random.default_rng(3)
    a = noise.standard_normal((4, tiny.VOCABULARY), dtype=np.float32)
    b = noise.standard_normal((64, 4), dtype=np.float32)
    prefix = "base_model.model.model.embed_tokens.lora_embedding_"
    stored = {f"{prefix}A": tiny.encode(a, "F32")[0], f"{prefix}B": tiny.encode(b, "F32")[0]}
    tiny.save_adapter(tmp_path / "adapter", stored, {"lora_alpha": 4})
    merge_adapter(base, tmp_path / "adapter", tmp_path / "out.gguf", "f32")
    name = "token_embd.weight"
    assert np.allclose(tiny.weights(tmp_path / "out.gguf")[name], tiny.weights(base)[name] + (b @ a).T, atol=1e-6)
    convert_adapter(base, tmp_path / "adapter", tmp_path / "lora.gguf")
    assert np.abs(logits(base, tmp_path / "lora.gguf") - logits(tmp_path / "out.gguf")).max() < 1e-4


def test_an_architecture_that_does_not_permute_is_left_in_its_order(tmp_path: Path) -> None:
    base = tiny.write_base(tmp_path / "base.gguf", arch="qwen2")
    pairs = tiny.write_adapter(tmp_path / "adapter")
    merge_adapter(base, tmp_path / "adapter", tmp_path / "out.gguf", "f32")
    before, after = tiny.weights(base), tiny.weights(tmp_path / "out.gguf")
    for name, (a, b) in pairs.items():
        assert np.array_equal(after[name], before[name] + tiny.delta(name, a, b, 2, arch="qwen2")), name


@given(heads=st.integers(1, 9), half=st.integers(1, 8))
def test_the_rotary_order_is_undone_by_transformers_reader(heads: int, half: int) -> None:
    rows = np.arange(heads * 2 * half)
    order = rotary_order(len(rows), heads)
    assert np.array_equal(order, tiny.permuted(rows, heads))
    # LlamaTensorProcessor._reverse_permute_weights in transformers/modeling_gguf_pytorch_utils.py
    assert np.array_equal(order.reshape(heads, half, 2).swapaxes(2, 1).reshape(rows.shape), rows)


# What is refused


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules trained whole"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"alora_invocation_tokens": [1]}, "activated LoRA"),
        ({"peft_type": "LOHA"}, "peft_type LORA"),
        ({"lora_alpha": None}, "lora_alpha"),
    ],
)
def test_an_adapter_that_is_more_than_a_lora_is_refused(
    base: Path, tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    tiny.write_adapter(tmp_path / "adapter", **config)
    for export in (merge_adapter, convert_adapter):
        with pytest.raises(ExportError, match=said):
            export(base, tmp_path / "adapter", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_planted_pickle_is_refused_and_never_read(base: Path, adapter: Path, tmp_path: Path) -> None:
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    for weights_too in (True, False):
        if not weights_too:
            (adapter / "adapter_model.safetensors").unlink()
        for export in (merge_adapter, convert_adapter):
            with pytest.raises(ExportError, match=r"adapter_model\.bin is a pickle"):
                export(base, adapter, tmp_path / "out.gguf")
    assert not (tmp_path / "sprung").exists()


def test_damaged_weights_are_named(base: Path, adapter: Path, tmp_path: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    whole = file.read_bytes()
    damages = [b"", whole[:4], whole[:100], whole[:-4], b"\xff" * 8 + whole[8:], whole.replace(b'"F32"', b'"I32"')]
    damages.append(whole.replace(b'"data_offsets": [0,', b'"data_offsets": [9,'))
    for damaged in damages:
        file.write_bytes(damaged)
        with pytest.raises(ExportError, match=r"adapter_model\.safetensors"):
            merge_adapter(base, adapter, tmp_path / "out.gguf")
    file.unlink()
    with pytest.raises(ExportError, match=r"adapter_model\.safetensors is missing"):
        merge_adapter(base, adapter, tmp_path / "out.gguf")
    shutil.rmtree(adapter)
    with pytest.raises(ExportError, match="is not a PEFT adapter"):
        merge_adapter(base, adapter, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_a_training_that_diverged_is_not_exported(base: Path, tmp_path: Path) -> None:
    tiny.write_adapter(tmp_path / "adapter", size=float("nan"))
    for export in (merge_adapter, convert_adapter):
        with pytest.raises(ExportError, match="the training diverged"):
            export(base, tmp_path / "adapter", tmp_path / "out.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base.gguf"]


@pytest.mark.parametrize("quantization", ["f16", "q8_0", "q4_0", "q5_1", "q4_k_m", "q6_k"])
@pytest.mark.parametrize("size", [1e4, 1e5])
def test_weights_that_overflow_when_they_are_merged_are_not_exported(
    tmp_path: Path, quantization: str, size: float
) -> None:
    base = tiny.write_base(tmp_path / "base.gguf", width=256)
    tiny.write_adapter(tmp_path / "a", width=256, size=size)  # finite, but W + BA is beyond what float16 holds
    out = tmp_path / "out.gguf"
    with pytest.raises(
        ExportError,
        match=r"blk\.0\.\w+\.weight of .*base\.gguf has weights that \w+ cannot hold.*lower learning_rate",
    ):
        merge_adapter(base, tmp_path / "a", out, quantization)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "base.gguf"]


@pytest.mark.parametrize("quantization", ["f32", "bf16"])
def test_weights_beyond_float16_are_exported_where_the_type_holds_them(
    base: Path, tmp_path: Path, quantization: str
) -> None:
    tiny.write_adapter(tmp_path / "a", size=1e4)
    merge_adapter(base, tmp_path / "a", tmp_path / "out.gguf", quantization)
    assert all(np.isfinite(weights).all() for weights in tiny.weights(tmp_path / "out.gguf").values())


@pytest.mark.parametrize("quantization", ["f32", "bf16", "q8_0"])
def test_weights_beyond_float32_are_never_exported(base: Path, tmp_path: Path, quantization: str) -> None:
    tiny.write_adapter(tmp_path / "a", size=1e25)
    with pytest.raises(ExportError, match="cannot hold"):
        merge_adapter(base, tmp_path / "a", tmp_path / "out.gguf", quantization)
    with pytest.raises(ExportError, match="cannot hold"):
        tiny.write_adapter(tmp_path / "b", size=1e25, alpha_pattern={"q_proj": 1e25})
        convert_adapter(base, tmp_path / "b", tmp_path / "out.gguf")


def test_paths_may_be_texts(base: Path, adapter: Path, tmp_path: Path) -> None:
    check_exportable(str(base))
    merged, beside, whole = (tmp_path / name for name in ("merged.gguf", "beside.gguf", "whole.gguf"))
    assert merge_adapter(str(base), str(adapter), str(merged)).path == merged
    assert convert_adapter(str(base), str(adapter), str(beside)).path == beside
    tiny.write_model(tmp_path / "model")
    assert export_full(str(base), str(tmp_path / "model"), str(whole)).path == whole
    assert all(path.is_file() for path in (merged, beside, whole))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("model.layers.0.self_attn.q_proj", "was not trained on"),  # of another width
        ("model.layers.7.self_attn.q_proj", "does not have"),
        ("model.vision_tower.proj", "does not have"),
        ("lm_head", "leave lm_head out"),
        ("model.embed_tokens", "also uses as its output"),
    ],
)
def test_a_module_that_does_not_fit_the_base_is_named(base: Path, tmp_path: Path, module: str, said: str) -> None:
    outputs, inputs = (tiny.VOCABULARY, 64) if module == "model.embed_tokens" else (32, 32)
    sides = {"A": (4, inputs), "B": (outputs, 4)}
    stored = {
        f"base_model.model.{module}.lora_{side}.weight": ("F32", shape, bytes(4 * shape[0] * shape[1]))
        for side, shape in sides.items()
    }
    tiny.save_adapter(tmp_path / "adapter", stored, {"lora_alpha": 4})
    with pytest.raises(ExportError, match=said) as failure:
        merge_adapter(base, tmp_path / "adapter", tmp_path / "out.gguf")
    assert module in str(failure.value)


def test_weights_that_are_no_lora_are_named(base: Path, tmp_path: Path) -> None:
    tiny.save_adapter(
        tmp_path / "adapter", {"base_model.model.model.norm.weight": ("F32", (64,), bytes(256))}, {"lora_alpha": 4}
    )
    with pytest.raises(ExportError, match=r"norm\.weight, which is not a LoRA weight"):
        merge_adapter(base, tmp_path / "adapter", tmp_path / "out.gguf")


def test_bases_that_cannot_be_exported_are_named(base: Path, adapter: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(base.read_bytes()[:-1000])
    none = tmp_path / "none.gguf"
    none.write_bytes(b"no model at all")
    other = tiny.write_base(tmp_path / "other.gguf", arch="falcon")
    for file, said in (
        (cut, "ends before its last weights"),
        (none, "not a complete GGUF"),
        (other, "falcon"),
        (tmp_path / "no", "cannot read"),
    ):
        with pytest.raises(ExportError, match=said):
            merge_adapter(file, adapter, tmp_path / "out.gguf")


def test_what_cannot_be_exported_can_be_known_before_the_training(base: Path, tmp_path: Path) -> None:
    check_exportable(base, "Q4_K_M")
    with pytest.raises(ExportError, match="unknown quantization"):
        check_exportable(base, "q9")
    with pytest.raises(ExportError, match="architecture 'falcon'"):
        check_exportable(tiny.write_base(tmp_path / "other.gguf", arch="falcon"))


def test_an_unknown_quantization_lists_the_known_ones(base: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'q9'.*same, f32.*q4_k_m"):
        merge_adapter(base, adapter, tmp_path / "out.gguf", "q9")


# Disk and memory


def test_too_little_disk_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    from fine_tuning.engines.gguf_file import whole_file

    with (
        pytest.raises(ExportError, match=rf"{tmp_path}.*{10**18} bytes are needed"),
        whole_file(tmp_path / "out.gguf", 10**18) as path,
    ):
        path.write_bytes(b"never")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quantization", ["f32", "q4_k_m"])
def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_else(
    base: Path, adapter: Path, tmp_path: Path, quantization: str
) -> None:
    out = tmp_path / "out" / "model.gguf"
    out.parent.mkdir()
    out.write_bytes(b"the old model")
    script = f"""
        import resource, signal
        from pathlib import Path
        from fine_tuning.errors import ExportError
        from fine_tuning.model_management.gguf_export import merge_adapter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            merge_adapter(Path({str(base)!r}), Path({str(adapter)!r}), Path({str(out)!r}), {quantization!r})
        except ExportError as error:
            print(error)
    """
    said = _python(script).stdout
    assert f"cannot export to {out}" in said and "File too large" in said
    assert [path.name for path in out.parent.iterdir()] == ["model.gguf"] and out.read_bytes() == b"the old model"


def test_a_mixture_that_llama_cpp_cannot_make_leaves_nothing_and_says_why(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    base.write_bytes(base.read_bytes().replace(b"llama.context_length", b"llama.context_nothin"))
    with pytest.raises(ExportError, match=r"could not convert .* to q4_k_m.*context_length"):
        merge_adapter(base, adapter, tmp_path / "out.gguf", "q4_k_m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base.gguf"]


def _python(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)


def test_memory_is_that_of_a_slab_not_of_the_largest_tensor(tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    writer = gguf.GGUFWriter(base, "qwen2")
    writer.add_block_count(1)
    rows, columns = 32_768, 1024
    writer.add_tensor("blk.0.ffn_up.weight", np.zeros((rows, columns // 32 * 34), np.uint8), raw_dtype=Type.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    sides = {"A": np.ones((1, columns), np.float32), "B": np.ones((rows, 1), np.float32)}
    stored = {
        f"base_model.model.model.layers.0.mlp.up_proj.lora_{side}.weight": tiny.encode(value, "F32")[0]
        for side, value in sides.items()
    }
    tiny.save_adapter(tmp_path / "adapter", stored, {"lora_alpha": 1})
    seen: list[tuple[int, int]] = []
    tracemalloc.start()
    merge_adapter(
        base, tmp_path / "adapter", tmp_path / "out.gguf", "q8_0", lambda done, total: seen.append((done, total))
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20  # the tensor is 128 MiB of float32
    assert np.abs(tiny.weights(tmp_path / "out.gguf")["blk.0.ffn_up.weight"] - 1).max() < 0.01
    assert [done for done, _ in seen] == sorted({done for done, _ in seen}) and seen[-1] == (
        rows * columns,
        rows * columns,
    )
