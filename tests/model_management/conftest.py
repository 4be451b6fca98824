"""Both engines, with the real base in them."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import BASE

from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.model_management.model_registry import Registry

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=["embedded", pytest.param("ollama", marks=pytest.mark.engine)])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, base_gguf: Path
) -> Iterator[Engine]:
    """With `BASE` in it; what the tests make is gone afterwards."""
    engine: Engine
    if request.param == "embedded":
        from fine_tuning.engines.embedded import EmbeddedEngine

        engine = EmbeddedEngine(tmp_path_factory.mktemp("engine"))
    else:
        from fine_tuning.engines.ollama import OllamaEngine

        engine = OllamaEngine(request.getfixturevalue("ollama_url"))
    engine.create(BASE, ModelSpec(from_=base_gguf, parameters={"stop": ["<|im_start|>", "<|im_end|>"]}))
    yield engine
    for model in engine.list_models():
        if model.tag.startswith(("deploy-", "fine_tuned_deploy")):
            engine.delete(model.tag)


@pytest.fixture
def name() -> str:
    """Of a fine-tuned model that no other test uses."""
    return f"fine_tuned_deploy{next(_numbers)}"


@pytest.fixture
def registry(home: Path) -> Registry:
    return Registry()
