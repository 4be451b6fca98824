"""What the engine tests share: LoRA adapters made for the real base."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lora import write_lora

MakeAdapter = Callable[..., Path]


@pytest.fixture(scope="session")
def make_adapter(tmp_path_factory: pytest.TempPathFactory) -> MakeAdapter:
    """make_adapter(scale, rows=576, arch="llama"): a LoRA on every layer's q projection of
    SmolLM2-135M; scale 0 changes nothing.
    """

    def make(scale: float, rows: int = 576, arch: str = "llama") -> Path:
        path, noise = tmp_path_factory.mktemp("adapter") / "adapter.gguf", np.random.default_rng(0)
        shapes = {f"blk.{layer}.attn_q": ((4, rows), (576, 4)) for layer in range(30)}
        matrices = {
            name: (noise.standard_normal(a), scale * noise.standard_normal(b)) for name, (a, b) in shapes.items()
        }
        return write_lora(path, matrices, alpha=4.0, arch=arch)

    return make


OWN_TEMPLATE = "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}[assistant]"


@pytest.fixture(scope="session")
def own_template_gguf(base_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with a chat template that is in nobody's list; a comment keeps its length, so that
    nothing else in the file moves.
    """
    from fine_tuning.engines.gguf_header import read_header

    template = read_header(base_gguf).chat_template
    assert template is not None
    filler = "{#" + "x" * (len(template) - len(OWN_TEMPLATE) - 4) + "#}"
    path = tmp_path_factory.mktemp("own") / "own.gguf"
    path.write_bytes(base_gguf.read_bytes().replace(template.encode(), (OWN_TEMPLATE + filler).encode(), 1))
    return path
