"""Models in Hugging Face's format: refused when they would run code; converted by llama.cpp's own
converter; our merge against it.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import tiny_families
import tiny_gguf as tiny

from fine_tuning.engines.gguf_file import read_gguf
from fine_tuning.errors import ExportError
from fine_tuning.model_management import hf_export, tensor_names
from fine_tuning.model_management.gguf_export import export_full, merge_adapter
from fine_tuning.model_management.hf_export import convert_model, import_model

# Hugging Face's model types, by the architecture that their GGUF has.
ARCHITECTURES = {
    **{
        "llama": "llama",
        "smollm3": "smollm3",
        "granite": "granite",
        "olmo": "olmo",
        "arcee": "arcee",
        "qwen2": "qwen2",
        "qwen3": "qwen3",
    },
    **{
        "gemma": "gemma",
        "gemma2": "gemma2",
        "gemma3": "gemma3_text",
        "phi3": "phi3",
        "starcoder2": "starcoder2",
        "stablelm": "stablelm",
    },
    **{"olmo2": "olmo2", "command-r": "cohere", "nemotron": "nemotron"},
}
TIED = {"cohere", "gemma", "gemma2"}  # their output is always the embedding
PROMPT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What passes the look into a model's folder; no model is in it."""
    made = tmp_path / "model"
    tiny.save_adapter(made, {"weights": ("F32", (2, 2), bytes(16))}, {})
    (made / "adapter_model.safetensors").rename(made / "model.safetensors")
    (made / "config.json").write_text("{}", encoding="utf-8")
    return made


def test_a_model_of_pickles_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ExportError, match=r"contains no model\*\.safetensors.*pickles"):
        convert_model(folder, tmp_path / "out.gguf")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_that_brings_code_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).write_text(json.dumps({"auto_map": {"AutoTokenizer": ["its.Own", None]}}), encoding="utf-8")
    with pytest.raises(ExportError, match=rf"{name} would run code"):
        convert_model(folder, tmp_path / "out.gguf")


def test_unknown_quantizations_and_folders_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="'q9'"):
        convert_model(folder, tmp_path / "out.gguf", "q9")
    (folder / "config.json").unlink()
    with pytest.raises(ExportError, match=r"cannot read .*config\.json"):
        convert_model(folder, tmp_path / "out.gguf")


def test_a_name_that_cannot_be_fetched_is_named() -> None:
    with pytest.raises(ExportError, match="cannot get no such/model/at all from Hugging Face"):
        hf_export._fetch("no such/model/at all")


@pytest.mark.slow
def test_the_converters_own_words_are_passed_on_and_nothing_is_left(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"cannot convert {folder} to a GGUF .*: .*model architecture"):
        convert_model(folder, tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# Against llama.cpp's converter


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For every architecture a folder with base/, adapter/ and merged/ (PEFT's own merge) in
    Hugging Face's format, and their GGUFs.
    """
    root = tmp_path_factory.mktemp("models")
    for architecture, model_type in ARCHITECTURES.items():
        _make(root / architecture, model_type)
    kinds = {"base": "f32", "merged": "q8_0"}
    jobs = [
        (root / arch / name, root / arch / f"{name}.gguf", kind)
        for arch in ARCHITECTURES
        for name, kind in kinds.items()
    ]
    tiny_families.convert(jobs)
    return root


def _make(folder: Path, model_type: str) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    special: dict[str, Any] = {
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": model_type in TIED,
    }
    heads = {"head_dim": 16} if model_type.startswith(("gemma", "qwen3")) else {}
    config = CONFIG_MAPPING[model_type](vocab_size=128, max_position_embeddings=256, **sizes, **special, **heads)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder / "base")
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weights in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weights, std=0.2)
    adapted.save_pretrained(folder / "adapter")
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    for name in ("base", "merged"):  # gemma3's conversion counts the tokens
        vocabulary = {"model": {"vocab": {str(token): token for token in range(128)}}, "added_tokens": []}
        (folder / name / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")


def test_every_architecture_that_is_offered_is_compared() -> None:
    assert set(ARCHITECTURES) == tensor_names._PERMUTED | tensor_names._AS_THEY_ARE


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_merge_is_bit_identical_to_converting_pefts_merged_model(
    models: Path, tmp_path: Path, architecture: str
) -> None:
    folder = models / architecture
    result = merge_adapter(folder / "base.gguf", folder / "adapter", tmp_path / "out.gguf", "q8_0")
    assert result.adapted
    _assert_same_tensors(tmp_path / "out.gguf", folder / "merged.gguf")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_trained_whole_is_bit_identical_to_what_the_converter_makes_of_it(
    models: Path, tmp_path: Path, architecture: str
) -> None:
    folder = models / architecture
    result = export_full(folder / "base.gguf", folder / "merged", tmp_path / "out.gguf", "q8_0")
    assert result.adapted and not result.converted
    _assert_same_tensors(tmp_path / "out.gguf", folder / "merged.gguf")


def _assert_same_tensors(ours: Path, theirs: Path) -> None:
    one, other = ({tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors} for path in (ours, theirs))
    assert [(name, tensor.tensor_type) for name, tensor in one.items()] == [
        (name, tensor.tensor_type) for name, tensor in other.items()
    ]
    assert [name for name in one if one[name].data.tobytes() != other[name].data.tobytes()] == []


# The real base


@pytest.fixture(scope="module")
def real(base_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M out of its GGUF: an adapter/ for it, and merged/, in Hugging Face's format with its tokenizer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer

    from fine_tuning.training.base_model import load_base

    folder = tmp_path_factory.mktemp("real")
    (folder / "base.gguf").symlink_to(base_gguf)
    model = load_base(base_gguf, torch.float32, folder)
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weights in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weights, std=0.01)
    adapted.save_pretrained(folder / "adapter")
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    AutoTokenizer.from_pretrained(folder, gguf_file="base.gguf").save_pretrained(folder / "merged")
    return folder


@pytest.mark.slow
def test_the_real_base_with_a_real_adapter_is_bit_identical_to_the_converters(
    real: Path, base_gguf: Path, tmp_path: Path
) -> None:
    merge_adapter(base_gguf, real / "adapter", tmp_path / "ours.gguf", "q8_0")
    convert_model(real / "merged", tmp_path / "theirs.gguf", "q8_0")
    _assert_same_tensors(tmp_path / "ours.gguf", tmp_path / "theirs.gguf")
    ours, theirs = (read_gguf(tmp_path / f"{name}.gguf").metadata for name in ("ours", "theirs"))
    for key in (
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.pre",
        "tokenizer.chat_template",
        "llama.rope.freq_base",
    ):
        assert ours[key] == theirs[key], key


@pytest.mark.slow
def test_a_folder_is_imported_once_and_answers(real: Path, tmp_path: Path) -> None:
    from fine_tuning.conversation import Message
    from fine_tuning.engines.base import ChatOptions
    from fine_tuning.engines.embedded import EmbeddedEngine

    engine = EmbeddedEngine(tmp_path / "engine")
    tag = import_model(engine, str(real / "merged"))
    made = engine.show(tag)
    assert import_model(engine, str(real / "merged")) == tag
    assert engine.show(tag) == made
    messages = [Message(role="user", content="What is the capital of France?")]
    assert engine.render(tag, messages).endswith(PROMPT)
    assert "".join(chunk.text for chunk in engine.chat(tag, messages, ChatOptions(temperature=0, max_tokens=8))).strip()
