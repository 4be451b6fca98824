"""A person's path through models and settings, in a browser."""

from pathlib import Path

import pytest
from browsing import BASE, GENERATED, Serve
from playwright.sync_api import Locator, Page, expect

from fine_tuning.config import load_config
from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.model_management import elo
from fine_tuning.model_management.model_registry import Registry

pytestmark = pytest.mark.browser

NAME = "fine_tuned_smollm2-135m"


def test_versions_are_used_and_compared_and_a_setting_stays(page: Page, serve: Serve, embedded: Engine) -> None:
    for number in (1, 2):
        embedded.create(f"{NAME}:v{number}", ModelSpec(from_=BASE, parameters={"seed": number, "num_predict": 4}))
        Registry().add(NAME, number)
    embedded.copy(f"{NAME}:v1", f"{NAME}:latest")
    Registry().promote(NAME, 1)
    address = serve(BYOAI_ENGINE="embedded")

    page.goto(f"{address}/models")
    page.get_by_role("button", name="Use", exact=True).click()
    back = page.get_by_role("button", name="Answer with v1 again")
    expect(back).to_be_visible()
    back.click()
    expect(page.get_by_role("button", name="Answer with v2 again")).to_be_visible()
    assert Registry().live(NAME).number == 1  # type: ignore[union-attr]

    page.goto(f"{address}/models?view=compare")
    page.get_by_label("Question").fill("What is a mat?")
    page.get_by_role("button", name="Ask both").click()
    page.get_by_role("button", name="Both bad").click(timeout=GENERATED)
    expect(page.get_by_text("Your vote: both bad.")).to_be_visible()
    assert set(elo.ratings()) == {BASE, f"{NAME}:v1"}
    page.get_by_role("link", name="Data", exact=True).click()
    expect(page.get_by_role("heading", name="Data", exact=True)).to_be_visible()  # else Data may not run at all
    page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_role("radio", name="Compare").click()  # versions have buttons of that name
    expect(page.get_by_role("button", name="Ask both")).to_be_visible()
    expect(page.get_by_text("Your vote: both bad.")).to_have_count(0)  # it went when the page was left

    page.goto(f"{address}/settings")
    choose_dark(page)
    page.get_by_role("spinbutton", name="New questions needed").fill("250")
    page.get_by_role("spinbutton", name="New questions needed").press("Enter")
    expect(page.get_by_text("Default: 100")).to_be_visible()
    page.reload()
    expect(page.get_by_role("spinbutton", name="New questions needed")).to_have_value("250")
    assert load_config().schedule.new_turns == 250


def test_what_can_be_made_of_a_version_is_reached_by_keyboard(
    page: Page, serve: Serve, embedded: Engine, home: Path
) -> None:
    for number in (1, 2):
        folder = home / "runs" / f"r{number}" / "adapter"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        embedded.create(f"{NAME}:v{number}", ModelSpec(from_=BASE, parameters={"seed": number}))
        Registry().add(NAME, number, run=f"runs/r{number}", base_digest="b1")
    page.goto(f"{serve(BYOAI_ENGINE='embedded')}/models")
    tab_to(page, page.locator("summary", has_text="Make it smaller, or combine it with another").first)  # of v2
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Measure")).to_be_enabled()
    tab_to(page, page.get_by_role("radio", name="Smaller"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Weight of fine-tuned v1")).to_be_visible()
    tab_to(page, page.get_by_role("button", name="Combine", exact=True))
    expect(page.get_by_role("button", name="Combine", exact=True)).to_be_enabled()


def choose_dark(page: Page) -> None:
    """Choose the dark theme on the page Settings; it holds on other pages, too, and after a reload."""
    page.get_by_role("radiogroup", name="Light or dark").get_by_text("dark", exact=True).click()
    app = page.get_by_test_id("stApp")
    expect(app).to_have_css("background-color", "rgb(22, 22, 26)")
    assert load_config().chat.theme == "dark"
    page.get_by_role("link", name="Data", exact=True).click()
    expect(page.get_by_role("heading", name="Data", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Data", exact=True)).to_be_visible()
    expect(app).to_have_css("background-color", "rgb(22, 22, 26)")
    page.get_by_role("link", name="Settings", exact=True).click()


def tab_to(page: Page, target: Locator) -> None:
    """Press Tab until the focus is on the target."""
    expect(target).to_be_visible()
    for _ in range(60):
        page.keyboard.press("Tab")
        if target.evaluate("each => each === document.activeElement || each.contains(document.activeElement)"):
            return
    pytest.fail(f"60 presses of Tab did not reach {target}")
