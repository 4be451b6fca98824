"""The light page: what it sends and what it lets a browser load; and, in real Chromium, a training
from the form to its verdict.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hub_stand_in import TOKEN, Hub, Repository, serving
from playwright.sync_api import Browser, Page, Route, expect
from ports import unused_port
from small_training import SMALL, log_doors

from fine_tuning.api import train_form
from fine_tuning.api.app import create_app
from fine_tuning.api.pages import UI
from fine_tuning.api.routes.ui import UiFile
from fine_tuning.api.security import TOKEN_HEADER, Access, Door, Token
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.default_base import CHATML
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import ConfigError
from fine_tuning.events import Finished, Note, events_to
from fine_tuning.integration import setting_fields
from fine_tuning.integration.service import Service
from fine_tuning.jobs import processes, store
from fine_tuning.jobs.store import State

OWN = "http://127.0.0.1:8501"
BASE = "smollm2:135m"
TINY = {  # of a training whose page is looked at, and not its result
    **SMALL,
    "evaluation.metrics": ["perplexity"],
    "evaluation.max_new_tokens": 4,
    "evaluation.generate": 1,
    "evaluation.general": 1,
    "evaluation.triggers": 0,
    "evaluation.leak_samples": 0,
}
GREEDY = {"stop": ["<|im_start|>", "<|im_end|>"], "temperature": 0}


# What the server sends


@pytest.fixture
def client(home: Path) -> TestClient:
    return TestClient(Door(create_app(Service(load_config)), Access(8501), Token()), base_url=OWN)


class Parts(HTMLParser):
    """What stands in a page: (tag, attributes) of each element, and the text within scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("script", "style") and data.strip():
            self.inline.append(data)

    def meta(self, name: str) -> str:
        return next(str(each["content"]) for tag, each in self.found if tag == "meta" and each.get("name") == name)


def test_the_page_brings_the_token_and_runs_nothing_inline(client: TestClient) -> None:
    answer = client.get("/api/ui")
    page = Parts(answer.text)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    assert page.meta("byoai-token") == Token().read()
    assert page.inline == []
    assert [each for _, each in page.found for name in each if name.startswith("on") or name == "style"] == []
    strict, doors = answer.headers.get_list("content-security-policy")
    assert "script-src 'self';" in strict and "unsafe" not in strict
    assert "frame-ancestors 'none'" in doors
    # said twice, it would count as not said
    assert answer.headers.get_list("cross-origin-resource-policy") == ["same-origin"]
    assert answer.headers["cache-control"] == "no-store"


def test_every_file_that_the_page_loads_is_served_and_no_other(client: TestClient) -> None:
    for file in UiFile:
        answer = client.get(f"/api/ui/{file}")
        assert answer.status_code == 200 and answer.content == (UI / file).read_bytes()
        assert answer.headers["content-type"].startswith(("text/javascript", "text/css"))
        imported = re.findall(r'from "\./([^"]+)"', answer.text)
        assert {UiFile(name) for name in imported} <= set(UiFile)
    assert {path.name for path in UI.iterdir() if path.suffix in (".js", ".css")} == set(UiFile)


@pytest.mark.parametrize(
    "file",
    [
        "page.html.jinja",
        "login.html.jinja",
        "..%2fsecurity.py",
        "..%2f..%2fconfig.py",
        "app.js%00",
        "APP.JS",
        "app.js/",
        "%2fetc%2fpasswd",
        "..\\api.py",
    ],
)
def test_no_other_file_is_served(client: TestClient, file: str) -> None:
    assert client.get(f"/api/ui/{file}").status_code in (404, 422)


def test_a_file_of_the_page_is_text_and_cannot_become_markup() -> None:
    """All that the server says gets into the page as text."""
    for file in UI.glob("*.js"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|srcdoc", text
        ), file


