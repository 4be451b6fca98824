"""What tests of the pages do in a browser."""

import os
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

BASE = "smollm2:135m"
GREEDY = {"stop": ["<|im_start|>", "<|im_end|>"], "temperature": 0, "num_predict": 80}
SOON, GENERATED = 60_000, 300_000  # milliseconds: what the page does at once; what a model does on two busy cores
# moving parts are drawn by the processor, sixty times a second
DESK = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light", "reduced_motion": "reduce"}
PHONE = {**DESK, "viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}

expect.set_options(timeout=SOON)

Serve = Callable[..., str]


def ask(page: Page, text: str) -> None:
    """Send a question; the field takes none while an attached file is on its way."""
    page.get_by_test_id("stChatInputTextArea").fill(text)
    expect(page.get_by_test_id("stChatInputSubmitButton")).to_be_enabled()
    page.get_by_test_id("stChatInputTextArea").press("Enter")


def messages(page: Page) -> list[str]:
    return page.get_by_test_id("stChatMessage").all_inner_texts()


def answered(page: Page, count: int) -> None:
    """Wait until `count` answers are whole: only then they can be rated."""
    expect(page.get_by_test_id("stFeedback")).to_have_count(count, timeout=GENERATED)


def keep_picture(page: Page, name: str) -> None:
    """Keep a picture of the page in the folder that BYOAI_SCREENSHOTS names; without it, none."""
    if folder := os.environ.get("BYOAI_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")
