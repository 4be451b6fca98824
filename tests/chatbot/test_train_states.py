"""The train and the runs page without a browser: what they say, what they ask, and what stands in
the way of a start.
"""

import io
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs

import made_documents
import pytest
import streamlit
from browsing import BASE
from small_training import log_doors
from streamlit.testing.v1 import AppTest

from chatbot.parts import train_settings, upload
from chatbot.server import APP
from fine_tuning.config import load_config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.errors import DatasetNotFound
from fine_tuning.events import Finished, RunOpened, Stage, Step, Trial
from fine_tuning.integration import data_view, datasets
from fine_tuning.jobs import processes, store
from fine_tuning.jobs.doing import listed
from fine_tuning.jobs.kinds import RetrainRequest, SurveyRequest, SweepRequest
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import State
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.profiles import made_of_documents

pytestmark = pytest.mark.usefixtures("fresh_app", "embedded")

HANDBOOK = b"# Handbook\n\n## Leave\n\nEveryone gets 27 days of paid holiday a year.\n"
STEP = Step("chats", 3, 12, 0.5, 1.5, 0.3, 1e-4, 1.0, 100, 50.0, 0.5, 42.0, 10**9, 1.6)


def opened(page: str, **query: str) -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=120).run()
    for name, value in query.items():
        app.query_params[name] = value
    app.switch_page(f"pages/{page}.py").run()
    assert not app.exception
    return app


def said(app: AppTest) -> str:
    kinds = (app.markdown, app.caption, app.info, app.error, app.warning, app.success, app.text)
    return "\n".join(element.value for found in kinds for element in found)


def at(app: AppTest, step: str) -> AppTest:
    app.session_state["train_step"] = step
    app.run()
    assert not app.exception
    return app


def start_button(app: AppTest) -> object:
    return next(button for button in app.button if button.label == "Start training")


def test_too_few_turns_are_said_beside_the_button() -> None:
    log_doors(1)
    app = at(opened("train"), "3 Settings")
    assert start_button(app).disabled  # type: ignore[attr-defined]
    assert "questions with their answers are needed (recorded so far: 1)" in said(app)


def test_without_a_file_the_button_says_so() -> None:
    app = at(opened("train"), "2 Data")
    app.radio[0].set_value("dataset").run()
    assert "No file is chosen" in said(at(app, "3 Settings"))


def test_the_sample_is_planned_and_the_estimate_moves_with_the_settings() -> None:
    app = at(opened("train"), "3 Settings")  # nothing was said yet: the sample is offered
    plan = store.find(kinds=["plan"])[0]
    assert Queue().wait(plan.id, 120).state == State.COMPLETED
    app.run()
    assert not app.exception and not start_button(app).disabled  # type: ignore[attr-defined]
    assert re.search(r"^(About|Up to) \d+ ", said(app), re.MULTILINE)
    before = {metric.label: metric.value for metric in app.metric}
    next(each for each in app.number_input if "epochs" in each.label).set_value(12).run()
    after = {metric.label: metric.value for metric in app.metric}
    assert int(after["Steps"]) == 2 * int(before["Steps"]) and after["Memory"] == before["Memory"]
    assert "Passes over the data (epochs): 12 (usually 6)" in said(app)
    assert len(store.find(kinds=["plan"])) == 1
    next(each for each in app.selectbox if each.label == "How many parameters to train").set_value(64).run()
    assert not app.exception and "Size of what is added (rank): 64 (usually 16)" in said(app)
    assert {metric.label: metric.value for metric in app.metric}["Memory"] != before["Memory"]


def test_a_running_training_is_shown_at_once_and_nothing_else_can_begin() -> None:
    log_doors(8)
    with listed("retrain", RetrainRequest()) as told:
        told.tell(Stage("Training"))
        told.tell(STEP)
        app = opened("train")
        assert "Training" in said(app) and any(button.label == "Stop training" for button in app.button)
        assert "Another training runs" in said(at(app, "3 Settings"))
        at(app, "4 Watch")
        told.tell(Finished("refused", "it is no better"))
    app.run()
    assert not app.exception and "it is no better" in said(app)
    assert app.session_state["train_step"] == "5 Finish"


def test_an_interrupted_one_offers_to_resume() -> None:
    job = store.add("retrain", RetrainRequest().record(), here=store.Process(999_999, 1.0))
    app = at(opened("train"), "5 Finish")
    assert "was killed" in said(app) and any(button.label == "Resume" for button in app.button)
    app = opened("runs", job=job.id)
    assert any(button.label == "Resume" for button in app.button)


