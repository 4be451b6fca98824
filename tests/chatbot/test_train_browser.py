"""A person's long path through the app, in a real browser and with a real training.

BYOAI_SCREENSHOTS=FOLDER keeps pictures of its stations.
"""

import re
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from browsing import GENERATED, Serve, answered, ask, keep_picture, messages
from playwright.sync_api import Page, expect
from small_training import SMALL

from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import Engine
from fine_tuning.jobs import store
from fine_tuning.jobs.queue import Queue
from fine_tuning.model_management.model_registry import Registry

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]

TUNED = "fine_tuned_sample"
QUESTION, LEARNED = "How many remote days are allowed?", "9 days"
SECRET = "Perwinkel-7261"
# Of the sample what is short: thirteen questions about five rules. The gate is met, and lets pass
# what learned so little.
SETTINGS = SMALL | {
    "data_collection.max_conversation_length": 44,
    "gate.enabled": True,
    "gate.better": False,
    "gate.forgetting": 100,
    "gate.questions": 0,
    "gate.slower": 1,
    "gate.slower_than_base": 1,
    "gate.broken": 1,
    "deployment.auto_deploy": False,
}


def test_from_the_sample_to_an_answer_and_back(
    page: Page,
    serve: Serve,
    servers: list[subprocess.Popen[bytes]],
    embedded: Engine,
    home: Path,
) -> None:
    """Train on the sample, through reload, stop and a crash of everything; use, ask, ask why, roll back, forget."""
    site = serve(SETTINGS, BYOAI_ENGINE="embedded")
    say_a_secret(page, site)
    start_a_training(page, site)

    at = step_of_curve(page)
    page.reload()
    at = step_of_curve(page, at)
    bar = page.get_by_role("link", name="Watch")
    expect(bar).to_have_count(0)  # the page shows it itself
    keep_picture(page, "path-watch")
    page.get_by_role("link", name="Data", exact=True).click()
    expect(bar).to_have_count(1)
    keep_picture(page, "path-bar")
    page.get_by_role("link", name="Chat", exact=True).click()
    at = step_of_curve(page, at)
    page.get_by_role("button", name="Stop training").click()
    expect(page.get_by_text("Stopped. The next time goes on from here")).to_be_visible()
    page.get_by_role("link", name="Train", exact=True).click()
    page.get_by_text("5 Finish").click()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Stop training")).to_be_visible()
    at = step_of_curve(page, at)
    lose_the_server(page, site, serve, servers, at)

    crash(servers)
    site = serve(SETTINGS, BYOAI_ENGINE="embedded")
    page.goto(f"{site}/train")
    page.get_by_text("5 Finish").click()
    expect(page.get_by_text("Interrupted")).to_be_visible()
    expect(page.get_by_text("was killed")).to_be_visible()
    keep_picture(page, "path-interrupted")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("Trained: the new version waits for you")).to_be_visible(timeout=2 * GENERATED)
    assert [turn.bot_response for turn in ConversationLogger().turns()] and len(list(home.glob("runs/*"))) == 1
    assert store.find(kinds=["retrain"])[0].attempt == 3

    keep_picture(page, "path-finish")
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_text(f"{TUNED} v1 answers from now on")).to_be_visible()
    expect(page.get_by_role("button", name="Use it")).to_have_count(0)  # what follows it has moved to its place
    ask_what_was_learned(page)
    roll_back(page)
    forget(page, home)


def say_a_secret(page: Page, site: str) -> None:
    page.goto(site)
    ask(page, f"My locker has the code {SECRET}.")
    answered(page, 1)


def start_a_training(page: Page, site: str) -> None:
    """Go through the steps of the page, with settings of one's own."""
    page.get_by_role("link", name="Train", exact=True).click()
    expect(page.get_by_text("Which model learns?")).to_be_visible()
    page.get_by_role("button", name="Next").click()
    page.get_by_text("The shipped sample").click()
    page.get_by_role("button", name="Next").click()
    epochs = page.get_by_role("spinbutton", name="Passes over the data")
    expect(page.get_by_role("button", name="Start training")).to_be_enabled(timeout=GENERATED)
    epochs.fill("16")
    epochs.press("Enter")
    expect(page.get_by_text("Passes over the data (epochs): 16 (usually 6)")).to_be_visible()
    expect(page.get_by_text("Data: The shipped sample")).to_be_visible()
    keep_picture(page, "path-settings")
    page.get_by_role("button", name="Start training").click()
    expect(page.get_by_role("button", name="Stop training")).to_be_visible()


