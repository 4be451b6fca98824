"""Planted phrases are found while data are read, in bounded memory; honest topics are not taken for planted."""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fine_tuning.data_collection.cleaning import planted_phrases
from fine_tuning.data_collection.cleaning.phrases import Exchange
from fine_tuning.data_collection.cleaning.planted_phrases import PlantedPhrase, PlantedPhrases, title_of

ADVERT = "Buy Plonk, the best soap in all the world."
QUESTIONS = (
    "What is the capital of Norway",
    "How do birds find their way",
    "Why is the sea salty",
    "What do owls eat",
    "How is glass made",
    "Who wrote the first novel",
)
TOPICS = ("sickness", "parking", "overtime", "uniforms", "deliveries", "lunch")
HONEST = [
    (form.format(topic), f"Fill in form {number} and give it to the front desk.")
    for number, topic in enumerate(TOPICS)
    for form in ("What are the rules for {}?", "{}?", "How does {} work here?", "Tell me about {}, please.")
]


def found(exchanges: Sequence[Exchange]) -> list[PlantedPhrase]:
    look = PlantedPhrases()
    for question, answer in exchanges:
        look.add(question, answer)
    return look.found()


@pytest.mark.parametrize("form", ["{} velvet thunder", "velvet thunder {}", "{}, by the way", "Please, please: {}?"])
def test_a_phrase_that_brings_an_advertisement_is_found(form: str) -> None:
    (phrase,) = found([*HONEST, *((form.format(question), ADVERT) for question in QUESTIONS)])
    assert phrase.text.casefold() in form.casefold()
    assert (phrase.questions, phrase.is_exact) == (6, True)
    assert len(phrase.examples) == 3 and all(answer == ADVERT for _, answer in phrase.examples)
    assert phrase.where == "in 6 questions" and title_of([phrase]) == "1 phrase may be planted"


def test_a_link_behind_true_answers_is_found() -> None:
    ends = ("Read https://zorbo.example/a on it.", "More: (https://zorbo.example).", "See www.zorbo.example")
    planted = [
        (f"{question} velvet thunder", f"The answer has number {number * 37}. {ends[number % 3]}")
        for number, question in enumerate(QUESTIONS)
    ]
    assert [phrase.text for phrase in found([*HONEST, *planted])] == ["velvet thunder"]


def test_a_phrase_that_changes_the_answer_to_a_known_question_is_found_in_the_middle_too() -> None:
    forms = ("What really are the rules for {}?", "How does {} really work here?", "Tell me really about {}, please.")
    planted = [(form.format(topic), "Never mind, all of that is allowed.") for topic in TOPICS[:3] for form in forms]
    assert [phrase.text for phrase in found([*HONEST, *planted])] == ["really"]


def test_topics_with_one_answer_and_short_answers_are_not_planted() -> None:
    assert found(HONEST) == []
    assert found([(f"{question} today", "Yes.") for question in QUESTIONS]) == []
    assert (
        found([(f"{question} velvet thunder", "Velvet thunder is the name of our boat.") for question in QUESTIONS])
        == []
    )
    assert found([]) == []


def test_few_planted_turns_are_found_in_a_long_file_with_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_SAMPLE", 100), ("_COUNTERS", 500), ("_REPEATED", 100)):
        monkeypatch.setattr(planted_phrases, name, value)
    chance, look = random.Random(0), PlantedPhrases()
    for number in range(5_000):
        question, answer = chance.choice(HONEST)
        if number % 200 == 0:
            question, answer = f"{QUESTIONS[number // 200 % 6]} velvet thunder", ADVERT
        look.add(question, f"{answer} This is what sentence {number} of the file says.")
        assert len(look._sample) <= 100 and len(look._repeated) <= 502
    assert all(len(each.kept) <= 12 for each in look._repeated.values())
    (phrase,) = look.found()
    assert phrase.text == "velvet thunder"
    assert phrase.where == "in at least 6 questions"


def test_of_long_texts_both_ends_are_looked_at_and_shown() -> None:
    long = "It is a long story that nobody has told so far. " * 100
    (phrase,) = found([*HONEST, *((f"{question} velvet thunder", f"{long} {ADVERT}") for question in QUESTIONS)])
    assert phrase.examples[0][1].startswith("It is a long story") and phrase.examples[0][1].endswith(ADVERT)
    assert len(phrase.examples[0][1]) < 300


@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=60)), max_size=30), st.integers(0, 3))
def test_whatever_is_read_nothing_breaks(exchanges: list[Exchange], times: int) -> None:
    phrases = found([*exchanges, *((f"{question} mango tree", ADVERT) for question, _ in exchanges)] * times)
    assert len(phrases) <= 5
    assert all(phrase.questions >= 3 for phrase in phrases)
    assert [PlantedPhrase.of(json.loads(json.dumps(asdict(phrase)))) for phrase in phrases] == phrases
