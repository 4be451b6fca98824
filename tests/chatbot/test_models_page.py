"""The models page, without a browser."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from chatbot import server
from chatbot.server import APP
from fine_tuning import state
from fine_tuning.config import load_config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.integration.service import Service
from fine_tuning.jobs import store
from fine_tuning.jobs.processes import this_process
from fine_tuning.jobs.store import State
from fine_tuning.model_management import elo
from fine_tuning.model_management.model_registry import Registry

pytestmark = pytest.mark.usefixtures("fresh_app")

NAME = "fine_tuned_smollm2-135m"
FAILED = {
    "rule": "leak probe",
    "passed": False,
    "reason": "it tells a private detail",
    "measured": "1 of 3",
    "limit": "none",
}
SKIPPED = {
    "rule": "speed",
    "passed": True,
    "reason": "not judged: the speed was not measured",
    "measured": "none",
    "limit": "fast",
}


@pytest.fixture
def engine(home: Path, base_gguf: Path) -> EmbeddedEngine:
    """With a base and three versions: v1 was live before, v2 is live, v3 was refused."""
    engine, registry = EmbeddedEngine(home / "engine"), Registry()
    engine.create("smollm2:135m", ModelSpec(from_=base_gguf, parameters={"num_predict": 4}))
    for number in (1, 2, 3):
        (home / "runs" / f"run-{number}").mkdir(parents=True)
        (home / "runs" / f"run-{number}" / "manifest.json").write_text("{}")
        engine.create(
            f"{NAME}:v{number}", ModelSpec(from_="smollm2:135m", parameters={"seed": number, "num_predict": 4})
        )
        metrics = {"gate": {"passed": False, "results": [FAILED, SKIPPED]}} if number == 3 else {}
        registry.add(
            NAME,
            number,
            run=f"runs/run-{number}",
            method="lora",
            metrics=metrics,
            turns=learned() if number == 1 else (),
        )
        if number < 3:
            registry.promote(NAME, number)
    engine.copy(f"{NAME}:v2", f"{NAME}:latest")
    return engine


def learned() -> Sequence[str]:
    logger = ConversationLogger()
    return [logger.log_conversation("Where is the *key*?", "Under the mat.").id, "gone"]


def chat_about(question: str) -> str:
    logger = ConversationLogger()
    logger.log_conversation(question, "A rug.")
    return logger.session_id


def open_page(**query: str) -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=60).switch_page("pages/models.py")
    for name, value in query.items():
        app.query_params[name] = value
    return checked(app.run())


def checked(app: AppTest) -> AppTest:
    assert not app.exception, app.exception
    return app


def press(app: AppTest, label: str) -> AppTest:
    return checked(next(button for button in app.button if button.label == label).click().run())


def test_without_versions_the_page_says_why_and_what_to_do(home: Path) -> None:
    app = open_page()
    assert "Each training on your chats and documents makes a version" in app.info[0].value


def test_versions_are_shown_newest_first_with_verdict_and_why(engine: EmbeddedEngine) -> None:
    app = open_page()
    numbers = [text.value for text in app.markdown if text.value.startswith("**v")]
    assert numbers == ["**v3**", "**v2**", "**v1**"]
    said = [text.value for text in app.text]
    assert "Refused, for 1 of 2 rules: leak probe: it tells a private detail" in said
    shown = " ".join(text.value for text in app.markdown)
    assert "**speed** (not judged)" in shown and "**smollm2:135m** · " in shown


def test_a_refused_version_is_used_only_after_a_warning(engine: EmbeddedEngine) -> None:
    app = press(open_page(), "Use anyway …")
    assert Registry().live(NAME).number == 2  # type: ignore[union-attr]
    assert "it tells a private detail" in app.warning[0].value
    press(app, "Use it nevertheless")
    now = Registry().get(NAME, 3)
    assert now.state == "live" and "promoted by hand" in now.notes


def test_one_button_goes_back_and_forth(engine: EmbeddedEngine) -> None:
    app = press(open_page(), "Answer with v1 again")
    assert Registry().live(NAME).number == 1  # type: ignore[union-attr]
    press(app, "Answer with v2 again")
    assert Registry().live(NAME).number == 2  # type: ignore[union-attr]


def test_a_version_is_pinned_annotated_and_labelled(engine: EmbeddedEngine) -> None:
    app = open_page()
    checked(app.button(key=f"pin-{NAME}:v3").click().run())
    checked(app.text_area(key=f"note-{NAME}:v3").set_value("too eager").run())
    checked(app.text_input(key=f"labels-{NAME}:v3").set_value("work, , draft").run())
    now = Registry().get(NAME, 3)
    assert (now.pinned, now.notes, now.labels) == (True, "too eager", ("work", "draft"))
    assert app.button(key=f"delete-{NAME}:v3").disabled


def test_deleting_is_asked_once_and_says_what_comes_back(engine: EmbeddedEngine, home: Path) -> None:
    app = open_page()
    assert app.button(key=f"delete-{NAME}:v1").disabled and app.button(key=f"delete-{NAME}:v2").disabled
    app = checked(app.button(key=f"delete-{NAME}:v3").click().run())
    assert (home / "runs/run-3").exists() and any("are freed on the disk" in text.value for text in app.markdown)
    press(app, "Delete for good")
    assert not (home / "runs/run-3").exists() and Registry().get(NAME, 3).state == "retired"


def test_the_chats_that_taught_a_version_are_listed_and_one_is_forgotten_as_a_job(engine: EmbeddedEngine) -> None:
    app = open_page()
    app = checked(app.button(key=f"taught-{NAME}:v1").click().run())
    assert any("learned **2 answers**, **1** of them no longer" in text.value for text in app.markdown)
    app = press(app, "Forget …")
    app = press(app, "Forget it for good")
    (job,) = store.find(kinds=("forget",))
    assert job.request["turns"] == [ConversationLogger().turns(include_excluded=True)[0].session_id]


def test_a_blind_vote_shows_the_names_and_counts(engine: EmbeddedEngine) -> None:
    app = open_page(view="compare", chat=chat_about("What is a mat?"))
    assert app.text_area(key="compare-question").value == "What is a mat?"
    app = press(app, "Ask both")
    assert [head.value for head in app.subheader][:2] == ["Left", "Right"]
    app = press(app, "Left")
    now = app.session_state["comparison"]
    rated = elo.ratings()
    assert rated[now.tags[0]][0] > rated[now.tags[1]][0] and set(now.tags) == {"smollm2:135m", f"{NAME}:v2"}
    assert "was left" in app.success[0].value and "Left" not in [head.value for head in app.subheader]
    assert [turn.user_message for turn in ConversationLogger().turns()] == [
        "Where is the *key*?",
        "What is a mat?",
    ]  # and nothing of the comparison


def test_with_one_version_the_base_can_answer_again_and_back(engine: EmbeddedEngine) -> None:
    registry = Registry()
    for number in (1, 3):
        engine.delete(f"{NAME}:v{number}")
    with state.connect() as connection:
        connection.execute("DELETE FROM versions WHERE number != 2")
        connection.execute("UPDATE versions SET verdict = 'passed'")
    press(open_page(), "Let the base answer again")
    assert registry.live(NAME) is None
    press(open_page(), "Answer with v2 again")
    assert registry.live(NAME).number == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(("number", "other"), [(1, f"{NAME}:v2"), (2, "smollm2:135m"), (3, f"{NAME}:v2")])
def test_a_version_is_compared_with_who_answers_or_else_its_base(
    engine: EmbeddedEngine, number: int, other: str
) -> None:
    app = open_page()
    app = checked(app.button(key=f"compare-{NAME}:v{number}").click().run())
    assert (app.selectbox(key="one").value, app.selectbox(key="other").value) == (other, f"{NAME}:v{number}")


@pytest.mark.parametrize(
    ("one", "other", "chosen"),
    [
        ("smollm2:135m", f"{NAME}:v1", True),
        (f"{NAME}:v1", f"{NAME}:v3", True),
        (f"{NAME}:v1", f"{NAME}:v1", False),  # the same twice
        (f"{NAME}:v1", f"{NAME}:v9", False),
        ("<script>", "", False),
        ("", "", False),
    ],
)
def test_an_address_names_the_two_that_are_compared(engine: EmbeddedEngine, one: str, other: str, chosen: bool) -> None:
    app = open_page(view="compare", one=one, other=other)
    pair = (one, other) if chosen else ("smollm2:135m", f"{NAME}:v2")
    assert (app.selectbox(key="one").value, app.selectbox(key="other").value) == pair


@pytest.mark.parametrize(("limit", "own", "most"), [(3, None, 3), (5, None, 5), (3, 1, 1)])
def test_a_compared_answer_ends_at_the_configured_length_where_the_model_sets_none(
    engine: EmbeddedEngine, base_gguf: Path, monkeypatch: pytest.MonkeyPatch, limit: int, own: int | None, most: int
) -> None:
    parameters = {} if own is None else {"num_predict": own}
    for tag in ("smollm2:135m", f"{NAME}:v2", f"{NAME}:latest"):
        engine.create(tag, ModelSpec(from_=base_gguf, parameters={"temperature": 0, **parameters}))
    monkeypatch.setattr(server, "_service", Service(load_config(overrides={"chat.max_tokens": limit})))
    app = press(open_page(view="compare", chat=chat_about("Write a long story about a lighthouse.")), "Ask both")
    answers = app.session_state["comparison"].answers.values()
    assert len(answers) == 2 and all(0 < len(text.split()) <= most for text in answers)


def test_a_comparison_goes_when_its_view_is_left(engine: EmbeddedEngine) -> None:
    app = press(open_page(view="compare", chat=chat_about("What is a mat?")), "Ask both")
    assert "comparison" in app.session_state
    checked(app.segmented_control(key="view").set_value("versions").run())
    assert "comparison" not in app.session_state


def with_adapters(home: Path) -> None:
    """Let v1 and v2 be adapters on one base, as far as the page asks."""
    for number in (1, 2):
        (home / "runs" / f"run-{number}" / "adapter").mkdir()
        (home / "runs" / f"run-{number}" / "adapter" / "adapter_config.json").write_text("{}")
    with state.connect() as database:
        database.execute("UPDATE versions SET base_digest = 'b1'")


def more(app: AppTest, number: int, what: str) -> AppTest:
    app.session_state[f"more-{NAME}:v{number}"] = True
    app.session_state[f"making-{NAME}:v{number}"] = what
    return checked(app.run())


def test_more_makes_a_version_smaller_by_what_each_form_costs(
    engine: EmbeddedEngine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("retrain", {}, here=this_process(), detached=True)  # what is asked for waits
    app = more(open_page(), 2, "smaller")
    press(app, "Measure")
    (asked,) = store.find(kinds=["quantise"])
    assert (asked.request["version"], asked.request["use"]) == (2, None)
    done = store.add("quantise", {"version": 2, "name": NAME}, here=this_process())
    done.folder.mkdir(parents=True, exist_ok=True)
    table = [
        {"name": name, "size": size, "faster": 1.2, "worse": {"value": worse}}
        for name, size, worse in (
            ("now", 2 * 10**8, 1.0),
            ("f16", 3 * 10**8, 1.0),
            ("q4_0", 9 * 10**7, 1.02),
            ("q8_0", 10**8, 1.001),
        )
    ]
    done.result.write_text(json.dumps({"table": table, "recommended": "q8_0", "why": "q8_0 is the smallest"}))
    store.finish(done, State.COMPLETED, "done", 0)
    app = more(open_page(), 2, "smaller")
    assert any("| **q8_0** | **100.0\u00a0MB**" in text.value for text in app.markdown)
    assert app.selectbox(key=f"form-{NAME}:v2").options == ["q8_0", "q4_0"]  # f16 would be larger
    press(app, "Make it")
    (asked,) = [job for job in store.find(kinds=["quantise"]) if job.request.get("use")]
    assert (asked.request["version"], asked.request["use"]) == (2, "q8_0")


def test_more_combines_a_version_with_others_of_its_base(engine: EmbeddedEngine, home: Path) -> None:
    store.add("retrain", {}, here=this_process(), detached=True)
    assert any("no other version" in caption.value for caption in more(open_page(), 2, "combine").caption)
    with_adapters(home)
    app = more(open_page(), 2, "combine")
    app.radio(key=f"how-{NAME}:v2").set_value("dare")
    app.number_input(key=f"weight-{NAME}:v2-{NAME}:v1").set_value(0.5)
    press(app, "Combine")
    (asked,) = store.find(kinds=["merge"])
    assert [(part["version"], part["weight"]) for part in asked.request["parts"]] == [(2, 1.0), (1, 0.5)]
    assert asked.request["method"] == "dare"
