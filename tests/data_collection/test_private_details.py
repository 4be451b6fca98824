"""How well private details are found, on what the benchmark plants, and how seldom in code."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "privacy.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("privacy_benchmark", BENCHMARK)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["privacy_benchmark"] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("split", ["tuning", "held out"])
def test_recall_and_precision_are_above_95_percent_for_each_locale_and_kind(benchmark: ModuleType, split: str) -> None:
    scores = benchmark.in_sentences(split, seed=31)
    assert len([name for name in scores.by if name in benchmark.LOCALES]) == 11
    for name, score in scores.by.items():
        assert score.found >= 0.95 * score.planted, f"{name}: {score}"
        assert score.found >= 0.95 * (score.found + score.false), f"{name}: {score}"


@pytest.mark.parametrize("form", ["{}", "```python\n{}\n```"])
def test_code_holds_at_most_one_false_find_in_1000_lines(benchmark: ModuleType, form: str) -> None:
    lines, _, false = benchmark.in_code(benchmark.library_files(tuning=False)[:60], form)
    assert lines > 10_000
    assert 1000 * sum(false.values()) <= lines
