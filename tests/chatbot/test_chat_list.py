"""The list of chats in headless Chromium: an old chat is found, opened, renamed, pinned, filed, and
deleted for good.
"""

import re
import time
from pathlib import Path

import pytest
from browsing import SOON
from native_children import wait_until
from playwright.sync_api import Locator, Page, expect

from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log.chat_labels import Label, labels

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SECRET, TITLE = "zorbexine", "Quandolet matters"


def holding(home: Path, text: str) -> list[str]:
    return [str(path) for path in home.rglob("*") if path.is_file() and text.encode() in path.read_bytes().lower()]


def menu_of(page: Page, chat: str) -> Locator:
    """The button of a chat's menu: with a tooltip there are two, one of them for narrow windows."""
    return page.locator(f".st-key-menu-{chat} button").locator("visible=true")


def menu(page: Page, chat: str, what: str) -> None:
    menu_of(page, chat).click()
    page.get_by_role("menuitem", name=what).or_(page.get_by_role("option", name=what)).first.click()


def test_an_old_chat_is_found_opened_renamed_pinned_filed_and_deleted_from_the_disk(
    page: Page, site: str, home: Path
) -> None:
    log = ConversationLogger()
    old = log.new_session()
    log.log_conversation("Where do we keep the ladder?", f"In the shed. The word for its lock is {SECRET}.")
    for number in range(25):
        log.new_session()
        log.log_conversation(f"Question {number}?", "Yes.")
    page.goto(site)
    chats = page.locator(".st-key-chats")
    expect(chats.get_by_text("Question 24?")).to_be_visible()
    expect(chats.get_by_text("Where do we keep the ladder?")).to_have_count(0)

    search = page.get_by_placeholder("Search all chats")
    search.fill("LOCK word")
    search.press("Enter")
    expect(chats.locator("strong", has_text="lock")).to_be_visible()
    chats.get_by_role("button", name="Where do we keep the ladder?").dblclick()  # as some do, or on a slow machine
    expect(page.get_by_test_id("stChatMessage").get_by_text(SECRET)).to_be_visible()
    expect(page).to_have_url(re.compile(f"chat={old}"))

    menu(page, old, "Rename")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Title").fill(TITLE)
    dialog.get_by_role("button", name="Save").click()
    expect(chats.get_by_role("button", name=TITLE)).to_be_visible()
    expect(dialog).to_have_count(0)
    menu(page, old, "Move to a folder")
    folder = dialog.get_by_role("combobox")
    folder.fill("House")
    folder.press("Enter")
    dialog.get_by_role("button", name="Move").click()
    expect(dialog).to_have_count(0)
    search.fill("")
    search.press("Enter")
    expect(chats.get_by_text("House · 1")).to_be_visible()
    menu(page, old, "Pin")
    expect(chats.get_by_text("Pinned")).to_be_visible()
    assert labels() == {old: Label(TITLE, True, "House")}
    assert holding(home, SECRET) and holding(home, TITLE.lower())

    menu(page, old, "Delete")
    expect(dialog.get_by_text("1 answer will be removed")).to_be_visible()
    dialog.get_by_role("button", name="Delete for good").click()
    expect(chats.get_by_text(TITLE)).to_have_count(0)
    expect(page.get_by_text("What is on your mind?")).to_be_visible()
    deadline = time.monotonic() + SOON / 1000
    while (left := [*holding(home, SECRET), *holding(home, TITLE.lower())]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
    assert len(log.turns()) == 25


def test_a_chat_that_is_gone_on_with_elsewhere_moves_up_by_itself_and_an_open_dialog_stays(
    page: Page, site: str
) -> None:
    log = ConversationLogger()
    first = log.new_session()
    log.log_conversation("One?", "Yes.")
    log.new_session()
    log.log_conversation("Two?", "Yes.")
    page.goto(site)
    rows = page.locator('.st-key-chats [class*="st-key-chat-"]')
    expect(rows.first).to_have_text("Two?")
    menu(page, first, "Rename")
    field = page.get_by_role("dialog").get_by_label("Title")
    field.fill("half a ti")
    ConversationLogger(session_id=first).log_conversation("And?", "No.")
    expect(rows.first).to_have_text("One?")
    expect(field).to_have_value("half a ti")


def in_the_window(element: Locator) -> bool:
    box, size = element.bounding_box(), element.page.viewport_size
    return bool(box and size and box["x"] >= 0 and box["x"] + box["width"] <= size["width"])


def test_the_list_works_at_a_phones_width(page: Page, site: str) -> None:
    log = ConversationLogger()
    log.log_conversation("A question that is much longer than a phone is wide, and goes on and on?", "Yes.")
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(site)
    page.get_by_test_id("stExpandSidebarButton").click()
    button = menu_of(page, log.session_id)
    expect(button).to_be_visible()
    wait_until(lambda: in_the_window(button))  # the side bar slides in
