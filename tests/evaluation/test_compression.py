"""Quantisations of a tiny model, measured by llama.cpp."""

from pathlib import Path

import numpy as np
import pytest
import tiny_gguf as tiny

from fine_tuning.evaluation.compression import Scale
from fine_tuning.evaluation.speed import Served
from fine_tuning.model_management.gguf_export import convert_adapter, merge_adapter


@pytest.fixture(scope="module")
def rows() -> list[tuple[list[int], list[int]]]:
    chance = np.random.default_rng(3)
    texts = [[int(token) for token in chance.integers(1, tiny.VOCABULARY, size=24)] for _ in range(8)]
    return [(ids, list(range(6, len(ids)))) for ids in texts]


def test_each_is_measured_on_the_same_texts_beside_what_is_served_now(
    tmp_path: Path, rows: list[tuple[list[int], list[int]]]
) -> None:
    base = tiny.write_base(tmp_path / "base.gguf")
    tiny.write_adapter(tmp_path / "adapter")
    adapter = convert_adapter(base, tmp_path / "adapter", tmp_path / "adapter.gguf").path
    counted: list[tuple[int, int]] = []
    scale = Scale(Served("now", base, adapter), rows, 2, lambda done, total: counted.append((done, total)))
    found = {}
    for name in ("f32", "f16", "q8_0", "q4_0"):
        made = merge_adapter(base, tmp_path / "adapter", tmp_path / f"{name}.gguf", name)
        now, found[name] = scale.weigh(Served(name, made.path))
        assert found[name].size == made.size and now.size == base.stat().st_size + adapter.stat().st_size
        assert (now.faster, now.worse.value) == (1.0, 1.0)
    assert counted[-1] == (2, 2)
    sizes = [each.size for each in found.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert found["f32"].worse.value == pytest.approx(1, abs=1e-3)  # the very same weights
    off = {name: abs(each.worse.value - 1) for name, each in found.items()}
    assert off["f32"] <= off["f16"] + 1e-4 and off["f16"] < off["q4_0"] and off["q8_0"] < off["q4_0"]
    for each in found.values():
        assert each.worse.low <= each.worse.value <= each.worse.high
        assert each.perplexity > 1 and each.speed > 0 and each.prompt_speed > 0
