from pathlib import Path

import pytest

from fine_tuning.engines.gguf_header import check_adapter, check_model, read_header
from fine_tuning.errors import EngineError


def test_the_header_says_what_llama_cpp_says(base_gguf: Path) -> None:
    from llama_cpp import Llama

    llama = Llama(str(base_gguf), vocab_only=True, verbose=False)
    header = read_header(base_gguf)
    assert header.chat_template == llama.metadata["tokenizer.chat_template"]
    assert header.architecture == llama.metadata["general.architecture"] == "llama"
    assert header.context_length == int(llama.metadata["llama.context_length"]) == 8192
    assert header.metadata["llama.rope.freq_base"] == float(llama.metadata["llama.rope.freq_base"])
    assert header.metadata["tokenizer.ggml.add_bos_token"] is False
    assert header.bos_token == llama._model.token_get_text(llama.token_bos()) == "<|im_start|>"
    assert header.eos_token == llama._model.token_get_text(llama.token_eos()) == "<|im_end|>"
    llama.close()


def test_size_quantization_and_shapes_are_read(base_gguf: Path) -> None:
    header = read_header(base_gguf)
    assert (header.parameter_size, header.quantization, header.is_adapter) == ("134.52M", "Q4_1", False)
    assert len(header.tensors) == 272
    assert header.tensors["token_embd.weight"] == (576, 49152)
    assert header.tensors["blk.0.attn_k.weight"] == (576, 192)


@pytest.mark.parametrize("length", [0, 3, 100, 5000, 1_000_000])
def test_a_file_that_ends_in_its_header_is_called_damaged(base_gguf: Path, tmp_path: Path, length: int) -> None:
    cut = tmp_path / "cut.gguf"
    with base_gguf.open("rb") as file:
        cut.write_bytes(file.read(length))
    with pytest.raises(EngineError, match=r"cut\.gguf is not a complete GGUF file"):
        read_header(cut)


def test_another_kind_of_file_and_a_missing_one_are_named(tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(EngineError, match="does not begin with GGUF"):
        read_header(other)
    with pytest.raises(EngineError, match=r"missing\.gguf: No such file"):
        read_header(tmp_path / "missing.gguf")


def test_a_replaced_file_is_read_anew(base_gguf: Path, make_adapter, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.symlink_to(base_gguf)
    assert not read_header(path).is_adapter
    path.unlink()
    path.symlink_to(make_adapter(0.0))
    assert read_header(path).is_adapter


def test_adapters_are_checked_against_their_base(base_gguf: Path, make_adapter) -> None:
    base, good = read_header(base_gguf), read_header(make_adapter(0.0))
    check_adapter(good, base)
    check_adapter(good, None)
    with pytest.raises(EngineError, match="was not trained on this base"):
        check_adapter(read_header(make_adapter(0.0, rows=64)), base)
    with pytest.raises(EngineError, match="adapter for a qwen2 model, but the base is a llama model"):
        check_adapter(read_header(make_adapter(0.0, arch="qwen2")), base)
    with pytest.raises(EngineError, match="is not a LoRA adapter"):
        check_adapter(base, base)
    with pytest.raises(EngineError, match="is an adapter, but the weights of a model are needed"):
        check_model(good)
