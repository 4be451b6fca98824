"""What the pages offer where no model is there, without a browser."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from chatbot.server import APP, service
from fine_tuning.events import Count, Stage, events_to
from fine_tuning.integration.first_model import BUTTON
from fine_tuning.jobs import store
from fine_tuning.jobs.processes import this_process
from fine_tuning.jobs.store import State

pytestmark = pytest.mark.usefixtures("fresh_app")


def opened(page: str) -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=30).run()
    if page != "chat":
        app.switch_page(f"pages/{page}.py").run()
    assert not app.exception
    return app


def labels(app: AppTest) -> list[str]:
    return [button.label for button in app.button]


@pytest.mark.parametrize("page", ["chat", "models", "train"])
def test_each_page_that_needs_a_model_says_so_and_offers_one_button(page: str) -> None:
    app = opened(page)
    assert "There is no model yet. A small one is 98 MB, downloaded once." in [info.value for info in app.info]
    assert labels(app).count(BUTTON) == 1


@pytest.mark.parametrize("page", ["chat", "models", "train"])
def test_while_it_is_fetched_each_page_shows_how_far_it_is(home: Path, page: str) -> None:
    job = store.add("fetch_base", {}, here=this_process())
    with events_to(job.events) as tell:
        tell(Stage("Fetching the base model"))
        tell(Count(30, 90, "bytes"))
    app = opened(page)
    assert BUTTON not in labels(app) and labels(app).count("Stop") == 1
    store.finish(store.get(job.id), State.FAILED, "cannot download the base model: no network", 4)
    app = opened(page)
    assert any("no network" in warning.value for warning in app.warning) and labels(app).count(BUTTON) == 1


def test_the_button_asks_for_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def submit(kind: str, request: dict[str, object], origin: str) -> store.Job:
        asked.append((kind, origin))
        return store.add(kind, request, here=this_process())

    monkeypatch.setattr(service().queue, "submit", submit)
    app = opened("models")
    next(button for button in app.button if button.label == BUTTON).click().run()
    assert not app.exception and asked == [("fetch_base", "the page (models)")]
