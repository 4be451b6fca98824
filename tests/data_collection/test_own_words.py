"""Words that a person named as private."""

from itertools import pairwise
from pathlib import Path

import pytest

from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.cleaning.clean_turns import CleanTurn, clean_turn
from fine_tuning.data_collection.cleaning.turn_decisions import CleanSettings, clean_text
from fine_tuning.data_collection.privacy import finds, scrub
from fine_tuning.errors import ConfigError
from fine_tuning.planning import sift


@pytest.mark.parametrize(
    ("words", "text", "clean"),
    [
        (
            ["Anna"],
            "Anna's cat is called anna, not Annabel or Joanna.",
            "[PRIVATE]'s cat is called [PRIVATE], not Annabel or Joanna.",
        ),
        (["Projekt Falke"], "Das PROJEKT\nFalke und das Projektfalke.", "Das [PRIVATE] und das Projektfalke."),
        (["田中"], "私は田中です。田中さんと田中Annaは", "私は[PRIVATE]です。[PRIVATE]さんと[PRIVATE]Annaは"),
        (["김철수"], "김철수는 왔다", "[PRIVATE]는 왔다"),
        (["สมชาย"], "คุณสมชายไปไหน", "คุณ[PRIVATE]ไปไหน"),
        (["राम"], "राम आया, रामायण नहीं", "[PRIVATE] आया, रामायण नहीं"),
        (["Müller"], "MÜLLER, Müllerin, (Müller)", "[PRIVATE], Müllerin, ([PRIVATE])"),
        (["Ann", "Ann Lee"], "Ann Lee met Ann.", "[PRIVATE] met [PRIVATE]."),
        (["Olga"], "Олга Olga_Olga _Olga_ Olga2", "Олга [PRIVATE]_[PRIVATE] _[PRIVATE]_ Olga2"),
        (["Ольга"], "ОЛЬГА и Ольга, но не Ольгадор", "[PRIVATE] и [PRIVATE], но не Ольгадор"),
        (["C++", "a.b"], "C++ and a.b, not axb", "[PRIVATE] and [PRIVATE], not axb"),
        (["Ｆａｌｃｏｎ"], "Falcon ｆａｌｃｏｎ Falcons", "[PRIVATE] [PRIVATE] Falcons"),
        (["Jose"], "Jose and Jose\u0301", "[PRIVATE] and Jose\u0301"),
        (["firma"], "Write to me@firma.de at Firma.", "Write to [EMAIL] at [PRIVATE]."),
        (["call me@firma.de now"], "Please call me@firma.de now!", "Please [PRIVATE]!"),
        ([], "Anna", "Anna"),
    ],
)
def test_whole_words_become_a_placeholder(words: list[str], text: str, clean: str) -> None:
    assert scrub(text, words).text == clean


def test_finds_do_not_overlap_and_counts_are_told() -> None:
    found = finds("Anna, anna@example.org, Anna B. at 10.0.0.1", ["Anna", "Anna B", "b. at 10"])
    assert all(one.end <= other.start for one, other in pairwise(found))
    assert scrub("Anna and Ben", ["anna", "ben"]).counts == {"private": 2}


def test_the_cleaning_replaces_them_everywhere_it_replaces_details() -> None:
    settings = CleanSettings(own_words=["Anna"])
    turn = Turn(
        id="1",
        session_id="s",
        timestamp="",
        user_message="Where does Anna keep the key?",
        bot_response="Anna keeps it under the mat.",
    )
    cleaned = clean_turn(turn, settings)
    assert isinstance(cleaned, CleanTurn)
    assert "Anna" not in cleaned.turn.user_message + cleaned.turn.bot_response and cleaned.found == {"private": 2}
    assert clean_text("Anna", settings).text == "[PRIVATE]"
    assert clean_text("Anna", CleanSettings(scrub_pii=False, own_words=["Anna"])).text == "Anna"


def test_the_configuration_tells_the_cleaning(home: Path) -> None:
    config = FineTuningConfig().changed({"data_preparation.own_words": ["Anna"]})
    turn = Turn(
        id="1",
        session_id="s",
        timestamp="",
        user_message="Where does Anna keep the key?",
        bot_response="Anna keeps it under the mat.",
    )
    kept = sift(config, [turn])
    assert "Anna" not in kept.conversations[0].turns[0].user_message and kept.scrubbed == {"private": 2}


def test_many_turns_are_cleaned_by_the_same_words_in_other_processes(home: Path) -> None:
    config = FineTuningConfig().changed({"data_preparation.own_words": ["Anna"]})
    asked, said = "Where does Anna keep key number {}?", "In box {}, below."
    turns = [
        Turn(id=f"{n}", session_id=f"s{n}", timestamp="", user_message=asked.format(n), bot_response=said.format(n))
        for n in range(2100)
    ]
    assert not any("Anna" in each.turns[0].user_message for each in sift(config, turns).conversations)


@pytest.mark.parametrize("wrong", ["", "  ", "…", "-", "a\nb", "x" * 201])
def test_what_is_no_word_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="own_words"):
        load_config(overrides={"data_preparation.own_words": [wrong]})