def test_without_other_pages_the_first_one_is_the_light_one(client: TestClient) -> None:
    answer = client.get("/", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/api/ui")


def test_over_the_network_a_stranger_is_sent_to_the_login_and_gets_no_token(home: Path) -> None:
    access = Access(8501, hosts=("192.168.1.5",), lan=True)
    client = TestClient(
        Door(create_app(Service(load_config)), access, Token()),
        base_url="http://192.168.1.5:8501",
        follow_redirects=False,
    )
    answer = client.get("/api/ui")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert client.get("/api/ui/app.js").status_code == 401
    known = client.get("/api/ui", headers={TOKEN_HEADER: Token().read()})
    assert Parts(known.text).meta("byoai-token") == Token().read()


def test_what_the_page_goes_by_is_the_configuration(client: TestClient) -> None:
    log_doors(3)
    facts = json.loads(Parts(client.get("/api/ui").text).meta("byoai-facts"))
    config = load_config()
    assert facts["base"] == config.training.base_model
    assert facts["defaults"]["training.learning_rate"] == config.training.learning_rate
    assert facts["few"]["values"]["training.lora_r"] == config.with_profile("few_shot").training.lora_r
    assert facts["chats"] == {"turns": 3, "new": 3, "handbook": False, "trouble": ""}


def test_the_page_comes_although_the_log_is_none(client: TestClient) -> None:
    path = ConversationLogger().path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir()
    facts = json.loads(Parts(client.get("/api/ui").text).meta("byoai-facts"))
    assert facts["chats"]["trouble"]


@pytest.mark.parametrize("setting", train_form.SETTINGS, ids=lambda setting: setting.name)
def test_the_bounds_are_those_that_the_configuration_takes(setting: train_form.Setting) -> None:
    bounds = setting_fields.bounds(setting.key)
    inside = [edge for edge in (bounds.least, bounds.most) if edge is not None]
    outside = [edge for edge in (bounds.above, bounds.below) if edge is not None]
    outside += [edge - 1 for edge in (bounds.least,) if edge is not None] + [
        edge + 1 for edge in (bounds.most,) if edge is not None
    ]
    assert outside
    for edge in inside:
        FineTuningConfig().changed({setting.key: edge})
    for edge in outside:
        with pytest.raises(ConfigError):
            FineTuningConfig().changed({setting.key: edge})


# The page in a browser

SOON, TRAINED = 60_000, 240_000  # milliseconds: what the page does at once; what a training does on two busy cores

expect.set_options(timeout=SOON)


class Serve:
    """Starts servers without other pages on the test's data folder, on the embedded engine."""

    def __init__(self, home: Path) -> None:
        self._environment = {**os.environ, "BYOAI_HOME": str(home), "BYOAI_ENGINE": "embedded"}
        self._started: list[subprocess.Popen[bytes]] = []

    def __call__(self, port: int | None = None, **environment: str) -> str:
        """Start one, with these variables besides; return its address once it answers."""
        access = Access(port or unused_port())
        code = f"""
from fine_tuning.api.background import serve
from fine_tuning.api.security import Access
from fine_tuning.config import load_config
serve(Access({access.port}), load_config(overrides={TINY!r}))
"""
        self._started.append(subprocess.Popen([sys.executable, "-c", code], env=self._environment | environment))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._started[-1].poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{access.url}/api/jobs"):
                return access.url
            time.sleep(0.1)
        pytest.fail("the server did not start")

    def stop(self) -> None:
        """Stop all that run."""
        while self._started:
            process = self._started.pop()
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:  # it waits for an open page
                process.kill()
                process.wait(10)


@pytest.fixture
def serve(home: Path) -> Iterator[Serve]:
    servers = Serve(home)
    yield servers
    servers.stop()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page that must not tell of any fault in its console."""
    context = chromium.new_context(viewport={"width": 390, "height": 844}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(SOON)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None
    )
    yield page
    context.close()
    assert faults == []


@pytest.fixture
def base(home: Path, small_base: Path) -> None:
    """A base that is trained in seconds: the page is looked at, and not what was learned."""
    EmbeddedEngine(home / "engine").create(BASE, ModelSpec(from_=small_base, template=CHATML, parameters=GREEDY))


def missing(page: Page) -> str:
    return page.locator("#missing").inner_text()


@pytest.mark.browser
@pytest.mark.timeout(120)
def test_the_form_says_what_is_missing_in_plain_words(page: Page, serve: Serve, home: Path) -> None:
    url = serve()
    page.goto(f"{url}/api/ui")
    train = page.get_by_role("button", name="Train")
    expect(train).to_be_disabled()
    assert "There are 0 questions with answers in your chats" in missing(page)
    log_doors(3)
    page.reload()
    expect(train).to_be_enabled()
    page.get_by_text("More settings").click()
    for label, value, told in (
        ("Passes over the data (epochs)", "0", "enter a whole number, 1 or more."),
        ("Passes over the data (epochs)", "2.5", "enter a whole number"),
        ("Passes over the data (epochs)", "", "enter a whole number"),
        ("Learning rate", "1", "enter a number, above 0 and below 1."),
        ("Learning rate", "0", "above 0"),
        ("Left out at random (dropout)", "1", "enter a number, 0 or more and below 1."),
        ("Size of what is added (rank)", "-8", "1 or more"),
        ("Conversations in a step", "99999999999", "at most 2147483647"),
        ("Longest conversation, in tokens", "15", "16 or more"),
    ):
        field = page.get_by_label(label, exact=True)
        before = field.input_value()
        field.fill(value)
        expect(train).to_be_disabled()
        assert f"{label}: " in missing(page) and told in missing(page)
        expect(field).to_have_attribute("aria-invalid", "true")
        field.fill(before)
        expect(train).to_be_enabled()
    page.get_by_label("Method").select_option("full")
    expect(page.get_by_label("Size of what is added (rank)", exact=True)).to_be_hidden()
    page.get_by_role("radio", name=re.compile("A file")).check()
    expect(train).to_be_disabled()
    assert "Choose a file" in missing(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # of a phone


@pytest.mark.browser
@pytest.mark.timeout(120)
def test_a_lost_reply_starts_no_second_training(page: Page, serve: Serve, home: Path) -> None:
    log_doors(3)
    store.add("sweep", {}, here=processes.this_process(), detached=True)  # so that the training waits
    page.goto(f"{serve()}/api/ui")
    lost: list[str] = []

    def lose(route: Route) -> None:
        if route.request.method == "POST" and len(lost) < 2:
            lost.append(route.request.post_data or "")
            if len(lost) == 2:
                route.fetch()  # it arrives, and the reply does not
            route.abort()
        else:
            route.continue_()

    page.route("**/api/jobs", lose)
    page.get_by_role("button", name="Train").click()
    expect(page.locator("#refused")).to_contain_text("did not answer")
    expect(page.locator("#job-title")).to_have_text("Training on your chats: waiting")
    assert lost[0] == lost[1]
    assert len(store.find(kinds=["retrain"])) == 1


@pytest.mark.browser
@pytest.mark.timeout(180)
def test_a_page_goes_on_when_its_server_was_gone(page: Page, serve: Serve, home: Path) -> None:
    url = serve()
    job = store.add("retrain", {}, here=processes.this_process(), detached=True)
    log = page.get_by_role("log")
    with events_to(job.events) as tell:
        tell(Note("<b>the first</b>"))
        page.goto(f"{url}/api/ui")  # what runs is shown without being asked for
        expect(log).to_have_text("<b>the first</b>")  # as text
        serve.stop()
        expect(page.locator("#notice")).to_contain_text("The connection is lost")
        tell(Note("the second"))
        serve(int(url.rpartition(":")[2]))
        expect(log.locator("p")).to_have_text(["<b>the first</b>", "the second"])
        expect(page.locator("#notice")).to_be_hidden()
        tell(Finished("refused", "kept as a candidate"))
    store.finish(job, State.COMPLETED, "kept as a candidate", 0)
    expect(page.locator("#verdict")).to_contain_text("Trained, but not better: the old version stays")
    expect(page.locator("#verdict")).to_contain_text("kept as a candidate")


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_presets_fill_the_fields_and_say_what_they_take(page: Page, serve: Serve, base: None) -> None:
    log_doors(10)
    page.goto(f"{serve()}/api/ui")
    level, takes = page.get_by_label("How thorough"), page.locator("#level-help")
    epochs = page.get_by_label("Passes over the data (epochs)")
    expect(takes).to_contain_text("of memory", timeout=TRAINED)  # a job has found it out
    usual = epochs.input_value()
    level.select_option(label="Thorough")
    expect(epochs).not_to_have_value(usual)
    more = epochs.input_value()
    assert int(more) > int(usual)
    expect(takes).to_contain_text("of memory")
    epochs.fill("1000")
    expect(level.locator("option:checked")).to_have_text("As set below")
    epochs.fill(more)
    expect(level.locator("option:checked")).to_have_text("Thorough")
    page.get_by_role("button", name="Back to the defaults").click()
    expect(epochs).to_have_value(usual)
    assert [job.kind for job in store.find()] == ["plan"]
    expect(page.locator("#no-jobs")).to_be_visible()  # of which nothing is to be looked back on


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_from_the_form_to_its_verdict(page: Page, serve: Serve, base: None, home: Path) -> None:
    log_doors(10)
    url = serve()
    page.goto(url)  # without other pages, this is the first one
    expect(page).to_have_title("byoai · train")
    page.get_by_label("Passes over the data (epochs)").fill("2")
    expect(page.locator("#summary")).to_contain_text("Passes over the data (epochs): 2")
    page.get_by_role("button", name="Train").press("Enter")
    expect(page.locator("#job-title")).to_have_text("Training on your chats: running")
    expect(page.locator("#log")).to_contain_text("step 2 of", timeout=TRAINED)
    expect(page.locator("#bar")).not_to_have_js_property("value", 0)
    page.reload()
    expect(page.locator("#log")).to_contain_text("step 2 of")  # told again from the beginning
    expect(page.locator("#curve svg")).to_be_visible(timeout=TRAINED)
    verdict = page.locator("#verdict")
    expect(verdict).to_contain_text("Trained, and better: the new version answers", timeout=TRAINED)
    expect(verdict).to_contain_text("fine_tuned_smollm2-135m:v1 is live")
    expect(page.get_by_role("list")).to_contain_text("done")
    (job,) = store.find(kinds=["retrain"])
    assert job.request["config"]["training"]["num_epochs"] == 2


@pytest.mark.browser
@pytest.mark.timeout(120)
def test_a_dataset_of_hugging_face_is_fetched_by_its_name_and_learned(
    page: Page, serve: Serve, home: Path, tmp_path: Path
) -> None:
    held = store.add("sweep", {}, here=processes.this_process(), detached=True)  # so that the training waits
    rows = [{"question": f"Which shelf holds tool {number}?", "answer": f"Shelf {number}."} for number in range(12)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    hub = Hub()
    hub.repositories["me/shelves"] = Repository(True, "dataset", {"data/train.jsonl": content})
    with serving(hub) as address:
        told = {"HF_ENDPOINT": address, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        page.goto(f"{serve(XDG_CACHE_HOME=str(tmp_path / 'cache'), **told)}/api/ui")
        page.get_by_role("radio", name=re.compile("A dataset of Hugging Face")).check()
        assert "Name a dataset, and fetch it" in missing(page)
        page.get_by_label("Name", exact=True).fill("me/nothing")
        page.get_by_role("button", name="Fetch").click()
        expect(page.locator("#hub-told")).to_contain_text("cannot fetch the dataset me/nothing")
        page.get_by_label("Name", exact=True).fill("me/shelves")
        page.get_by_role("button", name="Fetch").click()
        expect(page.locator("#hub-told")).to_contain_text("It is there: 12 examples")
        expect(page.locator("#hub-seen")).to_contain_text("Which shelf holds tool 0?")
    expect(page.locator("#summary")).to_contain_text("me/shelves of Hugging Face")
    page.get_by_role("button", name="Train").click()
    expect(page.locator("#job-title")).to_have_text("Training on a file: waiting")
    (job,) = store.find(kinds=["train"])
    assert job.request["config"]["dataset"]["format"] == "jsonl"
    assert Path(home / job.request["config"]["dataset"]["path"]).read_text().count("Which shelf") == 12
    store.finish(held, State.COMPLETED, "", 0)


@pytest.mark.browser
@pytest.mark.timeout(120)
def test_a_file_is_sent_in_pieces_over_lost_connections_and_is_learned(
    page: Page, serve: Serve, home: Path, tmp_path: Path
) -> None:
    held = store.add("sweep", {}, here=processes.this_process(), detached=True)  # so that the training waits
    page.goto(f"{serve()}/api/ui")
    file = tmp_path / "Hand book (2).jsonl"
    rows = [
        {"question": f"Which shelf holds tool {number}?", "answer": f"Shelf {number} " + "left " * 40_000}
        for number in range(48)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert file.stat().st_size > 2 * 4 << 20  # more than two pieces
    lost: list[str] = []

    def lose(route: Route) -> None:
        """Lose a reply, then a request."""
        lost.append(route.request.url)
        if len(lost) == 1:
            route.fetch()
        if len(lost) in (1, 3):
            return route.abort()
        return route.continue_()

    page.route("**/api/uploads/*?offset=*", lose)
    page.get_by_role("radio", name=re.compile("A file")).check()
    page.get_by_label("File", exact=True).set_input_files(file)
    expect(page.locator("#file-told")).to_contain_text("It is there")
    assert len(lost) > 3
    expect(page.locator("#file-seen")).to_contain_text("Which shelf holds tool 0?")
    (sent,) = (home / "uploads").glob("*/content/*")
    assert sent.read_bytes() == file.read_bytes()
    page.get_by_label("File", exact=True).set_input_files([])
    expect(page.locator("#missing")).to_contain_text("Choose a file")
    page.get_by_label("File", exact=True).set_input_files(file)  # it is there already: nothing is sent
    expect(page.locator("#file-told")).to_contain_text("It is there")
    assert len(list((home / "uploads").glob("*/content/*"))) == 1
    page.get_by_role("button", name="Train").click()
    expect(page.locator("#job-title")).to_contain_text("Training on a file: waiting")
    (job,) = store.find(kinds=["train"])
    assert Path(job.request["config"]["dataset"]["path"]) == sent
    assert job.request["config"]["dataset"]["format"] == "jsonl"
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop, and discard what is done").click()
    expect(page.locator("#verdict")).to_contain_text("discarded")
    assert store.get(job.id).state == State.CANCELLED and not store.get(held.id).over


@pytest.mark.browser
def test_files_that_cannot_be_learned_are_refused_in_words(
    page: Page, serve: Serve, home: Path, tmp_path: Path
) -> None:
    page.goto(f"{serve()}/api/ui")
    page.get_by_role("radio", name=re.compile("A file")).check()
    for name, content, told in (
        ("empty.jsonl", b"", "The file is empty"),
        ("program.csv", b"\x7fELF\x02\x01\x01" + bytes(64), "is a program"),
        ("model.txt", b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s.", "pickle"),
        ("picture.txt", b"\x89PNG\r\n\x1a\n" + bytes(range(32)) * 8, "neither text nor PDF"),
        ("pages.md", b"PK\x03\x04" + bytes(64), "damaged ZIP archive"),
        ("broken.jsonl", b'{"question": "a?", "answer": "b"}\n{"question": \n', "To be mended first: line 2"),
    ):
        (tmp_path / name).write_bytes(content)
        page.get_by_label("File", exact=True).set_input_files(tmp_path / name)
        expect(page.locator("#file-part")).to_contain_text(told)
