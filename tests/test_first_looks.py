"""What a retrain will need in the end is looked at before anything is computed; on the embedded
engine with the real base.
"""

from pathlib import Path

import numpy as np
import pytest
from lora import write_lora

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import ByoaiError, Cancelled, ConfigError, EngineError, ExportError, ModelNotOurs
from fine_tuning.events import Event, Stage, Watch
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.pipeline import retrain
from fine_tuning.planning import make_plan
from fine_tuning.sweeping import sweep
from fine_tuning.workshop import Request, Workshop

BASE = "smollm2:135m"
LONG = "hf.co/bartowski/DeepSeek-R1-Distill-Qwen-1.5B-GGUF-with-a-very-very-long-name:Q4_K_M"


def write_adapter(path: Path) -> Path:
    """A LoRA on the first layer's q projection of the base, which changes nothing."""
    return write_lora(path, {"blk.0.attn_q": (np.zeros((1, 576)), np.zeros((576, 1)))})


@pytest.fixture
def engine(home: Path, base_gguf: Path, known_machine: None) -> Engine:
    engine = EmbeddedEngine()
    engine.create(BASE, ModelSpec(from_=base_gguf))
    log = ConversationLogger()
    for number in range(8):
        log.log_conversation(
            f"Which door has the number {number} here?", f"Door {number} is the one with the blue frame."
        )
    return engine


def settings(**changes: object) -> FineTuningConfig:
    return load_config(overrides={key.replace("__", "."): value for key, value in changes.items()})


def tags(engine: Engine) -> dict[str, str]:
    return {model.tag: model.digest for model in engine.list_models()}


def refused(engine: Engine, config: FineTuningConfig, error: type[ByoaiError], said: str) -> None:
    """By `retrain`, and by all that begins as it does, before anything was made."""
    before = tags(engine)
    for act in (retrain, sweep):
        with pytest.raises(error, match=said):
            act(config, engine, None, Request(force=True))
    if error is not ByoaiError:  # what cannot be written is looked at by what writes
        with pytest.raises(error, match=said):
            make_plan(Workshop(config, engine))
    assert tags(engine) == before
    assert not list(paths.home().glob("runs/*")) and not list(paths.home().glob("datasets/*"))


def test_the_bases_own_name_is_never_taken(engine: Engine) -> None:
    engine.copy(BASE, "smol:latest")
    config = settings(training__base_model="smol", deployment__model_name_prefix="smo", deployment__model_name="l")
    refused(engine, config, ModelNotOurs, "same name as its base, smol:latest")


@pytest.mark.parametrize("prefix", ["", " ", "my bot ", "a/b", "..", "é", "a\0", "a" * 200])
def test_a_prefix_that_tells_nothing_apart_is_refused_with_the_configuration(prefix: str) -> None:
    with pytest.raises(ConfigError, match=r"deployment\.model_name_prefix: must be|contains a control"):
        settings(deployment__model_name_prefix=prefix)


def test_a_model_of_somebody_else_under_the_name_is_not_written_over(engine: Engine) -> None:
    engine.create("fine_tuned_mine:latest", ModelSpec(from_=BASE, parameters={"seed": 1}))
    refused(engine, settings(deployment__model_name="mine"), ModelNotOurs, "not a version that byoai made")


def test_a_base_that_is_an_adapter_on_another_is_refused(engine: Engine, tmp_path: Path) -> None:
    engine.create("adapted:v1", ModelSpec(from_=BASE, adapter=write_adapter(tmp_path / "adapter.gguf")))
    refused(engine, settings(training__base_model="adapted:v1"), EngineError, "is itself an adapter on another model")


def test_a_base_that_no_modelfile_can_describe_is_refused(engine: Engine) -> None:
    engine.create("quoted:v1", ModelSpec(from_=BASE, system='"""\nsay """ and "'))
    refused(
        engine,
        settings(training__base_model="quoted:v1", deployment__mode="merged"),
        ExportError,
        "Modelfile|cannot be",
    )


def test_an_unknown_quantization_is_refused(engine: Engine) -> None:
    refused(
        engine,
        settings(deployment__mode="merged", deployment__quantization="q3"),
        ExportError,
        "unknown quantization 'q3'",
    )


@pytest.mark.parametrize("name", ["runs", "datasets", "retrain.lock", "state.db"])
def test_a_place_that_cannot_be_written_is_named(engine: Engine, home: Path, name: str) -> None:
    if name in ("runs", "datasets"):
        (home / name).write_text("in the way")
    else:
        (home / name).mkdir()
    refused(engine, settings(), ByoaiError, rf"{home}")


def test_an_engine_that_cannot_make_a_model_is_named_before_the_training(engine: Engine, home: Path) -> None:
    (home / "engine" / ".lock").unlink(missing_ok=True)
    (home / "engine" / ".lock").mkdir()  # also root cannot write to that
    with pytest.raises(EngineError, match="cannot write to"):
        retrain(settings(), engine, None, Request(force=True))
    assert not list(home.glob("runs/*")) and not list(home.glob("datasets/*"))
    assert make_plan(Workshop(settings(), engine)).kept_turns == 8  # which makes none


@pytest.mark.parametrize("base", [LONG, BASE, "Some.Model:V1"])
def test_any_base_gets_as_far_as_the_training_and_leaves_no_trial_behind(engine: Engine, home: Path, base: str) -> None:
    if base != BASE:
        engine.copy(BASE, base)
    told: list[Event] = []
    trains = Stage("Training")
    before, config = tags(engine), settings(training__base_model=base)
    with pytest.raises(Cancelled):
        retrain(config, engine, Watch(told.append, lambda: trains in told), Request(force=True))
    assert trains in told and tags(engine) == before
    assert len(list(home.glob("runs/*"))) == 1
    assert Registry().list() == ()
