"""What the page says when nobody can answer, without a browser."""

from pathlib import Path

import pytest
from small_training import log_doors
from streamlit.testing.v1 import AppTest

from chatbot.log_watch import watch_of
from chatbot.server import APP
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.events import Finished
from fine_tuning.integration.attachments import compose
from fine_tuning.integration.chat_settings import ChatSettings, presets
from fine_tuning.integration.first_model import BUTTON
from fine_tuning.jobs import store
from fine_tuning.jobs.doing import listed
from fine_tuning.jobs.kinds import RetrainRequest
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import State
from fine_tuning.model_management.model_registry import Registry

pytestmark = pytest.mark.usefixtures("fresh_app")


def run() -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=120).run()
    assert not app.exception
    return app


def test_an_unreachable_engine_is_named_with_its_cure_and_no_question_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYOAI_ENGINE", "ollama")
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")  # the discard port: nothing listens
    app = run()
    assert "127.0.0.1:9" in app.error[0].value
    assert sorted(button.label for button in app.button if not button.disabled) == ["Look again", "Settings"]
    assert app.chat_input[0].disabled


def test_looking_again_finds_the_engine_that_is_there_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYOAI_ENGINE", "ollama")
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    app = run()
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    next(button for button in app.button if button.label == "Look again").click().run()
    assert not app.error
    assert "There is no model yet" in app.info[0].value  # an engine, and no model
    assert BUTTON in [button.label for button in app.button]


def test_the_switch_names_base_version_and_live_and_counts_what_is_not_learned(home: Path, base_gguf: Path) -> None:
    engine = EmbeddedEngine(home / "engine")
    engine.create("smollm2:135m", ModelSpec(from_=base_gguf))
    for number in (1, 2):
        engine.create(
            f"fine_tuned_smollm2-135m:v{number}", ModelSpec(from_="smollm2:135m", parameters={"seed": number})
        )
    engine.copy("fine_tuned_smollm2-135m:v1", "fine_tuned_smollm2-135m:latest")
    logger = ConversationLogger()
    learned = logger.log_conversation("Where is the key?", "Under the mat.")
    logger.log_conversation("Which mat?", "The blue one.")
    Registry().add("fine_tuned_smollm2-135m", 1, turns=[learned.id])
    app = run()
    (switch,) = app.selectbox
    assert switch.options == ["smollm2:135m · base", "fine-tuned v2", "fine-tuned v1 · live"]
    assert app.chat_input[0].placeholder == "Message fine-tuned v1 · live"
    assert "**2 answers** recorded, **1** not yet learned" in [text.value for text in app.markdown]


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
    app = AppTest.from_file(str(APP), default_timeout=120)
    app.query_params["chat"] = chat
    app.run()
    assert not app.exception
    assert not app.chat_message


def _two_clicks_before_the_page_is_drawn() -> None:
    from types import SimpleNamespace

    import streamlit as st

    from chatbot.parts import history

    st.session_state.chat = SimpleNamespace(id="first")
    history.open_chat("second")
    history.open_chat("third")
    st.text(f"{st.query_params['chat']} {st.session_state.chat.id} {st.session_state.other_chat}")


def test_two_quick_clicks_on_chats_in_the_list_open_the_last_one() -> None:
    app = AppTest.from_function(_two_clicks_before_the_page_is_drawn).run()
    assert not app.exception and [text.value for text in app.text] == ["third first True"]


def test_recording_is_shown_and_can_be_switched_off_for_good_on_this_page() -> None:
    app = run()
    assert any("Recorded on this machine" in caption.value for caption in app.caption)
    app.toggle(key="recording").set_value(False).run()
    assert app.query_params["record"] == "off"  # a reload keeps it
    assert not app.session_state.chat.recording
    assert any("Not recorded" in caption.value for caption in app.caption)
    again = AppTest.from_file(str(APP), default_timeout=120)
    again.query_params["record"] = "off"
    again.run()
    assert not again.session_state.chat.recording
    again.toggle(key="recording").set_value(True).run()
    assert again.session_state.chat.recording and "record" not in again.query_params


def test_an_answer_can_be_edited_on_the_page() -> None:
    logger = ConversationLogger()
    turn = logger.log_conversation("Where is the key?", "Under the cat.")
    app = AppTest.from_file(str(APP), default_timeout=120)
    app.query_params["chat"] = logger.session_id
    app.run()
    app.button(key=f"edit-{turn.id}").click().run()
    app.text_area(key=f"text-{turn.id}").set_value("Under the mat.")
    next(button for button in app.button if button.label == "Save").click().run()
    assert not app.exception
    assert logger.turns()[0].bot_response == "Under the mat."
    assert "Under the mat." in [text.value for text in app.markdown]
    assert not app.text_area


