"""The switch in the side bar and its dialog, without a browser."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from chatbot.parts import model_picker
from chatbot.server import APP, service
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.events import Count, Stage, events_to
from fine_tuning.integration.model_facts import Learned, ModelFacts
from fine_tuning.jobs import store
from fine_tuning.jobs.processes import this_process
from fine_tuning.jobs.store import State
from fine_tuning.model_management.model_deployer import go_live
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.model_management.model_switcher import Choice

BASE, NAME = "smollm2:135m", "fine_tuned_smollm2-135m"


@pytest.fixture
def engine(fresh_app: None, home: Path, base_gguf: Path) -> EmbeddedEngine:
    engine = EmbeddedEngine(home / "engine")
    engine.create(BASE, ModelSpec(from_=base_gguf))
    return engine


def with_version(engine: EmbeddedEngine) -> None:
    engine.create(f"{NAME}:v1", ModelSpec(from_=BASE, parameters={"seed": 1}))
    Registry().add(NAME, 1, base_tag=BASE, verdict="better", turns=["a", "b"])
    go_live(engine, Registry(), NAME, 1)


def opened() -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=120).run()
    app.button(key="models-open").click().run()
    assert not app.exception
    return app


def said(app: AppTest) -> str:
    return "\n".join(each.value for each in [*app.markdown, *app.caption, *app.info, *app.warning])


def test_the_dialog_says_what_each_model_is_and_that_downloading_needs_ollama(engine: EmbeddedEngine) -> None:
    with_version(engine)
    told = said(opened())
    for each in (
        "Learned 2 answers on smollm2:135m",
        "Q4\\_1",
        "on disk",
        "fits into memory",
        "answers here",
        "Downloading needs Ollama",
    ):
        assert each in told, each


def test_a_model_that_is_picked_answers_and_picking_the_default_means_to_follow_it(engine: EmbeddedEngine) -> None:
    with_version(engine)
    app = opened()
    app.button(key=f"use-{BASE}").click().run()
    assert (app.session_state.picked, app.selectbox(key="tag").value) == (BASE, BASE)
    assert not app.session_state.dialog
    app.button(key="models-open").click().run()
    app.button(key=f"use-{NAME}:v1").click().run()
    assert (app.session_state.picked, app.selectbox(key="tag").value) == (None, f"{NAME}:v1")


def test_removing_asks_once_and_says_what_comes_back(engine: EmbeddedEngine, base_gguf: Path) -> None:
    engine.create("other:latest", ModelSpec(from_=BASE, parameters={"seed": 9}))
    app = opened()
    app.button(key="remove-other:latest").click().run()
    assert "other models use the same weights" in app.warning[0].value.replace("\\", "")
    app.button(key="keep-other:latest").click().run()
    assert not app.warning and len(engine.list_models()) == 2
    app.button(key="remove-other:latest").click().run()
    app.button(key="really-other:latest").click().run()
    assert [model.tag for model in engine.list_models()] == [BASE]
    app.button(key=f"remove-{BASE}").click().run()
    assert "98.4 MB are freed on the disk" in app.warning[0].value.replace("\\", "")


def test_a_version_is_not_removed_here(engine: EmbeddedEngine) -> None:
    with_version(engine)
    assert f"remove-{NAME}:v1" not in {button.key for button in opened().button}


def facts(**changes: object) -> ModelFacts:
    known: dict[str, object] = {
        "choice": Choice("a:latest", "a", "base"),
        "title": "a · base",
        "size": 1_000_000_000,
        "parameter_size": "1B",
        "quantization": "Q4_0",
        "memory": 1_400_000_000,
        "loaded": False,
        "fits": True,
        "learned": None,
    }
    return ModelFacts(**{**known, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "1B parameters · Q4_0 · 1.0 GB on disk · fits into memory (about 1.4 GB)"),
        ({"loaded": True}, "1B parameters · Q4_0 · 1.0 GB on disk"),
        ({"fits": None}, "1B parameters · Q4_0 · 1.0 GB on disk"),
        ({"parameter_size": "", "quantization": "", "loaded": True}, "1.0 GB on disk"),
        ({"fits": False, "parameter_size": ""}, "does not fit into memory now: it takes about 1.4 GB"),
    ],
)
def test_measures_are_told_in_plain_words(changes: dict[str, object], told: str) -> None:
    assert told in " · ".join(model_picker.measures(facts(**changes)))


@pytest.mark.parametrize(
    ("known", "told"),
    [
        (None, ""),
        (Learned(1, "b", "2026-05-04", ""), "Learned 1 answer on b, made on 2026-05-04"),
        (Learned(12, "", "2026-05-04", "better"), "Learned 12 answers, made on 2026-05-04. Better"),
        (Learned(0, "b", "2026-05-04", ""), "Learned unknown data on b, made on 2026-05-04"),
    ],
)
def test_what_was_learned_is_told_in_plain_words(known: Learned | None, told: str) -> None:
    assert model_picker.learned(facts(learned=known)) == told


@pytest.mark.parametrize(
    ("state", "done", "total", "told"),
    [
        (State.QUEUED, 0, 0, "a waits for its turn"),
        (State.RUNNING, 0, 0, "a: asking the library"),
        (State.RUNNING, 1_000_000, 5_000_000_000, "a: 1.0 MB of 5.0 GB"),
        (State.CANCELLING, 1, 2, "a: stopping"),
    ],
)
def test_a_download_is_told_in_plain_words(state: State, done: int, total: int, told: str) -> None:
    assert model_picker.downloading("a", state, done, total) == told


def test_a_download_shows_how_far_it_is_and_can_be_cancelled(engine: EmbeddedEngine) -> None:
    job = store.add("pull", {"model": "qwen2.5:0.5b"}, here=this_process())
    with events_to(job.events) as tell:
        tell(Stage("Pulling qwen2.5:0.5b"))
        tell(Count(100_000_000, 400_000_000))
        app = AppTest.from_file(str(APP), default_timeout=120).run()
        (bar,) = app.sidebar.get("progress")
        assert bar.proto.text.replace("\\", "") == "qwen2.5:0.5b: 100.0 MB of 400.0 MB" and bar.proto.value == 25
        app.button(key=f"cancel-{job.id}-side bar").click().run()
        assert store.get(job.id).state == State.CANCELLING
        (bar,) = app.sidebar.get("progress")
        assert "stopping" in bar.proto.text
    store.finish(store.get(job.id), State.CANCELLED, "cancelled")
    assert not app.run().get("progress")


@pytest.fixture
def ollama(fresh_app: None, ollama_url: str, base_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], AppTest]:
    monkeypatch.delenv("BYOAI_ENGINE")
    monkeypatch.setenv("OLLAMA_HOST", ollama_url)
    return opened


@pytest.mark.engine
@pytest.mark.parametrize("name", ["", "../x", "two words", "a:b:c", "x" * 300])
def test_a_name_that_cannot_be_one_is_refused_at_once(ollama: Callable[[], AppTest], name: str) -> None:
    app = ollama()
    app.text_input(key="models-name").set_value(name)
    next(button for button in app.button if button.label == "Download").click().run()
    assert not app.exception
    assert "cannot name a model" in app.error[0].value.replace("\\", "")


@pytest.mark.engine
def test_a_download_that_fails_says_why(ollama: Callable[[], AppTest]) -> None:
    """No library can be reached from here, or it has no such model: both are told as Ollama tells them."""
    app = ollama()
    app.text_input(key="models-name").set_value("byoai-nobody/has-this:1b")
    next(button for button in app.button if button.label == "Download").click().run()
    (job,) = service().queue.jobs(kinds=["pull"])
    service().queue.wait(job.id, 120)
    app.run()
    assert "was not downloaded" in app.error[0].value.replace("\\", "")
