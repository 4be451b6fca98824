"""Names and postal addresses, through presidio."""

import time
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path

import pytest
from timing import in_time, seconds

from fine_tuning.config import FineTuningConfig
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.cleaning.kept_decisions import KeptDecisions
from fine_tuning.data_collection.cleaning.turn_decisions import CleanSettings
from fine_tuning.data_collection.data_cleaner import DataCleaner
from fine_tuning.data_collection.privacy import scrub
from fine_tuning.data_collection.private_details import names
from fine_tuning.errors import ConfigError
from fine_tuning.planning import sift

pytestmark = pytest.mark.skipif(  # without importing it, which takes seconds also where no test of this file runs
    find_spec("presidio_analyzer") is None, reason="presidio is not installed (the extra byoai[presidio])"
)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("My name is Anna Lee, hello.", "My name is [NAME], hello."),
        ("i am Peter O'Neill from accounts", "i am [NAME] from accounts"),
        ("I am German, and I'm Happy to help.", "I am German, and I'm Happy to help."),
        (
            "Hi Tom,\nthe keys are here.\n\nBest regards,\nAnne-Marie Duval",
            "Hi [NAME],\nthe keys are here.\n\nBest regards,\n[NAME]",
        ),
        ("Hello World! Hi there, dear Customer.", "Hello World! Hi there, dear Customer."),
        (
            "Sehr geehrte Frau Dr. von Arnim,\nIch heiße Jörg Weiß.",
            "Sehr geehrte Frau Dr. [NAME],\nIch heiße [NAME].",
        ),
        (
            "Je m'appelle Zoé Petit et j'habite au 3, rue du Moulin, 12345 Neuville.",
            "Je m'appelle [NAME] et j'habite au [ADDRESS].",
        ),
        ("Меня зовут Ольга Петрова.", "Меня зовут [NAME]."),
        ("我叫李明，住在北京。", "我叫[NAME]，住在北京。"),
        ("My name is Anna Lee. Anna Lee, with two e.", "My name is [NAME]. [NAME], with two e."),
        ("I live at 12 Mill Lane, Newtown, OH 44444.", "I live at [ADDRESS]."),
        ("Ich wohne Mühlweg 3, 12345 Neustadt.", "Ich wohne [ADDRESS]."),
        ("We meet at our place on Thursday at 16:00.", "We meet at our place on Thursday at 16:00."),
        ("Platz 3 ging an 12 Leute in 1999.", "Platz 3 ging an 12 Leute in 1999."),
        ("`name: Anna Lee` and anna@example.org", "`name: Anna Lee` and [EMAIL]"),
    ],
)
def test_what_a_sentence_announces_is_found(text: str, clean: str) -> None:
    assert scrub(text, names=True).text == clean
    assert "[NAME]" not in scrub(text).text and "[ADDRESS]" not in scrub(text).text


def turn_of(number: int, asked: str, said: str) -> Turn:
    return Turn(id=f"{number}", session_id="s", timestamp="", user_message=asked, bot_response=said)


TURNS = [
    turn_of(1, "My name is Anna Lee, and who are you?", "My name is Bo Falk, I think."),
    turn_of(2, "Then write a letter, please.", "Dear Anna Lee,\nit is done."),
]


def test_a_name_is_the_same_throughout_a_conversation(home: Path) -> None:
    config = FineTuningConfig().changed({"data_collection.scrub_names": True})
    kept = sift(config, TURNS)
    said = [text for turn in kept.conversations[0].turns for text in (turn.user_message, turn.bot_response)]
    assert "[NAME_1]" in said[0] and "[NAME_2]" in said[1] and said[3] == "Dear [NAME_1],\nit is done."
    assert kept.scrubbed == {"name": 3} and sift(FineTuningConfig(), TURNS).scrubbed == {}


def test_a_kept_decision_holds_for_what_found_the_names(home: Path, tmp_path: Path) -> None:
    settings = (CleanSettings(names_by=by) for by in ("", names.recogniser()))
    found = [DataCleaner(each, kept=KeptDecisions(tmp_path / "log")) for each in settings]
    texts = [cleaner.filter_conversations([{"id": "s", "turns": TURNS}]).scrubbed for cleaner in (*found, *found)]
    assert texts == [{}, {"name": 3}] * 2


def test_without_the_extra_it_is_said_how_to_install_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(names, "version", gone)
    config = FineTuningConfig().changed({"data_collection.scrub_names": True})
    with pytest.raises(ConfigError, match=r"scrub_names needs presidio.*byoai\[presidio\]"):
        sift(config, TURNS)
    sift(config.changed({"data_preparation.scrub_pii": False}), TURNS)  # nothing is replaced, so nothing is needed


@pytest.mark.parametrize(
    "piece", ["A-a", "Aa ", "Aa-", "Straße ", "Aa, ", "1 Aa, Aa ", "Dr. ", "Calle A ", "ул. А ", "가시 ", "区市"]
)
def test_no_text_takes_long(piece: str) -> None:
    scrub("My name is Anna.", names=True)
    text = piece * (3000 // len(piece))
    in_time(lambda: seconds(lambda: scrub(text, names=True), time.process_time), 5)
