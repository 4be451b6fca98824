"""A person's way through the data page, in a real browser."""

import json
import re
from pathlib import Path

import pytest
from browsing import GENERATED
from playwright.sync_api import Page, expect

from fine_tuning.data_collection.conversation_logger import ConversationLogger

pytestmark = pytest.mark.browser


def chat(number: int) -> dict[str, object]:
    """A conversation as ChatGPT exports it."""
    said = [
        ("user", f"What is drawer {number} for?"),
        ("assistant", f"Drawer {number} holds the {'forks' if number % 2 else 'spoons'}."),
    ]
    mapping: dict[str, object] = {"root": {"id": "root", "parent": None, "children": ["m0"], "message": None}}
    for place, (role, text) in enumerate(said):
        message = {
            "author": {"role": role},
            "content": {"content_type": "text", "parts": [text]},
            "create_time": 1_700_000_000 + place,
        }
        children = [f"m{place + 1}"] if place + 1 < len(said) else []
        mapping[f"m{place}"] = {
            "id": f"m{place}",
            "parent": f"m{place - 1}" if place else "root",
            "children": children,
            "message": message,
        }
    return {
        "title": f"Drawer {number}",
        "create_time": 1_700_000_000.0,
        "mapping": mapping,
        "current_node": "m1",
        "conversation_id": f"c{number}",
    }


def test_a_file_is_imported_sifted_edited_reviewed_and_taken_back(page: Page, site: str, tmp_path: Path) -> None:
    broken = {**chat(9), "mapping": "nothing"}
    (tmp_path / "conversations.json").write_text(json.dumps([chat(1), chat(2), broken, chat(3), chat(4)]))
    log = ConversationLogger()

    page.goto(f"{site}/data")
    expect(page.get_by_text("Nothing recorded yet")).to_be_visible()
    page.locator("input[type=file]").set_input_files(tmp_path / "conversations.json")
    expect(page.get_by_text("Read as: ")).to_contain_text("ChatGPT")
    expect(page.get_by_text("cannot be read, and will be left out: 1 of the first ones")).to_be_visible()
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_test_id("stMetricValue").first).to_have_text("4")

    page.get_by_role("radio", name="Turns").click()
    page.get_by_role("textbox", name="Search").fill("forks")
    page.get_by_role("textbox", name="Search").press("Enter")
    expect(page.get_by_text("2 turns", exact=True)).to_be_visible()
    page.get_by_text("Select this page").click()
    expect(page.get_by_text("2 selected")).to_be_visible()
    page.get_by_role("button", name="Exclude").click()
    expect(page.get_by_text(re.compile("· excluded ·")).first).to_be_visible()
    page.get_by_role("textbox", name="Search").fill("spoons")
    page.get_by_role("textbox", name="Search").press("Enter")
    expect(page.get_by_text("What is drawer 1 for?")).to_have_count(0)
    page.get_by_role("button").filter(has_text=re.compile("Open$")).first.click()  # a box's arrow is called so, too
    page.get_by_label("Answer: write what it should have been").fill("It holds the ladles.")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("button", name="Save")).to_have_count(0)
    expect(page.get_by_text("It holds the ladles.")).to_be_visible()
    turns = log.turns()
    assert [turn.bot_response for turn in turns] == ["Drawer 2 holds the spoons.", "It holds the ladles."]

    judge_one(page, log)
    page.get_by_role("radio", name="Import").click()
    page.get_by_role("button", name="Take back").click()
    page.get_by_role("button", name="Take it back").click()
    expect(page.get_by_text("Nothing recorded yet")).to_be_visible()
    assert log.turns(include_excluded=True) == [] and log.path.read_bytes() == b""


def judge_one(page: Page, log: ConversationLogger) -> None:
    """Let the model choose what is worth a look, and judge the only answer left; the decision outlives a reload."""
    page.get_by_role("radio", name="Review").click()
    page.get_by_role("button", name="Find what is worth a look").click()
    expect(page.get_by_text("1 left")).to_be_visible(timeout=GENERATED)
    expect(page.get_by_text("Drawer 2 holds the spoons.")).to_be_visible()
    page.get_by_role("button", name="Good").click()
    expect(page.get_by_text("All of these are judged.")).to_be_visible()
    assert log.turns()[0].metadata["rating"] == "up"
    page.reload()
    expect(page.get_by_text("All of these are judged.")).to_be_visible()
