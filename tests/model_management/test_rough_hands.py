"""What somebody removed by hand, or killed, while a version was live or was being registered. On both engines."""

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from own_ollama import OwnOllama
from served import BASE, digests, make_version, write_adapter

from fine_tuning.config import FineTuningConfig
from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatOptions, Engine, ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import EngineError, ExportError
from fine_tuning.integration import ollama_integration
from fine_tuning.model_management import model_switcher
from fine_tuning.model_management.model_deployer import TRIAL, go_live, reconcile, register
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.runs import only_one


def config_of(name: str) -> FineTuningConfig:
    return FineTuningConfig().changed(
        {"deployment.model_name": name.removeprefix("fine_tuned_"), "training.base_model": BASE}
    )


def answers(engine: Engine, tag: str) -> str:
    chunks = engine.chat(
        tag, [Message(role="user", content="Name one colour.")], ChatOptions(temperature=0, max_tokens=4)
    )
    return "".join(chunk.text for chunk in chunks)


@pytest.fixture
def alone(engine: Engine, name: str) -> Iterator[None]:
    """No other test's version is live, and this one's is not afterwards."""
    yield
    for tag in digests(engine):
        if tag.startswith(f"{name}:"):
            engine.delete(tag)


TAG, LATEST, RUN, WEIGHTS = "tag", "latest", "run", "weights"


@pytest.mark.parametrize(
    ("gone", "said", "refused"),
    [
        ({LATEST}, "latest is gone from .*`byoai use v1` puts .*:v1 back in use", ""),
        ({TAG, LATEST}, ":v1 was live, and is gone from .*`byoai use v1` makes it again from its run", ""),
        (
            {TAG, LATEST, RUN},
            ":v1 was live, and is gone from .*so is its run, runs/.*`byoai use` puts another version",
            "cannot read .*Modelfile",
        ),
        ({TAG, LATEST, WEIGHTS}, "`byoai use v1` makes it again from its run", "adapter.gguf was deleted"),
        ({TAG}, "", ""),
        ({RUN}, "", ""),
        ({WEIGHTS}, "", ""),
        ({TAG, RUN}, "", "cannot read .*Modelfile"),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else "",
)
@pytest.mark.usefixtures("alone")
def test_a_live_version_that_was_removed_by_hand_is_said_and_use_brings_it_back_or_says_why_not(
    engine: Engine, name: str, registry: Registry, home: Path, gone: set[str], said: str, refused: str
) -> None:
    config, version = config_of(name), make_version(engine, registry, name, home)
    go_live(engine, registry, name, 1)
    before, run = digests(engine)[version.tag], home / version.run
    for tag in [f"{name}:latest"] * (LATEST in gone) + [version.tag] * (TAG in gone):
        engine.delete(tag)
    if RUN in gone:
        shutil.rmtree(run)
    if WEIGHTS in gone:
        (run / "adapter.gguf").unlink()

    now = ollama_integration.look(engine, config)
    assert re.search(said, now.lost) and bool(now.lost) == bool(said), now.lost
    assert now.default and now.default.tag == (BASE if said else f"{name}:latest" if TAG in gone else version.tag)
    if gone == {TAG, LATEST}:
        assert answers(engine, BASE)
    if refused:
        with pytest.raises(ExportError, match=refused):
            ollama_integration.use(engine, config, "v1")
        assert ollama_integration.look(engine, config).lost == now.lost
        return
    assert ollama_integration.use(engine, config, "v1").state == "live"
    assert digests(engine)[version.tag] == digests(engine)[f"{name}:latest"] == before
    assert ollama_integration.look(engine, config).lost == "" and reconcile(engine, registry, name) == []


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("embedded")
def test_use_and_rollback_while_a_retrain_makes_its_version_lose_nothing(home: Path, base_gguf: Path) -> None:
    """By commands in processes of their own, at each step with which a retrain ends. The last one
    who makes a version live has it.
    """
    engine, name, registry = EmbeddedEngine(home / "engine"), "fine_tuned_raced", Registry()
    engine.create(BASE, ModelSpec(from_=base_gguf))
    for number in (1, 2):
        make_version(engine, registry, name, home)
        go_live(engine, registry, name, number)

    def command(*words: str) -> None:
        run = [sys.executable, "-m", "fine_tuning", *words, "--name", name]
        done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr

    def agree(live: int) -> None:
        assert reconcile(engine, registry, name) == [] and model_switcher.live(engine, name) == live
        found = registry.live(name)
        assert found and found.number == live and not any(tag.endswith(TRIAL) for tag in digests(engine))

    with only_one("byoai retrain"):
        command("use", "1")
        agree(1)
        spec = ModelSpec(from_=BASE, adapter=write_adapter(home / "third.gguf", 3))
        registry.add(name, 3, base_tag=BASE)
        command("rollback")  # before its tag is there
        agree(2)
        register(engine, f"{name}:v3", spec)
        command("rollback")  # before it is live
        agree(1)
        assert model_switcher.use(engine, registry, name, 3).state == "live"
        agree(3)
        previous = registry.previous(name)
        assert previous and previous.number == 1  # who was live when it came, not when the retrain began
        command("use", "2")
        agree(2)
    command("rollback")
    agree(3)


# Ollama itself is killed


@pytest.mark.engine
@pytest.mark.timeout(300)
def test_ollama_killed_while_a_version_is_registered_leaves_no_half_of_one(
    own_ollama: OwnOllama, home: Path, tmp_path: Path, base_gguf: Path
) -> None:
    """At moments from the first byte to after the last: registry, tags and files agree after the
    next start, and the same is made again.
    """
    name, registry, engine = "fine_tuned_killed", Registry(), own_ollama.start()
    engine.create(BASE, ModelSpec(from_=base_gguf))
    make_version(engine, registry, name, home)
    go_live(engine, registry, name, 1)
    live, number, cut = digests(engine)[f"{name}:latest"], 2, 0
    spec = ModelSpec(from_=BASE, adapter=write_adapter(tmp_path / "first.gguf", 99))
    took = seconds(lambda: register(engine, f"{name}:v99", spec))
    engine.delete(f"{name}:v99")
    for moment in (0.2, 0.6, 1.0, 0.1, 0.05, 0.02):
        if cut and number > 4:  # else the first one took unusually long
            break
        spec = ModelSpec(from_=BASE, adapter=write_adapter(tmp_path / f"{number}.gguf", number))
        registry.add(name, number, base_tag=BASE)
        killing = threading.Timer(moment * took, own_ollama.kill)
        killing.start()
        try:
            register(engine, f"{name}:v{number}", spec)
        except EngineError:
            cut += 1
        killing.join()
        engine = own_ollama.start()
        assert all(finding.mended for finding in reconcile(engine, registry, name))
        there = digests(engine)
        assert there[f"{name}:latest"] == live and not any(tag.endswith(TRIAL) for tag in there)
        register(engine, f"{name}:v{number}", spec)  # as the resumed run does: the very same, or what was missing
        assert engine.show(f"{name}:v{number}").spec.adapter and registry.get(name, number).state == "candidate"
        number += 1
    assert cut and answers(engine, f"{name}:latest") and answers(engine, f"{name}:v{number - 1}")
    assert go_live(engine, registry, name, number - 1).state == "live" and reconcile(engine, registry, name) == []


def seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
