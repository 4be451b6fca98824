"""A Llama small enough to train in a unit test, and token rows for it."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from token_rows import VOCABULARY, random_rows

from fine_tuning.training import hardware
from fine_tuning.training.fast import matmul


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads that wait for each other take longer than the tiny model's sums. What is drawn is the same every time."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    if not request.node.get_closest_marker("slow"):
        torch.set_num_threads(1)
        monkeypatch.setattr(hardware, "THREADS", 1)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def one_arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a unit test computes is not what a probe of this machine finds faster."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(hardware, "_faster_dtype", lambda library: torch.float32)
        monkeypatch.setattr(matmul, "_faster", lambda: "blas")
    yield
    matmul.use("blas")


_gemm_flops = cache(hardware.gemm_flops)


@pytest.fixture(autouse=True)
def one_speed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's speed, which every training is told beside, is measured once for all unit tests."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(hardware, "gemm_flops", _gemm_flops)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 2-layer Llama in Hugging Face format."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    folder = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def row_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, count, seed in (("train", 22, 1), ("validation", 4, 2), ("replay", 6, 3)):
        lines = [json.dumps(row) for row in random_rows(count, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder
