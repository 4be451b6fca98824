"""The settings page, without a browser."""

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from ports import unused_port
from streamlit.testing.v1 import AppTest

from chatbot import server
from chatbot.parts.words import _TECHNICAL, meaning, meanings_in
from chatbot.server import APP
from fine_tuning.config import load_config
from fine_tuning.data_collection.private_details import names
from fine_tuning.integration.service import Service

pytestmark = pytest.mark.usefixtures("fresh_app")


def checked(app: AppTest) -> AppTest:
    assert not app.exception, app.exception
    return app


def open_page() -> AppTest:
    return checked(AppTest.from_file(str(APP), default_timeout=60).switch_page("pages/settings.py").run())


def test_a_change_is_kept_and_can_be_taken_back() -> None:
    app = checked(open_page().number_input(key="set-gate.forgetting").set_value(0.25).run())
    assert load_config().gate.forgetting == 0.25
    assert open_page().number_input(key="set-gate.forgetting").value == 0.25  # a reload keeps it
    app = checked(app.button(key="back-gate.forgetting").click().run())
    assert load_config().gate.forgetting == 0.05 and app.number_input(key="set-gate.forgetting").value == 0.05


def test_an_address_is_saved_only_if_an_ollama_answers_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BYOAI_ENGINE")
    before = load_config().deployment.ollama_base_url
    app = open_page()
    for typed, why in (("ftp://x", "is not a URL"), (f"127.0.0.1:{unused_port()}", "")):
        app.text_input(key="engine-address").set_value(typed)
        checked(next(button for button in app.button if button.label == "Test and save").click().run())
        assert "The address was not changed" in app.error[0].value and why in app.error[0].value
        assert load_config().deployment.ollama_base_url == before


def test_where_the_environment_names_the_engine_the_address_is_fixed() -> None:
    app = open_page()
    assert app.text_input(key="engine-address").disabled
    assert any("BYOAI_ENGINE" in caption.value for caption in app.caption)


def test_technical_words_are_explained_beside_them() -> None:
    assert meanings_in("No such word", "Help.") == "Help." and meanings_in("No such word") is None
    assert str(meanings_in("0.5 nats a token")).count("\n\n") == 1
    assert all(meaning(term) for term in _TECHNICAL)


def test_own_words_are_one_on_each_line() -> None:
    checked(open_page().text_area(key="set-data_preparation.own_words").set_value("Anna\n\n Projekt Falke ").run())
    assert load_config().data_preparation.own_words == ("Anna", "Projekt Falke")
    assert open_page().text_area(key="set-data_preparation.own_words").value == "Anna\nProjekt Falke"


def test_hours_are_set_as_two_numbers() -> None:
    checked(open_page().text_area(key="set-schedule.hours").set_value("22\n6").run())
    assert load_config().schedule.hours == (22, 6)


@pytest.mark.parametrize(
    ("kind", "key", "value", "said"),
    [
        ("number_input", "gate.questions", 1.5, "less than or equal to 1"),
        ("number_input", "gate.forgetting", -1.0, "greater than or equal to 0"),
        ("number_input", "schedule.new_turns", 0, "greater than or equal to 1"),
        ("text_area", "schedule.hours", "25\n6", "less than or equal to 23"),
        ("text_area", "schedule.hours", "noon\n6", "valid integer"),
        ("text_area", "data_preparation.own_words", "…", "no letter or digit"),
    ],
)
def test_what_is_refused_says_why_beside_its_field(kind: str, key: str, value: object, said: str) -> None:
    before = load_config()
    app = checked(getattr(open_page(), kind)(key=f"set-{key}").set_value(value).run())
    assert said in app.error[0].value and load_config() == before


def test_a_server_with_settings_of_its_own_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_service", Service(load_config(overrides={"gate.slower": 0.4})))
    app = open_page()
    assert "settings of its own" in app.info[0].value
    assert all(each.disabled for each in (*app.toggle, *app.number_input, *app.text_area))


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = {"notify.command": ["notify-send", "SECRET"], "deployment.ollama_base_url": "http://me:SECRET@127.0.0.1:9"}
    monkeypatch.setattr(server, "_service", Service(load_config(overrides=secret)))
    assert "SECRET" not in repr(open_page().main)


def test_the_doctor_offers_to_fetch_a_base_that_is_missing(home: Path) -> None:
    app = open_page()
    app = checked(next(button for button in app.button if button.label == "Examine").click().run())
    assert any("**base**" in text.value for text in app.markdown)
    assert "Fetch the base" in [button.label for button in app.button]


def test_names_are_replaced_only_where_what_finds_them_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(names, "version", gone)
    app = checked(open_page().toggle(key="set-data_collection.scrub_names").set_value(True).run())
    assert "byoai[presidio]" in app.error[0].value and not load_config().data_collection.scrub_names
