"""Of different answers to one question one is learned; of questions that differ in anything that matters, all are."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from fine_tuning.config import load_config
from fine_tuning.conversation import Turn, conversations_of
from fine_tuning.data_collection.cleaning.turn_decisions import CleanSettings
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_cleaner import Cleaned, DataCleaner
from fine_tuning.planning import sift

NUMBERS = count()


def turn(question: str, answer: str, session: str = "", **facts: Any) -> Turn:
    id = f"t{next(NUMBERS)}"
    return Turn(
        id=id, session_id=session or id, timestamp="", user_message=question, bot_response=answer, metadata=facts
    )


def clean(*turns: Turn, newest_wins: bool = True) -> Cleaned:
    return DataCleaner(CleanSettings(min_length=1), newest_wins=newest_wins).filter_conversations(
        conversations_of(turns)
    )


def learned(cleaned: Cleaned) -> list[str]:
    return [turn.bot_response for conversation in cleaned.conversations for turn in conversation.turns]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("When is lunch served?", "when is lunch served"),
        ("When is lunch served?", "When is the lunch served, please?"),
        ("What's the door code?", "What is the door code?"),
        ("How do I reach the warehouse manager?", "How do I reach the warehuose manager?"),
        ("Hello! Who repairs the printers?", "Who repairs the printers?"),
        ("Wann öffnet die Kantine?", "Bitte, wann öffnet die Kantine?"),
        ("What is our refund policy for customers?", "what is our refund policy for custmers"),
    ],
)
def test_the_newest_answer_to_one_question_is_learned(one: str, other: str) -> None:
    old, new = turn(one, "It was this before."), turn(other, "It is that from today on.")
    cleaned = clean(old, new)
    assert learned(cleaned) == ["It is that from today on."]
    assert cleaned.dropped == {"conflict": 1} and cleaned.drops == [(old.id, "conflict")]
    assert [[each.id for each in conflict.turns] for conflict in cleaned.conflicts] == [[old.id, new.id]]
    assert learned(clean(old, new, newest_wins=False)) == ["It was this before.", "It is that from today on."]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Who is Anna's deputy?", "Who is Anne's deputy?"),  # a name
        ("Where does Martin sit?", "Where does Marvin sit?"),
        ("What costs more than 50 euros?", "What costs more than 500 euros?"),  # a number
        ("What happens after three months?", "What happens after eight months?"),
        ("Which rooms may be booked?", "Which rooms may not be booked?"),  # a negation
        ("Can guests use the printer?", "Can't guests use the printer?"),
        ("How do I open the safe?", "How do I close the safe?"),  # the opposite
        ("What does it cost to charge a battery?", "What does it cost to change a battery?"),  # one letter
        ("Is x < 3 allowed?", "Is x > 3 allowed?"),
        ("Where is the import configured?", "Where is the export configured?"),
        ("What is plan A?", "What is plan B?"),
        # scrubbed: nobody knows any more that they differ
        ("Whose number is 030 90126513?", "Whose number is 030 90126514?"),
        ("Mail anna@example.org today?", "Mail bert@example.org today?"),
    ],
)
def test_what_differs_in_a_name_a_number_or_a_negation_is_no_conflict(one: str, other: str) -> None:
    cleaned = clean(turn(one, "The first answer."), turn(other, "Another answer."))
    assert cleaned.conflicts == [] and cleaned.dropped == {}
    assert len(learned(cleaned)) == 2


def test_an_approved_answer_stands_against_newer_ones_and_what_was_taken_in_by_hand_stays() -> None:
    edited = turn("Where is the key?", "Under the mat.", original_response="I do not know.")
    newer = turn("Where is the key?", "In the lake.")
    assert learned(clean(edited, newer)) == ["Under the mat."]
    liked = turn("Where is the key?", "In the box.", rating="up")
    assert learned(clean(edited, liked, newer)) == ["In the box."]
    kept = turn("Where is the key?", "On the hook.", included=True)
    assert learned(clean(kept, newer)) == ["On the hook.", "In the lake."]
    assert clean(kept, newer).conflicts == []


def test_the_same_answer_is_a_repeat_and_no_conflict() -> None:
    cleaned = clean(turn("Where is the key?", "Under the mat."), turn("Where is the key?", "under the mat"))
    assert cleaned.dropped == {"duplicate": 1} and cleaned.conflicts == []


def test_in_another_place_of_a_conversation_the_same_words_ask_something_else() -> None:
    bike = [
        turn("May I lease a bike?", "Yes, you may.", "bike"),
        turn("What does it cost?", "It costs 29 a month.", "bike"),
    ]
    room = [
        turn("May I rent a room?", "Yes, you may.", "room"),
        turn("What does it cost?", "It costs 900 a month.", "room"),
    ]
    assert clean(*bike, *room).conflicts == []
    again = [
        turn("May I lease a bike?", "Yes, you may.", "again"),
        turn("What does it cost?", "It costs 31 a month.", "again"),
    ]
    assert learned(clean(*bike, *room, *again))[-1] == "It costs 31 a month."
    assert "It costs 29 a month." not in learned(clean(*bike, *room, *again))


def test_a_loser_in_the_middle_cuts_its_conversation() -> None:
    before = [
        turn("Who are you?", "A model.", "s"),
        turn("When is lunch?", "At noon.", "s"),
        turn("Thank you so much", "My pleasure.", "s"),
    ]
    after = [turn("Who are you?", "A model.", "r"), turn("When is lunch?", "At one.", "r")]
    parts = [
        [turn.bot_response for turn in conversation.turns] for conversation in clean(*before, *after).conversations
    ]
    assert parts == [["A model."], ["My pleasure."], ["A model.", "At one."]]


def test_private_details_of_a_loser_are_not_counted() -> None:
    old, new = turn("Who knows more?", "Write to anna@example.org"), turn("Who knows more?", "Nobody at all")
    assert clean(old, new).scrubbed == {} and clean(old, new, newest_wins=False).scrubbed == {"email": 1}


def test_private_details_in_what_was_context_for_a_dropped_answer_are_not_counted() -> None:
    said = [
        [
            turn("Whom do I write to?", "Write to jo@example.com.", name, weight=0),
            turn("When is lunch served?", answer, name),
        ]
        for name, answer in (("old", "At noon, in the hall."), ("new", "At one, in the garden."))
    ]
    cleaned = clean(*said[0], *said[1])
    assert [each.id for each in cleaned.conversations] == ["new"]
    assert cleaned.scrubbed == {"email": 1}


def test_the_newest_is_the_one_that_was_said_last_also_when_it_was_imported_first() -> None:
    said = {"user_message": "When is lunch?", "metadata": {}}
    new = Turn(id="new", session_id="a", timestamp="2026-05-01T00:00:00", bot_response="At one.", **said)
    old = Turn(id="old", session_id="b", timestamp="2025-05-01T00:00:00", bot_response="At noon.", **said)
    assert learned(clean(new, old)) == ["At one."]


def test_the_configuration_says_what_the_log_teaches_and_a_dataset_keeps_all(home: Path) -> None:
    log = ConversationLogger()
    old = log.log_conversation("When is lunch served?", "Always at noon.")
    ConversationLogger().log_conversation("When is lunch served?", "From today on at one.")
    newest, keep = load_config(), load_config(overrides={"data_collection.conflicts": "keep"})
    assert sift(newest, log.turns(), log.path).drops == [(old.id, "conflict")]
    assert sift(keep, log.turns(), log.path).drops == []
    assert len(sift(keep, log.turns(), log.path).conflicts) == 1
    own = load_config(overrides={"dataset.path": str(home / "mine.jsonl")})
    assert sift(own, log.turns()).drops == []
    log.exclude(old.id, False)  # taken in, though it was not excluded
    assert sift(newest, log.turns(), log.path).drops == []
    log.exclude(old.id)
    log.exclude(old.id, False)
    assert sift(newest, log.turns(), log.path).drops == [(old.id, "conflict")]


def test_many_questions_of_one_shape_are_told_apart_in_time_that_grows_with_their_number() -> None:
    turns = [
        turn(f"Which colour has the wagon number {number} today?", f"It is painted {number % 7}.")
        for number in range(3000)
    ]
    assert clean(*turns).conflicts == []
