"""From no model to an answer without a terminal, in a browser."""

from pathlib import Path

import pytest
from browsing import Serve, answered, ask
from playwright.sync_api import Page, expect

from fine_tuning.integration.first_model import BUTTON

pytestmark = pytest.mark.browser


def test_a_first_model_is_fetched_on_the_chat_page_and_answers(
    page: Page, serve: Serve, base_gguf: Path, tmp_path: Path
) -> None:
    """The cache holds the base; there is no network, and no Ollama."""
    kept = tmp_path / "cache" / "byoai" / "models"
    kept.mkdir(parents=True)
    (kept / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(base_gguf.read_bytes())
    offline = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PIP_NO_INDEX": "1"}
    page.goto(serve({"chat.max_tokens": 20}, BYOAI_ENGINE="embedded", **offline))
    page.get_by_role("button", name=BUTTON).click()
    expect(page.get_by_test_id("stChatInputTextArea")).to_be_enabled()
    expect(page.get_by_role("button", name=BUTTON)).to_have_count(0)
    ask(page, "What is the capital of France?")
    answered(page, 1)
