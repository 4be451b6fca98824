"""How every page looks: light, dark and on a phone, for people who see, who hear it read, and who have no mouse.

BYOAI_SCREENSHOTS=FOLDER keeps a picture of each.
"""

import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import BASE, GENERATED, GREEDY, SOON, Serve, answered, ask, keep_picture
from playwright.sync_api import Browser, Page, expect

from chatbot.server import APP
from fine_tuning import paths
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.model_management.model_deployer import go_live
from fine_tuning.model_management.model_registry import Registry

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

TUNED = "fine_tuned_smollm2-135m"
PAGES = ["", *sorted(page.stem for page in (APP.parent / "pages").glob("*.py") if page.stem != "chat")]
DESK = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"}
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(22, 22, 26)"  # the theme's backgrounds (chatbot/server.py)
PHONE = {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "is_mobile": True, "has_touch": True}


@pytest.fixture
def full(home: Path, embedded: Engine) -> str:
    """The sample as the log, all of it learned by two versions of which the second is live, and a
    chat with its answer; the chat's id.
    """
    log = ConversationLogger()
    log.path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(paths.SAMPLES / "conversations.jsonl", log.path)
    ids = [turn.id for turn in log.turns()]
    for number in (1, 2):
        Registry().add(TUNED, number, base_tag=BASE, turns=ids[: 75 * number], verdict="better: 0.52 nats a token less")
        embedded.create(f"{TUNED}:v{number}", ModelSpec(from_=BASE, parameters={**GREEDY, "seed": number}))
    go_live(embedded, Registry(), TUNED, 2)
    facts = {"model": f"{TUNED}:v2", "seconds": 1.4, "tokens": 31}
    log.log_conversation(
        "How many days can I work from home?", "Up to **9 days** a month.\n\n| a | b |\n|---|---|\n| 1 | 2 |", facts
    )
    log.rate(
        log.log_conversation("And in the holidays?", "`Nobody` works then, see https://example.com.", facts).id, "up"
    )
    return log.session_id


def test_every_page_is_easy_to_read_with_nothing_in_it(chromium: Browser, serve: Serve, embedded: Engine) -> None:
    look_at_all(chromium, serve(BYOAI_ENGINE="embedded"), "empty")


def test_every_page_is_easy_to_read(chromium: Browser, serve: Serve, full: str) -> None:
    look_at_all(chromium, serve(BYOAI_ENGINE="embedded"), "full", f"?chat={full}")


def look_at_all(chromium: Browser, site: str, name: str, chat: str = "") -> None:
    """Look at every page in every look, and tell all faults at once. No request may leave the machine."""
    requests: list[str] = []
    faults: list[str] = []
    for device in (DESK, PHONE):
        page = opened(chromium, device)
        page.on("request", lambda request: requests.append(request.url))
        page.on("websocket", lambda websocket: requests.append(websocket.url))
        for address in PAGES:
            page.goto(f"{site}/{address or chat}")
            settled(page)
            faults += faults_in_looks(page, f"{address or 'chat'}-{name}")
        page.context.close()
    assert not faults, "\n".join(faults)
    assert {urlsplit(url).netloc for url in requests if not url.startswith(("data:", "blob:"))} == {
        urlsplit(site).netloc
    }


def opened(chromium: Browser, device: dict[str, Any]) -> Page:
    page = chromium.new_context(**device).new_page()
    page.set_default_timeout(SOON)
    return page


def faults_in_looks(page: Page, name: str) -> list[str]:
    """Return the faults of a page as it is drawn now, on a phone, or light and dark."""
    found: list[str] = []
    is_phone = page.viewport_size == PHONE["viewport"]
    for look in ("phone",) if is_phone else ("light", "dark"):
        page.emulate_media(color_scheme="dark" if look == "dark" else "light")
        expect(page.get_by_test_id("stApp")).to_have_css("background-color", DARK if look == "dark" else LIGHT)
        keep_picture(page, f"{name}-{look}")
        found += [f"{name}, {look}: {fault}" for fault in (*faults_of(page), *overflow(page))]
    page.emulate_media(color_scheme="light")
    return found