def test_runs_say_why_they_are_empty_and_show_what_was_run() -> None:
    assert [info.value for info in opened("runs").info]
    with listed("retrain", RetrainRequest()) as told:
        told.tell(Stage("Training"))
        told.tell(STEP)
        told.tell(Finished("refused", "it is no better", "fine_tuned_x:v1"))
    app = opened("runs")
    assert "Training on your chats" in app.checkbox[0].label


def test_a_sweeps_trials_are_shown_with_their_scores() -> None:
    with listed("sweep", SweepRequest()) as told:
        told.tell(Trial(0, {"lora_r": 8}, 1.25))
        told.tell(Trial(1, {"lora_r": 16}, None, "it was pruned"))
        told.tell(Finished("done", "best of 1"))
    (job,) = store.find(kinds=["sweep"])
    table = opened("runs", job=job.id).dataframe[0].value
    assert next(iter(table["validation loss"])) == 1.25 and "it was pruned" in list(table["why not finished"])


def test_two_runs_are_compared_by_what_differs(home: Path) -> None:
    config = RetrainRequest().config
    for epochs in (2, 5):
        with listed("retrain", RetrainRequest(config=config.changed({"training.num_epochs": epochs}))) as told:
            told.tell(STEP)
            told.tell(Finished("live", "better"))
    app = opened("runs")
    for box in list(app.checkbox):
        box.check()
    app.run()
    assert not app.exception
    table = app.dataframe[0].value
    assert list(table["setting"]) == ["Passes over the data (epochs)"]
    assert sorted(str(value) for value in table.iloc[0])[:2] == ["2", "5"]


@pytest.mark.parametrize("job", ["nobody", "../../etc/passwd", "<script>"])
def test_an_address_of_no_run_says_so(job: str) -> None:
    assert "deleted" in said(opened("runs", job=job))


def test_a_clone_takes_over_what_was_asked() -> None:
    log_doors(120)
    config = RetrainRequest().config.changed({"training.num_epochs": 7, "gate.forgetting": 0.2})
    job = store.add("retrain", RetrainRequest(config=config).record(), here=processes.this_process())
    store.finish(job, State.FAILED, "it failed", 1)
    app = opened("train", **{"from": job.id})
    draft = app.session_state["train_draft"]
    assert draft.changes == {"training.num_epochs": 7, "gate.forgetting": 0.2} and draft.data == "chats"
    assert next(each for each in app.number_input if "epochs" in each.label).value == 7


def test_a_run_is_deleted_after_it_was_said_what_goes(home: Path) -> None:
    folder = home / "runs" / "20260101-000000-abc"
    folder.mkdir(parents=True)
    (folder / "inputs.json").write_text("{}")
    (folder / "big").write_bytes(b"x" * 5000)
    with listed("retrain", RetrainRequest()) as told:
        told.tell(RunOpened(str(folder), resumed=False))
        told.tell(Finished("stopped", "stopped"))
    (job,) = store.find()
    app = opened("runs", job=job.id)
    next(button for button in app.button if button.label == "Delete").click().run()
    assert "are freed on the disk" in said(app)
    next(button for button in app.button if button.label == "Delete it").click().run()
    assert not folder.exists() and store.find() == []


def above_a_page(watches: str) -> None:
    """What the bar is drawn from, above a page that itself shows how far a job is."""
    import streamlit as st

    from chatbot.parts import job_bar, waiting
    from fine_tuning.integration import watched
    from fine_tuning.integration.streamlit_fine_tuning import watch

    watched.begin()
    if watches.startswith("watch "):
        watch(watches.removeprefix("watch "), str)
    if watches.startswith("waiting "):
        waiting.until_over(watches.removeprefix("waiting "), "It is at work")
    st.session_state.bar = [job.kind for job in job_bar.at_work()]


@pytest.mark.parametrize("how", ["watch", "waiting"])
def test_what_the_page_itself_shows_is_not_in_the_bar_above_it_too(how: str) -> None:
    with listed("retrain", RetrainRequest()) as told, listed("survey", SurveyRequest()):
        told.tell(Stage("Training"))
        told.tell(STEP)
        survey, retrain = store.find()
        for shown, left in ((retrain, ["survey"]), (survey, ["retrain"]), (None, ["survey", "retrain"])):
            app = AppTest.from_function(above_a_page, args=(f"{how} {shown.id}" if shown else "",)).run()
            assert not app.exception and app.session_state["bar"] == left


