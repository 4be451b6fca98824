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
from fine_tuning.errors import Busy
from fine_tuning.integration.service import Service
from fine_tuning.integration.settings import change_engine

pytestmark = pytest.mark.usefixtures("fresh_app")


def checked(app: AppTest) -> AppTest:
    assert not app.exception, app.exception
    return app


def open_page() -> AppTest:
    return checked(AppTest.from_file(str(APP), default_timeout=60).switch_page("pages/settings.py").run())


def save_address(app: AppTest, address: str) -> None:
    app.text_input(key="engine-address").set_value(address)
    checked(next(button for button in app.button if button.label == "Test and save").click().run())


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
        save_address(app, typed)
        assert "The address was not changed" in app.error[0].value and why in app.error[0].value
        assert load_config().deployment.ollama_base_url == before


@pytest.mark.engine
def test_the_address_of_a_real_ollama_is_saved_and_used_at_once(
    ollama_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BYOAI_ENGINE")
    before, other = load_config().deployment.ollama_base_url, ollama_url.replace("127.0.0.1", "localhost")
    app = open_page()
    for typed in (ollama_url, other):
        save_address(app, typed)
        assert not app.error and load_config().deployment.ollama_base_url == typed
        assert typed.removeprefix("http://") in app.text[0].value  # the line that says where the engine is
    checked(app.button(key="back-address").click().run())
    assert load_config().deployment.ollama_base_url == before == app.text_input(key="engine-address").value


def test_where_something_else_names_the_engine_the_address_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page says why in the words with which a change is refused."""
    own = Service(load_config(overrides={"gate.slower": 0.4}))
    cases = ((Service(), "BYOAI_ENGINE"), (Service(ollama_url="http://x:1"), "--ollama-url"), (own, "settings of its"))
    for service, why in cases:
        monkeypatch.setattr(server, "_service", service)
        app = open_page()
        assert app.text_input(key="engine-address").disabled
        with pytest.raises(Busy, match=why) as refused:
            change_engine(service, "http://127.0.0.1:1")
        assert f"{refused.value}.".lower() in [caption.value.lower() for caption in app.caption]


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
