"""What the page says when nobody can answer, without a browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit
from streamlit.testing.v1 import AppTest

from chatbot import server
from chatbot.server import APP
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.model_management.model_registry import Registry


@pytest.fixture(autouse=True)
def fresh(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another test's engine and configuration must not be remembered."""
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    server._default_service.cache_clear()
    streamlit.cache_resource.clear()
    streamlit.cache_data.clear()
    yield
    streamlit.cache_resource.clear()
    streamlit.cache_data.clear()


def run() -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=30).run()
    assert not app.exception
    return app


def test_an_unreachable_engine_is_named_with_its_cure_and_no_question_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYOAI_ENGINE", "ollama")
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")  # the discard port: nothing listens
    app = run()
    assert "127.0.0.1:9" in app.error[0].value
    assert [button.label for button in app.button if not button.disabled] == ["Look again"]
    assert app.chat_input[0].disabled


def test_looking_again_finds_the_engine_that_is_there_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYOAI_ENGINE", "ollama")
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    app = run()
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    next(button for button in app.button if button.label == "Look again").click().run()
    assert not app.error
    assert "start.sh" in app.info[0].value  # an engine, and no model yet


def test_the_switch_names_base_version_and_live_and_counts_what_is_not_learned(home: Path, base_gguf: Path) -> None:
    engine = EmbeddedEngine(home / "engine")
    engine.create("smollm2:135m", ModelSpec(from_=base_gguf))
    for number in (1, 2):
        engine.create(f"fine_tuned_smollm2-135m:v{number}", ModelSpec(from_="smollm2:135m", parameters={"seed": number}))
    engine.copy("fine_tuned_smollm2-135m:v1", "fine_tuned_smollm2-135m:latest")
    logger = ConversationLogger()
    learned = logger.log_conversation("Where is the key?", "Under the mat.")
    logger.log_conversation("Which mat?", "The blue one.")
    Registry().add("fine_tuned_smollm2-135m", 1, turns=[learned.id])
    app = run()
    (switch,) = app.selectbox
    assert switch.options == ["smollm2:135m · base", "fine-tuned v2", "fine-tuned v1 · live"]
    assert app.chat_input[0].placeholder == "Message fine-tuned v1 · live"
    assert "**2** turns recorded, **1** not yet learned" in [text.value for text in app.markdown]


def test_a_version_that_the_gate_refused_says_why_when_it_is_chosen(home: Path, base_gguf: Path) -> None:
    engine = EmbeddedEngine(home / "engine")
    engine.create("smollm2:135m", ModelSpec(from_=base_gguf))
    engine.create("fine_tuned_smollm2-135m:v1", ModelSpec(from_="smollm2:135m"))
    failed = {"rule": "leak probe", "passed": False, "reason": "it tells a private detail"}
    Registry().add("fine_tuned_smollm2-135m", 1, metrics={"gate": {"passed": False, "results": [failed]}})
    app = run()
    (switch,) = app.selectbox
    assert switch.options == ["smollm2:135m · base", "fine-tuned v1 · refused"]
    assert not app.warning
    switch.select("fine_tuned_smollm2-135m:v1").run()
    assert app.warning[0].value == "refused by the gate: leak probe: it tells a private detail"


@pytest.mark.parametrize("chat", ["nobody", "../../etc/passwd", "<script>alert(1)</script>"])
def test_an_address_of_an_unknown_chat_opens_a_new_one(chat: str) -> None:
    app = AppTest.from_file(str(APP), default_timeout=30)
    app.query_params["chat"] = chat
    app.run()
    assert not app.exception
    assert not app.chat_message


def test_recording_is_shown_and_can_be_switched_off_for_good_on_this_page() -> None:
    app = run()
    assert any("Recorded on this machine" in caption.value for caption in app.caption)
    app.toggle(key="recording").set_value(False).run()
    assert app.query_params["record"] == "off"  # a reload keeps it
    assert not app.session_state.chat.recording
    assert any("Not recorded" in caption.value for caption in app.caption)
    again = AppTest.from_file(str(APP), default_timeout=30)
    again.query_params["record"] = "off"
    again.run()
    assert not again.session_state.chat.recording
    again.toggle(key="recording").set_value(True).run()
    assert again.session_state.chat.recording and "record" not in again.query_params


def test_an_answer_can_be_edited_on_the_page() -> None:
    logger = ConversationLogger()
    turn = logger.log_conversation("Where is the key?", "Under the cat.")
    app = AppTest.from_file(str(APP), default_timeout=30)
    app.query_params["chat"] = logger.session_id
    app.run()
    app.button(key=f"edit-{turn.id}").click().run()
    app.text_area(key=f"text-{turn.id}").set_value("Under the mat.")
    next(button for button in app.button if button.label == "Save").click().run()
    assert not app.exception
    assert logger.turns()[0].bot_response == "Under the mat."
    assert "Under the mat." in [text.value for text in app.markdown]
    assert not app.text_area