def opened(logger: ConversationLogger) -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=120)
    app.query_params["chat"] = logger.session_id
    app.run()
    assert not app.exception
    return app


def texts(app: AppTest) -> list[str]:
    return [text.value for text in app.text]


def test_branches_are_browsed_and_a_question_is_asked_in_other_words(home: Path, base_gguf: Path) -> None:
    EmbeddedEngine(home / "engine").create("smollm2:135m", ModelSpec(from_=base_gguf))
    logger = ConversationLogger()
    first = logger.log_conversation("Where is the key?", "Under the mat.", {"parent": ""})
    red = logger.log_conversation("Which mat?", "The red one.", {"parent": first.id})
    blue = logger.log_conversation("Which mat?", "The blue one.", {"parent": first.id, "regenerates": red.id})
    door = logger.log_conversation("Which door?", "The front door.", {"parent": first.id})
    app = opened(logger)
    assert texts(app) == ["Where is the key?", "Which door?"]
    assert "2/2" in [caption.value for caption in app.caption]
    app.button(key=f"before-question-{door.id}").click().run()
    assert texts(app) == ["Where is the key?", "Which mat?"]
    assert "The blue one." in [text.value for text in app.markdown]
    app.button(key=f"before-answer-{blue.id}").click().run()
    assert "The red one." in [text.value for text in app.markdown]
    assert app.button(key=f"before-answer-{red.id}").disabled
    app.button(key=f"ask-{red.id}").click().run()
    assert app.text_area(key=f"text-ask-{red.id}").value == "Which mat?"
    app.button(key=f"unasked-{red.id}").click().run()
    assert not app.text_area and not app.exception
    logger.delete(turn_id=red.id)
    watch_of(logger.path).look()
    app.run()
    assert not app.exception and "The red one." not in [text.value for text in app.markdown]


def test_why_an_answer_is_bad_is_recorded_with_and_without_a_better_one() -> None:
    logger = ConversationLogger()
    turn = logger.log_conversation("Where is the key?", "Under the cat.")
    logger.rate(turn.id, "down")
    app = opened(logger)
    app.button(key=f"reason-{turn.id}").click().run()
    app.text_input(key=f"text-why-{turn.id}").set_value("Cats do not keep keys.")
    app.button(key=f"save-{turn.id}").click().run()
    (said,) = logger.turns()
    assert (said.bot_response, said.metadata["rating"]) == ("Under the cat.", "down")
    assert said.metadata["rating_reason"] == "Cats do not keep keys."
    assert any("Cats do not keep keys." in caption.value for caption in app.caption)
    app.button(key=f"edit-{turn.id}").click().run()
    app.text_area(key=f"text-{turn.id}").set_value("Under the mat.")
    app.button(key=f"save-{turn.id}").click().run()
    (said,) = logger.turns()
    assert (said.bot_response, said.metadata["original_response"]) == ("Under the mat.", "Under the cat.")
    assert not app.exception and not any(f"{draft}{turn.id}" in app.session_state for draft in ("text-", "text-why-"))


def test_settings_come_back_with_the_chat_and_are_typed_presets_included() -> None:
    logger = ConversationLogger()
    facts = {"system": "Talk like a pirate.", "options": {"temperature": 0.5, "seed": 7}}
    logger.log_conversation("Where is the key?", "Arr.", facts)
    app = opened(logger)
    assert app.session_state.chat.settings == ChatSettings(system="Talk like a pirate.", temperature=0.5, seed=7)
    app.button(key="settings").click().run()
    assert app.text_area(key="set-system").value == "Talk like a pirate."
    assert app.number_input(key="set-temperature").value == 0.5
    app.number_input(key="set-max_tokens").set_value(64).run()
    app.text_area(key="set-system").set_value("Be brief.").run()
    wanted = ChatSettings(system="Be brief.", temperature=0.5, max_tokens=64, seed=7)
    assert not app.exception and app.session_state.chat.settings == wanted
    app.text_input(key="set-name").set_value("Short").run()
    app.button(key="save-preset").click().run()
    assert presets() == {"Short": wanted}
    app.number_input(key="set-seed").set_value(None).run()
    assert app.session_state.chat.settings.seed is None
    app.selectbox(key="set-preset").set_value(None).run()
    app.selectbox(key="set-preset").set_value("Short").run()
    assert not app.exception and app.session_state.chat.settings == wanted
    assert app.number_input(key="set-seed").value == 7
    app.button(key="settings-default").click().run()
    assert app.session_state.chat.settings == ChatSettings() and app.number_input(key="set-seed").value is None
    app.selectbox(key="set-preset").set_value("Short").run()
    app.button(key="delete-preset").click().run()
    assert presets() == {"Short": wanted}  # it is asked first
    app.button(key="really-delete-preset").click().run()
    assert not app.exception and presets() == {} and app.session_state.chat.settings == wanted
    app.button(key="settings-done").click().run()
    assert not app.text_area and app.button(key="settings").label == "Settings (changed)"


