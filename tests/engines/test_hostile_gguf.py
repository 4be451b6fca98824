"""Any bytes are a GGUF or an EngineError: nothing that a file claims is believed before it is checked."""

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.engines.gguf_file import read_gguf
from fine_tuning.engines.gguf_header import check_model, read_header
from fine_tuning.errors import EngineError, ExportError, TrainingError
from fine_tuning.training.model_shape import shape_of
from tests.tiny_gguf import write_base


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def head(*entries: bytes, keys: int | None = None, tensors: int = 0, rest: bytes = b"") -> bytes:
    """A GGUF of version 3 with these metadata entries."""
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, len(entries) if keys is None else keys) + b"".join(entries) + rest


def string(key: str, value: str) -> bytes:
    return text(key) + struct.pack("<I", 8) + text(value)


def number(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


def nested(depth: int) -> bytes:
    return text("deep") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQB", 0, 1, 7)


def tensor(*shape: int, name: str = "token_embd.weight", kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HOSTILE = {
    "3,000 nested arrays": head(nested(3_000)),
    "5 nested arrays": head(nested(5)),
    "a text of 2^64-1 bytes": head(text("general.name") + struct.pack("<IQ", 8, 2**64 - 1), rest=bytes(64)),
    "a key of 2^63 bytes": head(struct.pack("<Q", 2**63), rest=bytes(64)),
    "2^64-1 keys": head(keys=2**64 - 1),
    "2^64-1 tensors": head(tensors=2**64 - 1),
    "an array of 2^62 numbers": head(text("a") + struct.pack("<IIQ", 9, 12, 2**62)),
    "an array of 2^40 texts": head(text("a") + struct.pack("<IIQ", 9, 8, 2**40), rest=bytes(64)),
    "a text in an array that ends beyond the file": head(text("a") + struct.pack("<IIQQ", 9, 8, 1, 2**64 - 1)),
    "a value of an unknown type": head(text("a") + struct.pack("<I", 99)),
    "an array of an unknown type": head(text("a") + struct.pack("<IIQ", 9, 99, 1)),
    "an alignment of 0": head(number("general.alignment", 0)),
    "an alignment of 48": head(number("general.alignment", 48)),
    "an alignment of 2^31": head(number("general.alignment", 2**31)),
    "a text as alignment": head(string("general.alignment", "32")),
    "a text as split count": head(string("split.count", "two")),
    "a number as architecture": head(number("general.architecture", 7)),
    "a number as chat template": head(number("tokenizer.chat_template", 7)),
    "a text as context length": head(string("general.architecture", "llama"), string("llama.context_length", "long")),
    "an infinite context length": head(
        string("general.architecture", "llama"), text("llama.context_length") + struct.pack("<If", 6, float("inf"))
    ),
    "a text as begin token": head(string("tokenizer.ggml.bos_token_id", "first")),
    "a float as end token": head(text("tokenizer.ggml.eos_token_id") + struct.pack("<If", 6, 1.5)),
    "a text as tokens": head(string("tokenizer.ggml.tokens", "a b c"), number("tokenizer.ggml.bos_token_id", 0)),
    "numbers as tokens": head(
        text("tokenizer.ggml.tokens") + struct.pack("<IIQI", 9, 4, 1, 5), number("tokenizer.ggml.bos_token_id", 0)
    ),
    "a key twice": head(number("general.file_type", 0), number("general.file_type", 1)),
    "a tensor twice": head(tensors=2, rest=tensor(4, 4) * 2 + bytes(128)),
    "a tensor without dimensions": head(tensors=1, rest=tensor() + bytes(64)),
    "a tensor of five dimensions": head(tensors=1, rest=tensor(1, 1, 1, 1, 1) + bytes(64)),
    "a tensor of 2^32-1 dimensions": head(tensors=1, rest=text("t") + struct.pack("<I", 2**32 - 1) + bytes(64)),
    "a tensor with an empty dimension": head(tensors=1, rest=tensor(4, 0) + bytes(64)),
    "a tensor of more weights than there are numbers": head(tensors=1, rest=tensor(2**40, 2**40) + bytes(64)),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_header_that_claims_the_impossible_is_an_engine_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"hostile\.gguf is not a complete GGUF file \(.+\)"):
        read_header(path)
    with pytest.raises(ExportError, match=r"hostile\.gguf is not a complete GGUF file"):
        read_gguf(path)


@pytest.mark.parametrize("offset", [2**20, 2**63, 2**64 - 1])
def test_weights_that_lie_beyond_the_file_are_refused(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "beyond.gguf"
    path.write_bytes(
        head(string("general.architecture", "llama"), tensors=1, rest=tensor(4, 4, offset=offset) + bytes(512))
    )
    with pytest.raises(EngineError, match="ends before its last weights"):
        check_model(read_header(path))
    with pytest.raises(ExportError, match="ends before its last weights"):
        read_gguf(path)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_no_damage_raises_anything_but_our_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    source = folder / "tiny.gguf"
    content = bytearray(source.read_bytes() if source.exists() else write_base(source).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, 2_000))  # within the header
        new = data.draw(
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.sampled_from([b"\xff" * 8, bytes(8), b"\x09\0\0\0", b"\x08\0\0\0"]),
            )
        )
        content[where : where + len(new)] = new
    damaged = folder / "damaged.gguf"
    damaged.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2, 500]))])
    try:
        header = read_header(damaged)
        assert all(
            isinstance(fact, str)
            for fact in (header.architecture, header.quantization, header.parameter_size, header.bos_token)
        )
        assert header.context_length >= 0 and header.alignment >= 1
        shape_of(read_gguf(damaged))
    except (EngineError, ExportError, TrainingError) as error:
        assert str(damaged) in str(error)


@pytest.mark.parametrize("lost", [1, 100, 4_096])
def test_the_embedded_engine_takes_no_file_that_ends_in_its_weights(tmp_path: Path, lost: int) -> None:
    whole = write_base(tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[:-lost])
    engine = EmbeddedEngine(tmp_path / "engine")
    with pytest.raises(EngineError, match=r"cut\.gguf ends before its last weights"):
        engine.create("cut:v1", ModelSpec(from_=cut))
    assert engine.list_models() == []


def test_an_adapter_that_ends_in_its_weights_is_refused(
    tmp_path: Path, base_gguf: Path, make_adapter: Callable[[float], Path]
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(make_adapter(0.0).read_bytes()[:-64])
    engine = EmbeddedEngine(tmp_path / "engine")
    with pytest.raises(EngineError, match=r"cut\.gguf ends before its last weights"):
        engine.create("cut:v1", ModelSpec(from_=base_gguf, adapter=cut))


def test_paths_may_be_texts(tmp_path: Path) -> None:
    path = write_base(tmp_path / "tiny.gguf")
    assert read_header(str(path)) == read_header(path)
    assert read_gguf(str(path)).starts == read_gguf(path).starts


def test_where_weights_lie_is_what_gguf_says(tmp_path: Path) -> None:
    path = write_base(tmp_path / "tiny.gguf")
    header = read_header(path)
    for tensor in gguf.GGUFReader(path).tensors:
        assert header.starts[tensor.name] == tensor.data_offset
        assert header.tensors[tensor.name] == tuple(np.array(tensor.shape).tolist())
        assert header.kinds[tensor.name] == tensor.tensor_type
