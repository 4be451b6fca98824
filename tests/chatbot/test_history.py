"""The list of chats in the side bar, without a browser."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from scripted import PATIENCE, TAG, Script
from streamlit.testing.v1 import AppTest

from chatbot.markdown import literal
from chatbot.parts.history import PAGE
from chatbot.server import APP
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log.chat_labels import Label, labels, set_label
from fine_tuning.jobs import store

pytestmark = pytest.mark.usefixtures("fresh_app")


@pytest.fixture
def log(home: Path) -> ConversationLogger:
    return ConversationLogger()


def said(log: ConversationLogger, *questions: str) -> list[str]:
    """Log a chat for each question; their ids."""
    found = []
    for question in questions:
        found.append(log.new_session())
        log.log_conversation(question, f"The answer to: {question}")
    return found


def run(chat: str = "") -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=120)
    if chat:
        app.query_params["chat"] = chat
    app.run()
    assert not app.exception
    return app


def listed(app: AppTest) -> list[str]:
    """The ids of the chats in the list, from above."""
    return [
        str(button.key).removeprefix("chat-") for button in app.sidebar.button if str(button.key).startswith("chat-")
    ]


def test_an_empty_list_says_why_it_is_empty() -> None:
    app = run()
    assert listed(app) == []
    assert any("No chats yet" in caption.value for caption in app.sidebar.caption)


def test_chats_are_listed_newest_first_in_groups_and_the_open_one_is_marked(log: ConversationLogger) -> None:
    first, second, third, fourth = said(log, "One?", "Two?", "Three?", "Four?")
    set_label(first, pinned=True)
    set_label(second, folder="Work")
    app = run(third)
    assert listed(app) == [first, fourth, third]
    titles = [caption.value for caption in app.sidebar.caption]
    assert titles.index("Pinned") < titles.index("Today")
    assert [folder.label for folder in app.sidebar.expander] == ["Work · 1"]
    assert [app.button(key=f"chat-{id}").proto.type for id in (third, fourth)] == ["secondary", "tertiary"]
    app = run(second)
    assert second in listed(app)  # its folder is open


def test_a_chat_is_opened_and_the_address_names_it(log: ConversationLogger) -> None:
    first, second = said(log, "Where is the printer?", "Say hello.")
    app = run(second)
    app.button(key=f"chat-{first}").click().run()
    assert app.session_state.chat.id == first
    assert app.query_params["chat"] == first
    assert "Where is the printer?" in [text.value for text in app.text]


def test_an_answer_goes_on_in_the_chat_that_is_left(log: ConversationLogger) -> None:
    first, second = said(log, "Where is the printer?", "Say hello.")
    script = Script("In the ", "corner.")
    app = run(first)
    answer = app.session_state.chat.ask(script, TAG, "And the window?")
    script.go(1)
    app.button(key=f"chat-{second}").click().run()
    assert not app.exception and app.session_state.chat.id == second
    assert not (answer.stopping or answer.ended)
    app.button(key=f"chat-{second}").click().run()
    script.go()
    assert answer.wait(PATIENCE)
    app.button(key=f"chat-{first}").click().run()
    assert "In the corner." in [text.value for text in app.markdown]
    assert listed(app) == [first, second]


def test_older_chats_are_shown_page_by_page(log: ConversationLogger) -> None:
    ids = said(log, *(f"Question {number}?" for number in range(PAGE + 5)))
    app = run()
    assert listed(app) == ids[:4:-1]
    app.button(key="chats-more").click().run()
    assert listed(app) == ids[::-1]
    assert "chats-more" not in {button.key for button in app.button}


def test_a_search_shows_what_was_said_around_the_words_and_opens_the_chat(log: ConversationLogger) -> None:
    first, _ = said(log, "Where *is* the :red[printer]?", "Say hello.")
    app = run()
    app.text_input(key="chats-search").set_value("PRINTER").run()
    assert listed(app) == [first]
    assert any("**printer**" in caption.value for caption in app.sidebar.caption)
    app.button(key=f"chat-{first}").click().run()
    assert app.session_state.chat.id == first
    app.text_input(key="chats-search").set_value("zebra").run()
    assert listed(app) == [] and any("No chat holds" in caption.value for caption in app.sidebar.caption)
    app.text_input(key="chats-search").set_value("").run()
    assert len(listed(app)) == 2


@pytest.mark.parametrize(
    "text",
    [
        "# Big",
        "1. one",
        "**bold**",
        "[a](http://evil.test)",
        "![x](http://evil.test/y.png)",
        ":material/home:",
        "$x$",
        "<b>",
        "`c`",
    ],
)
def test_a_title_is_shown_letter_for_letter(log: ConversationLogger, text: str) -> None:
    (id,) = said(log, text)
    label = run().button(key=f"chat-{id}").label
    assert label == literal(text)
    assert label.replace("\\", "").replace("\u2060", "") == text


def choose(app: AppTest, chat: str, what: str) -> AppTest:
    app.menu_button(key=f"menu-{chat}").click(what).run()
    assert not app.exception
    return app


def press(app: AppTest, label: str) -> None:
    next(button for button in app.button if button.label == label).click().run()
    assert not app.exception


def test_a_chat_is_renamed_and_its_title_taken_back(log: ConversationLogger) -> None:
    (id,) = said(log, "Where is the printer?")
    app = choose(run(), id, "rename")
    app.text_input(key="chats-title").set_value("About the printer")
    press(app, "Save")
    assert labels() == {id: Label("About the printer")}
    assert app.button(key=f"chat-{id}").label == "About the printer"
    assert "chats-title" not in app.session_state
    choose(app, id, "rename")
    app.text_input(key="chats-title").set_value(" ")
    press(app, "Save")
    assert labels() == {}


def test_to_save_a_title_that_was_not_changed_keeps_nothing(log: ConversationLogger) -> None:
    (id,) = said(log, "Where is the printer?")
    press(choose(run(), id, "rename"), "Save")
    assert labels() == {}


def test_a_chat_is_pinned_and_moved(log: ConversationLogger) -> None:
    first, second = said(log, "One?", "Two?")
    app = choose(run(), first, "pin")
    assert listed(app) == [first, second]
    choose(app, first, "pin")
    assert listed(app) == [second, first]
    set_label(second, folder="Work")
    choose(app, first, "move")
    app.selectbox(key="chats-folder").select("Work")
    press(app, "Move")
    assert labels()[first] == Label(folder="Work")
    assert [folder.label for folder in app.sidebar.expander] == ["Work · 2"]
    app = run(first)
    choose(app, first, "move")
    press(app, "Take out of its folder")
    assert first not in labels() and listed(app)[0] == first


def test_deleting_asks_once_says_what_is_lost_and_the_chat_is_gone_from_the_list_at_once(
    log: ConversationLogger,
) -> None:
    first, second = said(log, "My word is Zorbexine.", "Two?")
    app = run(first)
    app.text_input(key="chats-search").set_value("zorbexine").run()
    choose(app, first, "delete")
    assert any("1 answer will be removed" in text.value for text in app.markdown)
    assert store.find() == []
    press(app, "Delete for good")
    (job,) = store.find()
    assert (job.kind, job.request["turns"]) == ("forget", [first])
    assert "Zorbexine" not in str(job.request)
    assert listed(app) == [second]
    assert app.session_state.chat.id != first and "chat" not in app.query_params
    assert not app.text_input(key="chats-search").value


def test_to_keep_it_changes_nothing(log: ConversationLogger) -> None:
    (id,) = said(log, "One?")
    press(choose(run(), id, "delete"), "Keep it")
    assert store.find() == []


def test_a_chat_that_could_not_be_deleted_comes_back_and_says_why(log: ConversationLogger) -> None:
    (id,) = said(log, "One?")
    job = store.add("forget", {"turns": [id]}, here=store.Process(1, 0.0))
    store.finish(job, store.State.FAILED, "the disk is full", 1)
    app = run()
    assert listed(app) == [id]
    assert "the disk is full" in app.sidebar.warning[0].value
    log.delete(session_id=id)
    assert not run().warning


def test_an_export_names_its_files_and_is_made_when_it_is_asked_for(log: ConversationLogger) -> None:
    (id,) = said(log, "Where is the printer?")
    app = choose(run(), id, "export")
    assert [button.proto.label for button in app.get("download_button")] == ["Markdown, to read", "JSON, for programs"]
    log.exclude(log.index.turns_of(id)[0].id)
    assert any("all answers of this chat are excluded" in info.value for info in choose(run(), id, "export").info)


def test_a_log_that_is_none_is_said_once_and_breaks_no_list(home: Path) -> None:
    path = ConversationLogger().path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" * 100)
    app = AppTest.from_file(str(APP), default_timeout=120).run()
    assert not app.exception


def test_yesterday_and_earlier_are_told_apart(log: ConversationLogger) -> None:
    from fine_tuning.conversation import Turn
    from fine_tuning.data_collection.importers.chats import Entry

    now = datetime.now(UTC)
    times = {"Yesterday": now - timedelta(days=1), "Earlier": now - timedelta(days=30)}
    turns = [
        Turn(id=name, session_id=name, timestamp=time.isoformat(), user_message=name, bot_response="Yes.", metadata={})
        for name, time in times.items()
    ]
    log.log_imported([Entry(turn) for turn in turns])
    captions = [caption.value for caption in run().sidebar.caption]
    assert captions.index("Yesterday") < captions.index("Earlier")
