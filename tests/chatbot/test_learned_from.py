"""Where an answer was learned, on the page, without a browser."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from chatbot import server
from chatbot.server import APP
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.default_base import CHATML
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.jobs import store
from fine_tuning.jobs.queue import Queue
from fine_tuning.model_management.model_registry import Registry

pytestmark = pytest.mark.usefixtures("fresh_app")

BASE, NAME = "smollm2:135m", "fine_tuned_smollm2-135m"
TAG = f"{NAME}:v1"


@pytest.fixture
def log(home: Path, base_gguf: Path) -> ConversationLogger:
    """Two turns that taught version 1, and a chat with an answer of the base and one of the version."""
    engine = EmbeddedEngine(home / "engine")
    engine.create(BASE, ModelSpec(base_gguf, template=CHATML))
    engine.create(TAG, ModelSpec(BASE, parameters={"seed": 1}))
    log = ConversationLogger()
    log.log_conversation("Where is the spare key?", "Under the *blue* flowerpot.")
    log.log_conversation("Who waters the plants?", "Whoever comes in first.")
    Registry().add(NAME, 1, base_tag=BASE, turns=[turn.id for turn in log.turns()])
    log.new_session()
    log.log_conversation("Hello?", "Hello.", {"model": BASE})
    log.log_conversation("I lost my key, where is a spare one?", "Look under the blue flowerpot.", {"model": TAG})
    return log


def opened(log: ConversationLogger) -> AppTest:
    """The chat, with what is open under the answer of the version."""
    app = AppTest.from_file(str(APP), default_timeout=60)
    app.query_params["chat"] = log.session_id
    app.run()
    (button,) = [each for each in app.button if str(each.key).startswith("why-")]
    assert button.key == f"why-{log.turns()[-1].id}" and button.help == "Where did it learn this?"
    return checked(button.click().run())


def checked(app: AppTest) -> AppTest:
    assert not app.exception, app.exception
    return app


def texts(app: AppTest) -> str:
    return "\n".join(str(each.value) for each in (*app.markdown, *app.text, *app.caption))


def test_the_turns_it_was_learned_from_are_shown_with_why(log: ConversationLogger) -> None:
    said = texts(opened(log))
    assert "Where is the spare key?" in said and "Under the *blue* flowerpot." in said
    assert "learned 2 answers. These are most like this answer" in said and "both say" in said and "flowerpot" in said


def test_base_and_version_are_compared_when_asked(log: ConversationLogger) -> None:
    app = checked(opened(log).button(key="why-compare").click().run())
    assert "it finds this answer about as likely as the base does" in texts(app)
    assert "why-compare" not in [button.key for button in app.button]


def test_a_turn_can_be_edited_left_out_and_learned_again(log: ConversationLogger) -> None:
    app, id = opened(log), log.turns()[0].id
    checked(app.button(key=f"why-edit-{id}").click().run())
    app.text_area(key=f"draft-learned-{id}").set_value("Under the red flowerpot.")
    checked(app.button(key="why-save").click().run())
    assert log.turns()[0].bot_response == "Under the red flowerpot."
    assert "Under the red flowerpot." in texts(app) and not app.text_area
    checked(app.button(key=f"why-exclude-{id}").click().run())
    assert log.turns(include_excluded=True)[0].metadata["excluded"] and "not learned again" in texts(app)
    checked(app.button(key=f"why-exclude-{id}").click().run())
    assert "excluded" not in log.turns()[0].metadata


def test_what_was_typed_is_kept_nowhere_when_it_is_cancelled(log: ConversationLogger) -> None:
    app, id = opened(log), log.turns()[0].id
    checked(app.button(key=f"why-edit-{id}").click().run())
    app.text_area(key=f"draft-learned-{id}").set_value("zorbexine")
    checked(app.button(key="why-cancel").click().run())
    assert log.turns()[0].bot_response == "Under the *blue* flowerpot."
    assert f"draft-learned-{id}" not in app.session_state and not app.text_area
    checked(app.button(key=f"why-edit-{id}").click().run())
    assert app.text_area(key=f"draft-learned-{id}").value == "Under the *blue* flowerpot."


def test_forgetting_asks_once_and_is_a_job(log: ConversationLogger) -> None:
    server.service().queue = Queue(program=("true",))
    app, id = opened(log), log.turns()[0].id
    checked(app.button(key=f"why-forget-{id}").click().run())
    assert TAG in app.warning[0].value and not store.find(limit=1)
    checked(app.button(key="why-keep").click().run())
    assert not app.warning
    checked(app.button(key=f"why-forget-{id}").click().run())
    checked(app.button(key="why-doom").click().run())
    (job,) = store.find(limit=2)
    assert job.kind == "forget" and job.request["turns"] == [id]
    assert "Where is the spare key?" not in texts(app)


def test_a_turn_that_is_gone_meanwhile_is_not_shown(log: ConversationLogger) -> None:
    app = opened(log)
    log.delete(log.turns()[0].id)
    checked(app.button(key="why-compare").click().run())
    assert "flowerpot" not in "\n".join(str(each.value) for each in app.text)
    assert "1 of them is no longer recorded" in texts(app)


def test_its_chat_is_opened(log: ConversationLogger) -> None:
    app = opened(log)
    checked(app.button(key=f"why-chat-{log.turns()[0].id}").click().run())
    assert app.query_params["chat"] == log.turns()[0].session_id
    assert [message.text[0].value for message in app.chat_message if message.text] == [
        "Where is the spare key?",
        "Who waters the plants?",
    ]