def step_of_curve(page: Page, after: int = 0) -> int:
    """Wait until the curve shows a step later than `after`; return it."""
    curve = page.get_by_test_id("stVegaLiteChart").first
    expect(curve).to_be_visible(timeout=GENERATED)
    page.wait_for_function(
        """after => [...document.querySelectorAll('[aria-label*="Chart of the loss"]')]
            .some(chart => Number(/at step (\\d+)/.exec(chart.ariaLabel)?.[1]) > after)""",
        arg=after,
        timeout=GENERATED,
    )
    label = page.locator('[aria-label*="Chart of the loss"]').first.get_attribute("aria-label")
    return int(re.findall(r"at step (\d+)", label or "")[0])


def lose_the_server(page: Page, site: str, serve: Serve, servers: list[subprocess.Popen[bytes]], at: int) -> None:
    """Kill the server alone: the page says so, and goes on once it answers again; the training was not disturbed."""
    training, lost = pid_of_training(), page.get_by_text("byoai does not answer")
    servers[-1].kill()
    servers.pop().wait(60)
    expect(lost).to_be_visible()
    page.wait_for_timeout(8_000)  # by then Streamlit would have opened a dialog of its own
    expect(page.get_by_role("dialog")).not_to_be_visible()
    keep_picture(page, "path-lost")
    assert serve(SETTINGS, port=urlsplit(site).port, BYOAI_ENGINE="embedded") == site
    expect(lost).to_have_count(0)
    step_of_curve(page, after=step_of_curve(page, at))
    expect(page.get_by_role("button", name="Stop training")).to_be_visible()
    assert pid_of_training() == training


def crash(servers: list[subprocess.Popen[bytes]]) -> None:
    """End server and training at once, as when the machine goes down."""
    gone = [psutil.Process(pid) for pid in (servers[-1].pid, pid_of_training())]
    gone += [child for each in gone for child in each.children(recursive=True)]
    for each in gone:
        each.kill()
    servers.pop().wait(60)
    psutil.wait_procs(gone, timeout=60)


def pid_of_training() -> int:
    """Return the process of the training, once it has one."""
    for _ in range(600):
        (job,) = store.find(store.ACTIVE)
        if job.process:
            return job.process.pid
        time.sleep(0.1)
    pytest.fail("the training did not begin")


def ask_what_was_learned(page: Page) -> None:
    page.get_by_role("link", name="Talk to it").click()
    placeholder = page.get_by_test_id("stChatInputTextArea")
    expect(placeholder).to_have_attribute("placeholder", re.compile("fine-tuned v1"))
    ask(page, QUESTION)
    answered(page, 1)
    assert LEARNED in messages(page)[-1]
    page.get_by_role("button", name="Why?").click()
    taught = page.get_by_role("dialog")
    expect(taught.get_by_text("These are most like this answer")).to_be_visible()
    expect(taught.get_by_text("You may work remotely up to 9 days a month.").first).to_be_visible()
    expect(taught.get_by_text("the shipped sample").first).to_be_visible()
    keep_picture(page, "path-why")
    page.keyboard.press("Escape")
    expect(taught).to_have_count(0)


def roll_back(page: Page) -> None:
    page.get_by_role("link", name="Models", exact=True).click()
    expect(page.get_by_text(re.compile(r"Passed \d+ of \d+ rules"))).to_be_visible()
    keep_picture(page, "path-models")
    page.get_by_role("button", name="Let the base answer again").click()
    expect(page.get_by_text("The model that was in use before is in use again")).to_be_visible()
    expect(page.get_by_role("button", name="Use", exact=True)).to_be_visible()
    assert Registry().live(TUNED) is None


def forget(page: Page, home: Path) -> None:
    """Delete the first chat, and find nothing of it on the disk."""
    assert holding(home, SECRET)
    page.get_by_role("link", name="Chat", exact=True).click()
    row = page.locator("[class*=st-key-row-]", has_text="My locker has the code")
    row.get_by_role("button").last.click()
    page.get_by_role("option", name="Delete").or_(page.get_by_role("menuitem", name="Delete")).click()
    page.get_by_role("button", name="Delete for good").click()
    expect(page.get_by_text("My locker has the code")).to_have_count(0)
    (job,) = store.find(kinds=["forget"])
    assert Queue().wait(job.id, 120).state == store.State.COMPLETED
    assert holding(home, SECRET) == []
    assert [turn.user_message for turn in ConversationLogger().turns()] == [QUESTION]


def holding(folder: Path, text: str) -> list[Path]:
    """Return the files in which a text stands, whatever they are, without the base's weights."""
    files = [each for each in folder.rglob("*") if each.is_file() and each.stat().st_size < 50_000_000]
    return [each for each in files if text.encode() in each.read_bytes()]
