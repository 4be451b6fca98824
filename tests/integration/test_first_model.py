"""The first model: what is said where none is whole, and the job that fetches one, without Ollama."""

from pathlib import Path

import pytest
from own_ollama import OwnOllama

from fine_tuning.cli.main import main
from fine_tuning.config import FineTuningConfig
from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatOptions, ModelSpec
from fine_tuning.engines.default_base import DEFAULT_TAG
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.integration import first_model
from fine_tuning.integration.ollama_integration import answering, look
from fine_tuning.integration.service import Service
from fine_tuning.jobs.store import State

VERSION = "fine_tuned_smollm2-135m:v1"


@pytest.fixture
def shelf(embedded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base_gguf: Path) -> Path:
    """A cache that holds the base, and no network."""
    folder = tmp_path / "cache" / "byoai" / "models"
    folder.mkdir(parents=True)
    (folder / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(base_gguf.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


def fetched(service: Service) -> None:
    job = first_model.fetch(service, "test")
    assert service.queue.wait(job.id, 60).state == State.COMPLETED, service.queue.get(job.id).reason


def says_something(engine: EmbeddedEngine, tag: str) -> bool:
    options = ChatOptions(temperature=0, max_tokens=4)
    return bool("".join(chunk.text for chunk in engine.chat(tag, [Message(role="user", content="Hello!")], options)))


def test_without_any_model_one_sentence_says_so_and_one_job_brings_the_base(shelf: Path) -> None:
    service = Service(FineTuningConfig())
    now = service.models()
    assert now.missing == first_model.missing() and now.default is None
    assert first_model.fetch(service, "a page").id == first_model.fetch(service, "another page").id
    fetched(service)
    now = service.models()
    assert now.missing == "" and now.default and now.default.tag == DEFAULT_TAG
    assert says_something(EmbeddedEngine(), DEFAULT_TAG)


@pytest.mark.parametrize("harm", ["cut off", "no model at all", "gone"])
def test_a_base_that_is_damaged_counts_as_missing_and_is_mended_with_what_was_made_of_it(
    shelf: Path, home: Path, harm: str
) -> None:
    service, engine = Service(FineTuningConfig()), EmbeddedEngine()
    fetched(service)
    engine.create(VERSION, ModelSpec(from_=DEFAULT_TAG, parameters={"seed": 1}))
    (blob,) = (home / "engine" / "blobs").iterdir()
    whole = blob.read_bytes()
    blob.unlink()
    if harm != "gone":
        blob.write_bytes(whole[: len(whole) // 2] if harm == "cut off" else b"no model")
    now = look(engine, service.config)
    assert now.found == () and now.missing == first_model.missing(damaged=True) and "damaged" in now.missing
    fetched(service)
    assert [choice.tag for choice in look(engine, service.config).found] == [DEFAULT_TAG, VERSION]
    assert says_something(engine, VERSION)


def test_a_download_that_fails_names_the_command(shelf: Path) -> None:
    next(shelf.iterdir()).unlink()
    service = Service(FineTuningConfig())
    job = service.queue.wait(first_model.fetch(service, "test").id, 60)
    assert job.state == State.FAILED
    assert "cannot download the base model" in job.reason and "`byoai prepare`" in job.reason


def test_the_terminal_names_the_same_command(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert "There is no model yet: `byoai prepare` gets a small one" in capsys.readouterr().out
    main(["doctor"])
    said = capsys.readouterr().out
    assert (
        f"base: The embedded engine has no model {DEFAULT_TAG}" in said
        and "`byoai prepare` fetches the default" in said
    )
    assert main(["prepare"]) == 0
    assert f"model:  {DEFAULT_TAG}" in capsys.readouterr().out


def test_who_is_asked_without_a_model_fetches_it_first(shelf: Path, home: Path) -> None:
    engine = EmbeddedEngine()
    assert answering(engine, FineTuningConfig()) == DEFAULT_TAG
    (blob,) = (home / "engine" / "blobs").iterdir()
    blob.unlink()
    blob.write_bytes(b"no model")
    assert answering(engine, FineTuningConfig()) == DEFAULT_TAG and says_something(engine, DEFAULT_TAG)


@pytest.mark.engine
def test_an_ollama_that_is_empty_or_has_a_damaged_base_gets_it_whole(shelf: Path, own_ollama: OwnOllama) -> None:
    engine = own_ollama.start()
    service = Service(FineTuningConfig(), engine.where)
    assert service.models().missing == first_model.missing()
    fetched(service)
    blob = engine.show(DEFAULT_TAG).gguf
    whole = blob.read_bytes()
    blob.write_bytes(whole[: len(whole) // 2])
    assert service.models().missing == first_model.missing(damaged=True)
    fetched(service)
    assert service.models().missing == "" and engine.show(DEFAULT_TAG).gguf.read_bytes() == whole