def settled(page: Page) -> None:
    """Wait until the page is drawn whole."""
    expect(page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]')).to_be_visible()
    expect(page.locator('[data-testid="stMain"] [data-testid="stElementContainer"]').first).to_be_attached()
    expect(page.locator('[data-stale="true"]')).to_have_count(0)
    page.evaluate("document.fonts.ready.then(() => true)")


def faults_of(page: Page) -> list[str]:
    """Return what axe-core finds serious or critical, one line an element."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{fault['id']} ({fault['impact']}): {node['html'][:300]} {node['target']} "
        f"{node.get('failureSummary', '')[:300]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def overflow(page: Page) -> list[str]:
    """Return what is wider than the window, which would have to be scrolled sideways."""
    wide = page.evaluate(
        """() => [document.scrollingElement, ...document.querySelectorAll('[data-testid="stMain"], [data-testid="stAppViewContainer"]')]
            .filter(each => each.scrollWidth > each.clientWidth + 1)
            .map(each => `${each.dataset.testid || each.tagName} ${each.scrollWidth} > ${each.clientWidth}`)"""  # noqa: E501
    )
    return [f"wider than the window: {each}" for each in wide]


def test_what_opens_on_top_of_a_page_is_as_easy_to_read(chromium: Browser, serve: Serve, full: str) -> None:
    """With a primary button."""
    site, faults = serve(BYOAI_ENGINE="embedded"), []
    for device in (DESK, PHONE):
        page = opened(chromium, device)
        page.goto(f"{site}?chat={full}")
        settled(page)
        page.get_by_role("button", name="Why?").first.click()
        page.get_by_role("button", name="Forget").first.click()
        expect(page.get_by_role("button", name="Forget for good")).to_be_visible()
        settled(page)
        faults += faults_in_looks(page, "learned-full")
        page.context.close()
    assert not faults, "\n".join(faults)


def test_all_can_be_done_with_the_keyboard(page: Page, serve: Serve, embedded: Engine) -> None:
    embedded.create(BASE, ModelSpec(from_=BASE, parameters={"num_predict": 3000}))
    page.goto(serve(BYOAI_ENGINE="embedded"))
    settled(page)
    reached = by_tab(page)
    assert {"Data", "Train", "Runs", "Models", "Settings"} <= reached, reached
    assert any("New chat" in each or "Who answers" in each for each in reached) and any(
        "Message" in each for each in reached
    ), reached

    tab_to(page, "^Message ")
    page.keyboard.type("Write a very long story about a lighthouse and its keeper.")
    page.keyboard.press("Enter")
    expect(page.get_by_text("▌")).to_be_visible(timeout=GENERATED)
    tab_to(page, r"Stop\s+Esc$")
    page.keyboard.press("Enter")
    answered(page, 1)
    expect(page.get_by_text("stopped, nothing is learned from it")).to_be_visible()
    ask(page, "Write another very long story about the lighthouse, please.")  # not over before it is stopped
    expect(page.get_by_text("▌")).to_be_visible(timeout=GENERATED)
    page.keyboard.press("Escape")
    answered(page, 2)

    tab_to(page, "^Thumbs up$")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Say why")).to_be_visible()
    assert [turn.metadata["rating"] for turn in ConversationLogger().turns() if "rating" in turn.metadata] == ["up"]
    tab_to(page, "^Data$")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Data", exact=True)).to_be_visible()


_FOCUSED = """() => {
    const at = document.activeElement
    return at.ariaLabel || at.placeholder || at.innerText || at.title || at.tagName
}"""


def by_tab(page: Page) -> set[str]:
    """Return the names of what the Tab key reaches, one after the other."""
    found: set[str] = set()
    page.locator("body").press("Tab")
    for _ in range(60):
        found.add(focused(page))
        page.keyboard.press("Tab")
    return found


def tab_to(page: Page, name: str) -> None:
    """Press Tab until what is focused is called so (a regular expression)."""
    passed = set()
    for _ in range(150):
        page.keyboard.press("Tab")
        if re.search(name, focused(page)):
            return
        passed.add(focused(page))
    pytest.fail(f"Tab does not lead to {name}, but to {passed}")


def focused(page: Page) -> str:
    return " ".join(str(page.evaluate(_FOCUSED)).split())
