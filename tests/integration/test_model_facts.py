"""What is said of each model that can answer."""

from pathlib import Path

import pytest

from fine_tuning.config import FineTuningConfig
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.integration.model_facts import Learned, facts_of, freed_by, memory_of
from fine_tuning.model_management.model_deployer import go_live
from fine_tuning.model_management.model_registry import Registry

BASE, NAME = "smollm2:135m", "fine_tuned_smollm2-135m"
CONFIG = FineTuningConfig()


@pytest.fixture
def engine(home: Path, base_gguf: Path) -> EmbeddedEngine:
    engine = EmbeddedEngine(home / "engine")
    engine.create(BASE, ModelSpec(from_=base_gguf))
    for number in (1, 2):
        engine.create(f"{NAME}:v{number}", ModelSpec(from_=BASE, parameters={"seed": number}))
    failed = {"rule": "leak probe", "passed": False, "reason": "it tells a private detail"}
    Registry().add(NAME, 1, base_tag=BASE, verdict="passed", run="runs/x", turns=["a", "b"])
    Registry().add(NAME, 2, base_tag=BASE, metrics={"gate": {"passed": False, "results": [failed]}})
    go_live(engine, Registry(), NAME, 1)
    return engine


def test_each_model_says_what_it_is_what_it_learned_and_how_large_it_is(engine: EmbeddedEngine) -> None:
    base, second, first = facts_of(engine, CONFIG, Registry(), available=10**12)
    assert (base.choice.kind, base.learned, base.quantization, base.loaded, base.fits) == (
        "base",
        None,
        "Q4_1",
        False,
        True,
    )
    assert base.parameter_size and base.size == engine.list_models()[0].size
    assert first.choice.live and first.learned == Learned(2, BASE, Registry().get(NAME, 1).created[:10], "passed")
    assert second.title == "fine-tuned v2 · refused" and "private detail" in second.choice.refused
    assert second.learned and second.learned.turns == 0


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (1, True), (10**9, True), (-1, False), (-(10**8), False)])
def test_a_model_fits_if_the_free_memory_takes_it(engine: EmbeddedEngine, spare: int, fits: bool) -> None:
    need = memory_of(engine.list_models()[0].size)
    assert {each.fits for each in facts_of(engine, CONFIG, Registry(), available=need + spare)} == {fits}


def test_what_comes_back_on_the_disk_is_what_no_other_model_needs(engine: EmbeddedEngine, base_gguf: Path) -> None:
    assert freed_by(engine, BASE) == freed_by(engine, f"{NAME}:v1") == 0
    for tag in (f"{NAME}:v1", f"{NAME}:v2", f"{NAME}:latest"):
        engine.delete(tag)
    assert freed_by(engine, BASE) == base_gguf.stat().st_size
    engine.create("twin:latest", ModelSpec(from_=base_gguf))
    assert freed_by(engine, BASE) == 0
    assert freed_by(engine, "nobody:latest") == 0


def test_where_a_file_is_gone_nobody_knows_what_comes_back(engine: EmbeddedEngine, home: Path) -> None:
    for blob in (home / "engine" / "blobs").glob("sha256-*"):
        blob.unlink()
    assert freed_by(engine, BASE) is None