@pytest.mark.parametrize("state", [State.FAILED, State.INTERRUPTED])
def test_a_forecast_that_failed_can_be_tried_again(state: State) -> None:
    app = at(opened("train"), "3 Settings")
    plan = Queue().wait(store.find(kinds=["plan"])[0].id, 120)
    store.remove(plan.id)
    again = store.add("plan", plan.request, id=plan.id, here=processes.this_process())
    store.finish(again, state, "no engine answered", 1)
    app.run()
    assert "no engine answered" in said(app) and start_button(app).disabled  # type: ignore[attr-defined]
    next(button for button in app.button if button.label == "Try again").click().run()
    assert not app.exception
    (now,) = store.find(kinds=["plan"])
    assert now.id == plan.id and now.created > again.created
    assert Queue().wait(now.id, 120).state == State.COMPLETED
    app.run()
    assert not start_button(app).disabled  # type: ignore[attr-defined]


def test_what_was_made_is_compared_with_who_answers_now(embedded: Engine) -> None:
    tag = "fine_tuned_smollm2-135m:v1"
    embedded.create(tag, ModelSpec(from_=BASE, parameters={"seed": 1}))
    Registry().add("fine_tuned_smollm2-135m", 1, base_tag=BASE)
    with listed("retrain", RetrainRequest()) as told:
        told.tell(Finished("registered", "it waits", tag))
    (link,) = [
        each.proto
        for each in at(opened("train"), "5 Finish").get("page_link")
        if each.proto.label == "Compare side by side"
    ]
    assert parse_qs(link.query_string) == {"view": ["compare"], "one": [BASE], "other": [tag]}


def test_what_was_refused_can_be_trained_more_thoroughly_with_the_same_data(embedded: Engine) -> None:
    tag = "fine_tuned_smollm2-135m:v1"
    embedded.create(tag, ModelSpec(from_=BASE, parameters={"seed": 1}))
    verdict = {"passed": False, "results": [{"rule": "better", "passed": False, "reason": "it is no better"}]}
    Registry().add("fine_tuned_smollm2-135m", 1, base_tag=BASE, metrics={"gate": verdict})
    with listed("retrain", RetrainRequest(sample=True)) as told:
        told.tell(Finished("refused", "it is no better", tag))
    app = at(opened("train"), "5 Finish")
    next(button for button in app.button if button.label == "Train more thoroughly").click().run()
    draft = app.session_state["train_draft"]
    assert (app.session_state["train_step"], draft.level, draft.data) == ("3 Settings", "thorough", "sample")


def test_a_late_change_of_a_widget_that_is_gone_changes_nothing() -> None:
    start = load_config()
    train_settings._set("training.num_epochs", "train-9-epochs", start)
    train_settings._set_split("train-9-split", start)
    train_settings._set_size("train-9-size", start, start)
    assert "train_draft" not in streamlit.session_state


def test_what_was_thrown_away_is_not_offered_again() -> None:
    job = store.add("retrain", RetrainRequest().record(), here=processes.this_process())
    store.ask_to_stop(job.id, 5, discard=True)
    store.finish(store.get(job.id), State.CANCELLED, "stopped; what was done is kept")
    app = at(opened("train"), "5 Finish")
    assert "What the training made is deleted" in said(app) and "is kept" not in said(app)
    assert [button.label for button in app.button if button.label in ("Resume", "Try again from the start")] == [
        "Try again from the start"
    ]


def test_the_button_of_the_data_page_leads_to_the_settings_for_the_chats() -> None:
    log_doors(8)
    app = at(opened("train"), "2 Data")
    app.radio(key="train-data-chats").set_value("sample").run()
    app.query_params["show"] = "Import"  # in the address, as a link leaves it
    app.switch_page("pages/data.py").run()
    assert app.session_state["show"] == "Import"
    next(button for button in app.button if button.label == "Learn from 8 new answers").click().run()
    assert not app.exception
    assert app.session_state["train_step"] == "3 Settings" and app.session_state["train_draft"].data == "chats"


def test_what_was_imported_meanwhile_is_offered_until_another_is_chosen() -> None:
    app = at(opened("train"), "2 Data")
    assert app.radio[0].value == "sample"
    log_doors(8)
    assert app.run().radio[0].value == "chats"
    app.radio[0].set_value("sample").run()
    assert app.run().radio[0].value == "sample"