def _a_field_of_closed_settings_is_sent_once_more() -> None:
    from types import SimpleNamespace

    import streamlit as st

    from chatbot.parts import chat_settings
    from fine_tuning.integration.chat_settings import ChatSettings

    st.session_state.chat = SimpleNamespace(settings=ChatSettings(system="Be brief.", seed=7))
    chat_settings.apply("system")
    st.text(st.session_state.chat.settings.system)


def test_closed_settings_are_not_emptied_by_what_the_browser_sends_after() -> None:
    app = AppTest.from_function(_a_field_of_closed_settings_is_sent_once_more).run()
    assert not app.exception and [text.value for text in app.text] == ["Be brief."]


def test_a_question_with_a_file_shows_the_file_folded_up() -> None:
    logger = ConversationLogger()
    logger.log_conversation(compose("What is in it?", [("**no*tes**.md", b"# Notes")], 1000).text, "Notes.")
    app = opened(logger)
    assert texts(app) == ["What is in it?"]
    (file,) = app.expander
    assert file.label == r"\*\*no\*tes\*\*.md" and app.code[0].value == "# Notes"


def test_a_question_is_asked_anew_and_in_other_words_and_gone_on_from_by_the_real_engine(
    home: Path, base_gguf: Path
) -> None:
    short = {"temperature": 0, "num_predict": 3, "stop": ["<|im_end|>"]}
    EmbeddedEngine(home / "engine").create("smollm2:135m", ModelSpec(from_=base_gguf, parameters=short))
    app = AppTest.from_file(str(APP), default_timeout=120).run()
    app.chat_input[0].set_value("Say hello.").run()
    (hello,) = ConversationLogger().turns()
    app.button(key=f"ask-{hello.id}").click().run()
    app.text_area(key=f"text-ask-{hello.id}").set_value("Say goodbye.").run()
    app.button(key=f"asked-{hello.id}").click().run()
    goodbye = ConversationLogger().turns()[-1]
    app.button(key=f"again-{goodbye.id}").click().run()
    anew = ConversationLogger().turns()[-1]
    assert anew.metadata["regenerates"] == goodbye.id
    assert texts(app) == ["Say goodbye."] and [caption.value for caption in app.caption].count("2/2") == 2
    app.button(key=f"before-question-{anew.id}").click().run()
    app.chat_input[0].set_value("And again?").run()
    assert not app.exception and texts(app) == ["Say hello.", "And again?"]
    assert [turn.metadata["parent"] for turn in ConversationLogger().turns()] == ["", "", "", hello.id]


def with_doors(home: Path, base_gguf: Path, count: int) -> EmbeddedEngine:
    """The base, and so many turns in the log."""
    engine = EmbeddedEngine(home / "engine")
    engine.create("smollm2:135m", ModelSpec(from_=base_gguf))
    log_doors(count)
    return engine


@pytest.mark.parametrize(
    ("turns", "label", "can"),
    [
        (0, "Nothing new to learn", False),
        (1, "Learn from 1 new answer", False),
        (8, "Learn from 8 new answers", True),
    ],
)
def test_the_side_bar_offers_to_learn_what_is_new(
    home: Path, base_gguf: Path, turns: int, label: str, can: bool
) -> None:
    with_doors(home, base_gguf, turns)
    (button,) = [button for button in run().button if "earn" in button.label]
    assert (button.label, not button.disabled) == (label, can)


def test_learning_begins_in_the_side_bar_and_is_stopped_there(home: Path, base_gguf: Path, known_machine: None) -> None:
    with_doors(home, base_gguf, 8)
    app = run()
    next(button for button in app.button if button.label.startswith("Learn from")).click().run()
    next(button for button in app.button if button.label == "Stop training").click().run()
    assert not app.exception
    (job,) = store.find(kinds=["retrain"])
    assert Queue().wait(job.id, 60).state == State.CANCELLED


def test_the_side_bar_lets_what_was_learned_answer(home: Path, base_gguf: Path) -> None:
    tag = "fine_tuned_smollm2-135m:v1"
    with_doors(home, base_gguf, 8).create(tag, ModelSpec(from_="smollm2:135m", parameters={"seed": 1}))
    with listed("retrain", RetrainRequest()) as told:
        told.tell(Finished("registered", "it waits for you", tag, (("Which door?", "None.", "The blue one."),)))
    app = run()
    assert "it waits for you" in app.info[0].value and any("The blue one." in text.value for text in app.caption)
    next(button for button in app.button if button.label == "Talk to it").click().run()
    assert app.chat_input[0].placeholder == "Message fine-tuned v1"
    next(button for button in app.button if button.label == "Close").click().run()
    assert not app.exception and not app.info
