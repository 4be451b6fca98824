"""What the engine tests share: LoRA adapters made for the real base."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

MakeAdapter = Callable[..., Path]


@pytest.fixture(scope="session")
def make_adapter(tmp_path_factory: pytest.TempPathFactory) -> MakeAdapter:
    """make_adapter(scale, rows=576, arch="llama"): a LoRA on every layer's q projection of SmolLM2-135M; scale 0 changes nothing."""

    def make(scale: float, rows: int = 576, arch: str = "llama") -> Path:
        from gguf import GGUFWriter

        path = tmp_path_factory.mktemp("adapter") / "adapter.gguf"
        noise = np.random.default_rng(0)
        writer = GGUFWriter(path, arch)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", 4.0)
        for layer in range(30):
            writer.add_tensor(f"blk.{layer}.attn_q.weight.lora_a", noise.standard_normal((4, rows), dtype=np.float32))
            writer.add_tensor(f"blk.{layer}.attn_q.weight.lora_b", scale * noise.standard_normal((576, 4), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return make


OWN_TEMPLATE = "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}[assistant]"


@pytest.fixture(scope="session")
def own_template_gguf(base_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with a chat template that is in nobody's list; a comment keeps its length, so that nothing else in the file moves."""
    from fine_tuning.engines.gguf_header import read_header

    template = read_header(base_gguf).chat_template
    assert template is not None
    filler = "{#" + "x" * (len(template) - len(OWN_TEMPLATE) - 4) + "#}"
    path = tmp_path_factory.mktemp("own") / "own.gguf"
    path.write_bytes(base_gguf.read_bytes().replace(template.encode(), (OWN_TEMPLATE + filler).encode(), 1))
    return path