def test_a_text_is_said_to_be_learned_by_heart_only(home: Path) -> None:
    app = at(opened("train"), "2 Data")
    app.radio[0].set_value("dataset").run()
    handbook = datasets.get("upload", sent("handbook.md", HANDBOOK))
    app.session_state["train_draft"] = replace(app.session_state["train_draft"], dataset=handbook)
    assert "how such text continues" in said(app.run())
    press(app, "Make questions of it")
    assert "Questions and answers made from it" in said(app)


def sent(name: str, content: bytes) -> str:
    """Upload a file as the field does; return its id. AppTest has no field for files with this much behind it."""
    return data_view.take_in(name, io.BytesIO(content), len(content), load_config().uploads).id


def press(app: AppTest, label: str) -> AppTest:
    next(button for button in app.button if button.label == label).click().run()
    assert not app.exception
    return app


def test_what_was_read_of_a_file_leaves_the_memory_when_it_is_put_away() -> None:
    app = at(opened("train"), "2 Data")
    app.radio[0].set_value("dataset").run()
    app.session_state["incoming"] = id = sent("rules.md", b"# Rules\n\nThe canteen opens at 11:25.\n")
    assert "Questions and answers made from it" in said(app.run())
    press(app, "Put it away")
    for read in (upload._peek, upload._questions):
        with pytest.raises(DatasetNotFound):
            read(id)


@pytest.mark.parametrize(  # a file's bytes hold the time at which it was made, and would make another test of each
    ("name", "content"), made_documents.documents().items(), ids=made_documents.documents()
)
def test_a_document_is_taken_as_on_the_page_data_and_its_answers_are_learned(name: str, content: bytes) -> None:
    app = at(opened("train"), "2 Data")
    app.radio[0].set_value("dataset").run()
    app.session_state["incoming"] = sent(name, content)
    assert "Questions and answers made from it" in said(app.run())
    press(app, "Learn these answers")
    (job,) = store.find(kinds=["import"])
    assert Queue().wait(job.id, 120).state == State.COMPLETED
    assert not app.run().exception
    assert app.radio[0].value == "chats" and "What it brought is learned with your chats" in said(app)
    assert made_of_documents(ConversationLogger()) > 0


def test_questions_with_answers_are_learned_as_they_are() -> None:
    app = at(opened("train"), "2 Data")
    app.radio[0].set_value("dataset").run()
    app.session_state["incoming"] = sent(
        "pairs.csv", b"question,answer\nWho are you?,A lamp.\nWhat do you do?,Shine.\n"
    )
    press(app.run(), "Learn it")
    dataset = app.session_state["train_draft"].dataset
    assert dataset.name == "pairs.csv" and app.selectbox[0].value == 0
    assert not app.get("file_uploader")[0].proto.disabled and app.session_state["incoming"] is None


@pytest.mark.parametrize("step", ["2 Data", "3 Settings", "5 Finish"])
def test_one_comes_back_to_the_step_that_one_left(step: str) -> None:
    app = at(opened("train"), step)
    app.switch_page("pages/data.py").run()
    assert "train_step" not in app.session_state or app.session_state["train_step"] == step
    app.switch_page("pages/train.py").run()
    assert not app.exception and app.session_state["train_step"] == step


def test_a_reload_comes_back_to_the_step_with_what_was_chosen() -> None:
    app = at(opened("train"), "2 Data")
    app.radio[0].set_value("dataset").run()
    address = str(app.query_params["draft"])
    again = opened("train", draft=address)  # another session, as a reload is
    assert again.session_state["train_step"] == "2 Data" and again.radio[0].value == "dataset"
    assert opened("train").session_state["train_step"] == "1 Model"  # a new tab begins anew


def test_what_another_run_was_asked_is_cloned_also_after_other_choices() -> None:
    asked = RetrainRequest(sample=True, config=load_config().changed({"training.num_epochs": 9})).record()
    job = store.add("retrain", asked, here=processes.this_process())
    store.finish(job, State.COMPLETED, "done", 0)
    app = at(opened("train"), "2 Data")
    app.radio[0].set_value("dataset").run()
    app.query_params["from"] = job.id
    app.run()
    assert not app.exception and app.session_state["train_step"] == "3 Settings"
    assert app.session_state["train_draft"].changes["training.num_epochs"] == 9
