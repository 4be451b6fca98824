"""Repeated turns are found, and nothing that says something new is."""

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timing import growth

from fine_tuning.data_collection.cleaning import repeats as repeats_module
from fine_tuning.data_collection.cleaning.repeats import RepeatedTurns, fingerprint
from fine_tuning.data_collection.cleaning.wording import wording

QUESTION, ANSWER = "How many days of holiday do I get?", "Everyone gets 27 days of paid holiday."


def numbers(known: RepeatedTurns, *turns: tuple[str, str]) -> list[tuple[int, bool]]:
    """Return what `known` returns for a conversation of these turns, given as (question, answer)."""
    said = [fingerprint(wording(question), wording(answer)) for question, answer in turns]
    return known.numbers([question for question, _ in turns], said)


def repeats(one: tuple[str, str], other: tuple[str, str]) -> bool:
    known = RepeatedTurns()
    numbers(known, one)
    return numbers(known, other)[0][1]


@pytest.mark.parametrize(
    "question",
    [
        QUESTION,
        "how many days of holiday do i get",
        "  How many  days, of holiday do I get?!  ",
        "How many days of holidays do I get?",
        "How many days of holdiay do I get?",
        "Ｈｏｗ many days of holiday do I get?",
    ],
)
def test_a_question_typed_again_with_the_same_answer_is_a_repeat(question: str) -> None:
    assert repeats((QUESTION, ANSWER), (question, ANSWER.upper()))


@pytest.mark.parametrize(
    "question",
    [
        "How many days of holiday do we get?",
        "What's my holiday allowance?",
        "holiday allowance??",
        "How many days of holiday do I get in 2026?",
    ],
)
def test_other_phrasings_of_one_policy_are_no_repeats(question: str) -> None:
    assert not repeats((QUESTION, ANSWER), (question, ANSWER))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("Who sits in room 12?", "Nobody sits there."), ("Who sits in room 13?", "Nobody sits there.")),
        (("Is Tom allowed to enter?", "Yes, on Mondays."), ("Is Tim allowed to enter?", "Yes, on Mondays.")),
        (("How long is the notice?", "It is eight days."), ("How long is the notice?", "It is eighty days.")),
        (("May I smoke here?", "Smoking is allowed."), ("May I smoke here?", "Smoking is not allowed.")),
        (("What is C++ good for?", "It is a language."), ("What is C# good for?", "It is a language.")),
        (("Add 5% to it please", "Done, as you like."), ("Add 5 to it please", "Done, as you like.")),
        (("一月放假几天？", "放假三天。"), ("二月放假几天？", "放假三天。")),
        (("किताब कहाँ है", "मेज़ पर है"), ("कुताब कहाँ है", "मेज़ पर है")),
        (("¿Cuántos años tiene?", "Tiene tres."), ("¿Cuántos anos tiene?", "Tiene tres.")),
    ],
)
def test_a_small_difference_that_changes_the_meaning_is_no_repeat(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert not repeats(one, other)


def test_the_same_words_in_another_context_are_another_turn() -> None:
    bike, room, cost = (
        ("May I lease a bike?", "Yes."),
        ("May I rent a room?", "Yes."),
        ("What is it?", "It is 29."),
    )
    known = RepeatedTurns()
    leased, bike_cost = numbers(known, bike, cost)
    rented, room_cost = numbers(known, room, cost)
    assert len({number for number, _ in (leased, bike_cost, rented, room_cost)}) == 4
    assert not any(repeated for _, repeated in (leased, bike_cost, rented, room_cost))
    again = numbers(known, bike, ("what is it", "It is 29!"))
    assert again == [(leased[0], True), (bike_cost[0], True)]


def test_a_conversation_that_begins_like_another_repeats_it_until_it_differs() -> None:
    said = [(f"Question {name}?", f"Answer {name}.") for name in "abcdefgh"]
    a, b, c, d, e, f, g, h = said
    known = RepeatedTurns()
    first = numbers(known, a, b, c, d)
    assert [repeated for _, repeated in numbers(known, a, b, e, d)] == [True, True, False, False]
    other = numbers(known, a, b, e, d, f)
    assert [repeated for _, repeated in other] == [True, True, True, True, False]
    assert [repeated for _, repeated in numbers(known, a, b, c, d, f)] == [True, True, True, True, False]
    assert numbers(known, a, b, c, d, f, g)[:4] == [(number, True) for number, _ in first]
    assert numbers(known, a, b, e, d, f, h)[:5] == [(number, True) for number, _ in other]
    assert numbers(known, b, c) != [(number, True) for number, _ in first[1:3]]


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=5), max_size=30), st.integers(1, 400))
def test_a_turn_repeats_another_exactly_if_all_turns_up_to_it_were_said_before(
    conversations: list[list[str]], in_memory: int
) -> None:
    known, before = RepeatedTurns(), dict[tuple[str, ...], int]()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as home:
        patch.setenv("BYOAI_HOME", home)
        patch.setattr(repeats_module, "_IN_MEMORY", in_memory)
        for names in conversations:
            found = numbers(known, *((f"Question {name}?", ANSWER) for name in names))
            paths = [tuple(names[: end + 1]) for end in range(len(names))]
            assert [repeated for _, repeated in found] == [path in before for path in paths]
            assert [number for number, _ in found] == [
                before.setdefault(path, number) for path, (number, _) in zip(paths, found, strict=True)
            ]


def test_repeats_are_found_among_more_questions_than_are_in_memory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats_module, "_IN_MEMORY", 200)  # bytes, of two or three questions
    known = RepeatedTurns()
    questions = [f"May I take {number} days of holiday in July?" for number in range(20)]
    first = [numbers(known, (each, ANSWER))[0] for each in questions]
    assert not any(repeated for _, repeated in first)
    typed = [question.replace("holiday", "holdiay") for question in questions]
    for again in (questions, typed):
        assert [numbers(known, (each, ANSWER))[0] for each in again] == [(number, True) for number, _ in first]


@given(st.text(), st.text())
def test_every_turn_repeats_itself(question: str, answer: str) -> None:
    assert repeats((question, answer), (question, answer))


def test_the_time_grows_with_the_turns_even_if_all_answers_are_the_same() -> None:
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghij", k=8)) for _ in range(10_000)]

    def compare(count: int) -> None:
        known = RepeatedTurns()
        for word in words[:count]:
            numbers(known, ("q" + word, "Sorry, I do not know."))

    assert growth(compare, 1_000) <= 30
