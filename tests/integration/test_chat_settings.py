"""How a chat is answered: what a person may set, what a turn tells of it, and presets."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fine_tuning.conversation import Turn
from fine_tuning.engines.base import ChatOptions, tokens_wanted
from fine_tuning.errors import ByoaiError, DataError
from fine_tuning.integration.chat_settings import ChatSettings, delete_preset, presets, save_preset, settings_of

pytestmark = pytest.mark.usefixtures("home")


def turn(**facts: Any) -> Turn:
    return Turn(id="t", session_id="s", timestamp="", user_message="q", bot_response="a", metadata=facts)


def test_what_a_turn_tells_of_its_settings_is_read_back() -> None:
    settings = ChatSettings(system="Be brief.", temperature=0, top_p=0.5, max_tokens=5, context=512, seed=0)
    assert settings_of(turn(**settings.facts())) == settings
    assert ChatSettings(system=" \n").facts() == {}


@pytest.mark.parametrize(
    "facts",
    [
        {"options": "none"},
        {"options": {"temperature": -1, "top_p": 0, "seed": 2**40, "context": "much", "unknown": 1, "system": None}},
        {"options": {"temperature": float("nan"), "top_p": float("inf"), "max_tokens": 0}},
        {"system": ["Be brief."]},
        {"system": "x" * 100_000},
    ],
)
def test_what_cannot_be_a_setting_is_left_out(facts: dict[str, Any]) -> None:
    assert settings_of(turn(**facts)) == ChatSettings()


@given(
    st.dictionaries(
        st.text(max_size=12), st.recursive(st.none() | st.floats() | st.text(max_size=5), st.lists, max_leaves=3)
    )
)
def test_no_log_breaks_the_settings(facts: dict[str, Any]) -> None:
    settings_of(turn(options=facts, **{"system": facts}))


@pytest.mark.parametrize(
    ("options", "own", "limit"),
    [
        (ChatOptions(), {}, None),
        (ChatOptions(default_max_tokens=9), {}, 9),
        (ChatOptions(default_max_tokens=9), {"num_predict": 300}, 300),
        (ChatOptions(default_max_tokens=9), {"num_predict": -1}, 9),
        (ChatOptions(default_max_tokens=9, max_tokens=5), {"num_predict": 300}, 5),
        (ChatOptions(default_max_tokens=9, max_tokens=-1), {"num_predict": 300}, None),
        (ChatOptions(), {"num_predict": -2}, None),
    ],
)
def test_an_answer_is_limited_by_the_chat_else_by_the_model_else_by_default(
    options: ChatOptions, own: dict[str, int], limit: int | None
) -> None:
    assert tokens_wanted(options, own) == limit


def test_presets_are_kept_by_name_replaced_and_deleted(home: Path) -> None:
    assert presets() == {}
    save_preset(" zoo ", ChatSettings(seed=1))
    save_preset("Pirate", ChatSettings(system="Arr."))
    save_preset("zoo", ChatSettings(seed=2))
    assert presets() == {"Pirate": ChatSettings(system="Arr."), "zoo": ChatSettings(seed=2)}
    assert list(presets()) == ["Pirate", "zoo"]
    assert json.loads((home / "presets.json").read_text()) == {
        "presets": {"zoo": {"system": "", "seed": 2}, "Pirate": {"system": "Arr."}}
    }
    delete_preset("zoo")
    delete_preset("the id is wrong")
    assert list(presets()) == ["Pirate"]


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "two\nlines", "a\0b", "\ud800", "hid\u200bden", "a\u2028b"])
def test_a_name_that_cannot_be_seen_or_typed_is_refused(name: str, home: Path) -> None:
    with pytest.raises(DataError, match="preset's name"):
        save_preset(name, ChatSettings())
    assert not (home / "presets.json").exists()


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "Größe 7", "**bold**", "con"])
def test_any_visible_name_is_only_a_name(name: str, home: Path) -> None:
    save_preset(name, ChatSettings(seed=1))
    assert presets() == {name: ChatSettings(seed=1)}
    assert {path.name for path in home.iterdir()} <= {"presets.json", "presets.json.lock"}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"presets": []}', '{"presets": {"a": {"temperature": 9}}}', '{"presets": {"a": 1}}']
)
def test_a_file_that_holds_no_presets_is_named_and_left_alone(content: str, home: Path) -> None:
    (home / "presets.json").write_text(content)
    for act in (presets, lambda: save_preset("a", ChatSettings())):
        with pytest.raises(ByoaiError, match=r"presets\.json"):
            act()
    assert (home / "presets.json").read_text() == content


def test_presets_that_are_saved_at_once_are_all_kept() -> None:
    threads = [
        threading.Thread(target=save_preset, args=(f"p{number}", ChatSettings(seed=number))) for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(presets()) == 8


def test_there_is_an_end_to_presets(home: Path) -> None:
    (home / "presets.json").write_text(json.dumps({"presets": {str(number): {} for number in range(100)}}))
    with pytest.raises(DataError, match="delete one first"):
        save_preset("one more", ChatSettings())
    save_preset("7", ChatSettings(seed=7))
