"""How every page looks: light, dark and on a phone, for people who see, who hear it read, and who have no mouse.

BYOAI_SCREENSHOTS=FOLDER keeps a picture of each.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from browsing import BASE, DESK, GENERATED, GREEDY, PHONE, SOON, Serve, answered, ask, keep_picture
from playwright.sync_api import Browser, Locator, Page, expect

from chatbot.parts.train_place import STEPS
from chatbot.server import APP
from fine_tuning import paths
from fine_tuning.config import load_config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.events import Finished, Stage, Step, Watch
from fine_tuning.jobs import store
from fine_tuning.jobs.doing import listed
from fine_tuning.jobs.kinds import RetrainRequest
from fine_tuning.model_management.model_deployer import go_live
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.survey import look_through

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

TUNED = "fine_tuned_smollm2-135m"
PAGES = ["", *sorted(page.stem for page in (APP.parent / "pages").glob("*.py") if page.stem != "chat")]
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(22, 22, 26)"  # the theme's backgrounds (chatbot/server.py)


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
    look_through(load_config(), None, Watch())
    return log.session_id


def test_every_page_is_easy_to_read_with_nothing_in_it(chromium: Browser, serve: Serve, embedded: Engine) -> None:
    look_at_all(chromium, serve(BYOAI_ENGINE="embedded"), "empty", [View(each or "chat", each) for each in PAGES])


def test_every_page_section_and_dialog_is_easy_to_read(chromium: Browser, serve: Serve, full: str) -> None:
    site, chat = serve(BYOAI_ENGINE="embedded"), f"?chat={full}"
    with listed("retrain", RetrainRequest()) as told:
        tell_a_training(told)
        running = [View("chat", chat), View("data", "data"), View("train-watch", "train", in_section("4 Watch"))]
        look_at_all(chromium, site, "running", running)
        told.tell(
            Finished("registered", "better: 0.52 nats a token less", f"{TUNED}:v2", (("One?", "Two.", "Three."),))
        )
    job = store.find()[0].id
    look_at_all(chromium, site, "full", [*views_of_pages(chat, job), *views_of_dialogs(chat, job)])


class View(NamedTuple):
    """What is looked at: a page, and what is clicked on it before."""

    name: str
    address: str
    click: Callable[[Page], None] = lambda page: None


def tell_a_training(told: Watch) -> None:
    told.tell(Stage("Training"))
    for number in (1, 2, 3):
        told.tell(Step("chats", number, 12, 0.5, 3 / number, 0.3, 1e-4, 1.0, 100, 50.0, 0.5, 42.0, 10**9, 3 / number))


def views_of_pages(chat: str, job: str) -> list[View]:
    """Return every page, each followed by its sections."""
    steps = [each for each in STEPS[1:] if each != "4 Watch"]  # which shows Finish once the training is over
    sections = {"data": ["Turns", "Nearly the same", "Different answers", "Review", "Import"], "train": steps}
    views = []
    for page in PAGES:
        views.append(View(page or "chat", page or chat))
        for each in sections.get(page, ()):
            name = each.lower().lstrip("12345 ").replace(" ", "-")
            views.append(View(f"{page}-{name}", page, in_section(each)))
    return [*views, View("models-compare", "models?view=compare"), View("run", f"runs?job={job}")]


def views_of_dialogs(chat: str, job: str) -> list[View]:
    def forget(page: Page) -> None:
        page.get_by_role("button", name="Why?").first.click()
        page.get_by_role("button", name="Forget").first.click()
        expect(page.get_by_role("button", name="Forget for good")).to_be_visible()

    def models(page: Page) -> None:
        in_side_bar(page, page.locator(".st-key-models-open button").locator("visible=true"))

    def of_chat(what: str) -> Callable[[Page], None]:
        def choose(page: Page) -> None:
            in_side_bar(page, page.locator("[class*=st-key-menu-] button").locator("visible=true").first)
            page.get_by_role("menuitem", name=what).or_(page.get_by_role("option", name=what)).first.click()

        return choose

    def turn(page: Page) -> None:
        in_section("Turns")(page)
        page.get_by_role("button").filter(has_text=re.compile("Open$")).first.click()

    return [
        View("learned", chat, in_dialog(forget)),
        View(
            "chat-settings",
            chat,
            in_dialog(lambda page: page.locator(".st-key-settings button").locator("visible=true").click()),
        ),
        View("models-dialog", chat, in_dialog(models)),  # from here on, a phone shows the side bar above the page
        View("rename", chat, in_dialog(of_chat("Rename"))),
        View("delete", chat, in_dialog(of_chat("Delete"))),
        View("turn", "data", in_dialog(turn)),
        View(
            "delete-run", f"runs?job={job}", in_dialog(lambda page: page.get_by_role("button", name="Delete").click())
        ),
    ]


def in_section(name: str) -> Callable[[Page], None]:
    def choose(page: Page) -> None:
        section = page.get_by_role("radio", name=name)
        if not section.is_checked():
            drawn = page.evaluate("window.timesDrawn")
            section.click()
            page.wait_for_function("drawn => window.timesDrawn > drawn", arg=drawn)
        expect(section).to_be_checked()
        if name == "3 Settings":
            expect(page.get_by_role("heading", name="Summary")).to_be_visible(timeout=GENERATED)

    return choose


def in_dialog(open_it: Callable[[Page], None]) -> Callable[[Page], None]:
    def choose(page: Page) -> None:
        open_it(page)
        expect(page.get_by_role("dialog")).to_be_visible()

    return choose


def in_side_bar(page: Page, target: Locator) -> None:
    """Click on a target in the side bar, which may be folded away on a phone."""
    if (fold := page.get_by_test_id("stExpandSidebarButton")).is_visible():
        fold.click()
    target.click()


def look_at_all(chromium: Browser, site: str, name: str, views: Sequence[View]) -> None:
    """Look at every view in every look, and tell all faults at once. No request may leave the machine.

    The sections and dialogs of a page are gone through as they are by a person: the page is loaded once.
    """
    requests: list[str] = []
    faults: list[str] = []
    for device in (DESK, PHONE):
        page = opened(chromium, device)
        page.on("request", lambda request: requests.append(request.url))
        page.on("websocket", lambda websocket: requests.append(websocket.url))
        loaded = None
        for view in sorted(views, key=lambda view: view.address):
            if view.address != loaded:
                page.goto(f"{site}/{view.address}")
                settled(page)
                loaded = view.address
            view.click(page)
            settled(page)
            faults += faults_in_looks(page, f"{view.name}-{name}")
            if page.get_by_role("dialog").count():
                page.keyboard.press("Escape")
                expect(page.get_by_role("dialog")).to_have_count(0)
                settled(page)
        page.context.close()
    assert not faults, "\n".join(faults)
    assert {urlsplit(url).netloc for url in requests if not url.startswith(("data:", "blob:"))} == {
        urlsplit(site).netloc
    }


def opened(chromium: Browser, device: dict[str, Any]) -> Page:
    """Open a tab that counts in `window.timesDrawn` how often Streamlit has begun to draw its page."""
    page = chromium.new_context(**device).new_page()
    page.set_default_timeout(SOON)
    page.add_init_script(
        """window.timesDrawn = 0
        new MutationObserver((changes) => {
            const state = changes[0].target.dataset.testScriptState
            window.timesDrawn += state === "running" || state === "rerunRequested"
        }).observe(document, {subtree: true, attributeFilter: ["data-test-script-state"]})"""
    )
    return page


def faults_in_looks(page: Page, name: str) -> list[str]:
    """Return the faults of a page as it is drawn now, on a phone, or light and dark."""
    found: list[str] = []
    is_phone = page.viewport_size == PHONE["viewport"]
    for look in ("phone",) if is_phone else ("light", "dark"):
        page.emulate_media(color_scheme="dark" if look == "dark" else "light")
        expect(page.get_by_test_id("stApp")).to_have_css("background-color", DARK if look == "dark" else LIGHT)
        keep_picture(page, f"{name}-{look}")
        faults = (*lasting_faults(page, look), *overflow(page), *wrapped(page), *nameless(page))
        found += [f"{name}, {look}: {fault}" for fault in faults]
    page.emulate_media(color_scheme="light")
    return found


def settled(page: Page) -> None:
    """Wait until the page is drawn whole."""
    expect(page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]')).to_be_visible()
    expect(page.locator('[data-testid="stMain"] [data-testid="stElementContainer"]').first).to_be_attached()
    expect(page.locator('[data-stale="true"]')).to_have_count(0)
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)
    page.evaluate("document.fonts.ready.then(() => true)")


def lasting_faults(page: Page, look: str) -> list[str]:
    """Return the faults that are still found when all is drawn: what is drawn anew is dimmed for a moment."""
    found = faults_of(page, look)
    if found:
        settled(page)
        found = faults_of(page, look)
    return found


def faults_of(page: Page, look: str) -> list[str]:
    """Return what axe-core finds serious or critical, one line an element. In the dark, only colours differ."""
    rules = {"runOnly": ["color-contrast"]} if look == "dark" else {}
    if not page.evaluate("'axe' in window"):  # half a megabyte: once for each time that a page is loaded
        page.evaluate(AXE_SCRIPT)
    options = {"resultTypes": ["violations"], **rules}
    found = page.evaluate("options => axe.run(options).then(found => found.violations)", options)
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


def wrapped(page: Page) -> list[str]:
    """Return a fault if the steps of a training are not in one row."""
    steps = page.locator(".st-key-train_step").get_by_role("radio").all()
    rows = {box["y"] for each in steps if (box := each.bounding_box())}
    return ["the steps are in several rows"] * (len(rows) > 1)


def nameless(page: Page) -> list[str]:
    """Return the buttons that screen readers call by the name of their icon, and icons without a tooltip."""
    unnamed = page.get_by_role("button", name=re.compile(r"^\w+ icon$")).all()
    bare = page.locator('[class*="st-key-icon-"]:has(button):not(:has([data-testid="stTooltipHoverTarget"]))').all()
    return [f"a button without a name: {each.inner_text()}" for each in unnamed] + [
        f"an icon without a tooltip: {each.inner_text()}" for each in bare
    ]


def test_the_menu_of_a_narrow_window_closes_when_a_page_is_chosen(chromium: Browser, site: str) -> None:
    page = opened(chromium, PHONE)
    page.goto(site)
    settled(page)
    page.get_by_test_id("stExpandSidebarButton").click()
    expect(page.get_by_test_id("stSidebar")).to_have_attribute("data-collapsed", "false")
    page.get_by_role("link", name="Settings", exact=True).click()
    expect(page.get_by_role("heading", name="Settings", exact=True)).to_be_visible()
    expect(page.get_by_test_id("stSidebar")).to_have_attribute("data-collapsed", "true")
    page.context.close()


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
    expect(page.get_by_text("stopped, learned only if you give it a thumbs-up or edit it")).to_be_visible()
    ask(page, "Write another very long story about the lighthouse, please.")  # not over before it is stopped
    expect(page.get_by_text("▌")).to_be_visible(timeout=GENERATED)
    page.keyboard.press("Escape")
    answered(page, 2)

    tab_to(page, "^Thumbs up$")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Say why")).to_be_visible()
    assert [turn.metadata["rating"] for turn in ConversationLogger().turns() if "rating" in turn.metadata] == ["up"]
    typing = page.get_by_test_id("stChatInputTextArea")
    typing.fill("half a quest")
    tab_to(page, "^Data$")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Data", exact=True)).to_be_visible()
    tab_to(page, "^Chat$")
    page.keyboard.press("Enter")
    expect(typing).to_have_value("half a quest")
    expect(page.get_by_test_id("stChatInputSubmitButton")).to_be_enabled()  # the page knows of it, too


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
