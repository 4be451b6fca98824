"""What is worth learning is kept as it was meant; what is not is dropped, with its reason."""

import random
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import growth

from fine_tuning.conversation import Conversation, Turn, conversations_of
from fine_tuning.data_collection.cleaning.plain_text import normalise
from fine_tuning.data_collection.cleaning.text_quality import is_repetitive
from fine_tuning.data_collection.cleaning.turn_decisions import CleanSettings
from fine_tuning.data_collection.data_cleaner import Cleaned, DataCleaner
from fine_tuning.errors import DataError

QUESTION, ANSWER = "When are our salaries paid?", "Salaries are paid on the 23rd of every month."


def turn(id: str, user: str = QUESTION, bot: str = ANSWER, session: str = "s", **metadata: Any) -> Turn:
    return Turn(id=id, session_id=session, timestamp="", user_message=user, bot_response=bot, metadata=metadata)


def clean(*turns: Turn, own_prefix: str = "", **settings: Any) -> Cleaned:
    return DataCleaner(CleanSettings(**settings), own_prefix=own_prefix).filter_conversations(conversations_of(turns))


def kept(cleaned: Cleaned) -> list[list[str]]:
    return [[turn.id for turn in conversation.turns] for conversation in cleaned.conversations]


def reason(user: str = QUESTION, bot: str = ANSWER, **metadata: Any) -> str | None:
    drops = clean(turn("x", user, bot, **metadata)).drops
    return drops[0][1] if drops else None


# Reasons


@pytest.mark.parametrize(
    ("expected", "sides"),
    [
        ("empty", {"user": " \n\u200b"}),
        ("empty", {"bot": ""}),
        ("too_short", {"user": "Hi there"}),
        ("too_short", {"bot": "Yes."}),
        ("too_long", {"bot": "A word or two. " * 80}),
        ("inappropriate", {"user": "Where is the fucking printer?"}),
        ("inappropriate", {"bot": "Find it yourself, you asshole."}),
        ("repetitive", {"bot": "no no no no no no no no"}),
        ("repetitive", {"bot": "I am sorry, I can not. " * 4}),
        ("repetitive", {"bot": "The printer is upstairs, next to the lift and the stairs. " + "It is. " * 20}),
        ("repetitive", {"bot": "A" * 60}),
        ("repetitive", {"bot": "对不起我不知道" * 6}),
        ("low_quality", {"user": "?????!!! ::: --- ???"}),
        ("low_quality", {"bot": "😀😃😄😁😆😅😂🤣🥲😊 😇"}),
        ("low_quality", {"bot": "[EMAIL] [PHONE] [URL]"}),
        ("low_quality", {"bot": "jo@example.com, https://example.com"}),
        ("low_quality", {"bot": "Gr\ufffd\ufffde aus M\ufffdnchen, bis sp\ufffdter"}),
        ("low_quality", {"bot": QUESTION.upper() + "!"}),
    ],
)
def test_what_is_not_worth_learning_is_dropped_with_its_reason(expected: str, sides: dict[str, str]) -> None:
    assert reason(**sides) == expected


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"incomplete": "stopped"}, "incomplete"),
        ({"incomplete": "stopped", "rating": "up"}, None),
        ({"rating": "down"}, "rejected"),
        ({"rating": "up"}, None),
    ],
)
def test_what_was_cut_short_or_rejected_is_learned_only_with_approval(
    metadata: dict[str, str], expected: str | None
) -> None:
    assert reason(**metadata) == expected


@pytest.mark.parametrize(
    ("user", "bot"),
    [
        (QUESTION, ANSWER),
        ("holiday allowance??", "Everyone gets 27 days."),
        ("请问年假有几天？", "每人每年有二十七天带薪年假。"),
        ("年休は何日ですか", "年次有給休暇は二十七日です。"),
        ("휴가는 며칠인가요?", "모두 27일의 유급 휴가를 받습니다."),
        ("كم يوم إجازة لدينا؟", "لكل موظف سبعة وعشرون يوما من الإجازة."),
        ("हमें कितनी छुट्टियाँ मिलती हैं?", "सभी को साल में सत्ताईस दिन की छुट्टी मिलती है।"),
        ("เรามีวันหยุดกี่วัน", "พนักงานทุกคนมีวันหยุดพักร้อนยี่สิบเจ็ดวันต่อปี"),
        ("Wie viele Urlaubstage habe ich?", "Alle haben 27 Tage bezahlten Urlaub."),
        ("Сколько у нас дней отпуска?", "У каждого двадцать семь дней отпуска в год."),
        ("Write the loop in Python", "```python\nfor i in range(10):\n    if i % 2:\n        print(i)\n```"),
        ("Show me the JSON for it", '{"name": "x", "values": [1, 2, 3], "nested": {"a": null}}'),
        ("Show me the seven times table", "\n".join(f"{n} x 7 = {7 * n}" for n in range(1, 11))),
        ("What is the sum of it all?", "1 + 2 + 3 + 4 = 10, so it is 10."),
        ("Make a table of our rooms", "| Room | Seats |\n|------|-------|\n| Oak  | 12    |\n| Elm  | 8     |"),
        ("Say that twice, please.", "Salaries are paid on the 23rd. Salaries are paid on the 23rd."),
        ("How much is the fee in 2026?", "It is 1000000000000 dollars, thank you 😀!!!"),
    ],
)
def test_no_language_and_no_honest_form_is_dropped(user: str, bot: str) -> None:
    assert reason(user, bot) is None


def test_the_limits_are_inclusive_and_surplus_white_space_does_not_count() -> None:
    assert kept(clean(turn("a", "1234567 ab", "x" + " yz" * 3), min_length=10, max_length=10)) == [["a"]]
    assert clean(turn("a", "123456 ab       ", ANSWER)).dropped == {"too_short": 1}
    assert clean(turn("a"), min_length=28).dropped == {"too_short": 1}
    assert clean(turn("a"), max_length=44).dropped == {"too_long": 1}


def test_placeholders_do_not_change_what_is_too_short_or_too_long() -> None:
    assert reason("jo.doe@example.com is it", "x" + " yz" * 5) is None
    assert clean(turn("a", "at a@b.de", ANSWER), min_length=9).drops == []
    assert clean(turn("a", "see https://example.com/" + "x" * 100, ANSWER), max_length=100).dropped == {"too_long": 1}


def test_the_time_to_drop_a_huge_text_grows_with_its_size() -> None:
    def drop(size: int) -> None:
        assert clean(turn("a", "1 " * size)).dropped == {"too_long": 1}

    assert growth(drop, 100_000) <= 30


def test_drops_are_counted_by_reason_and_named_by_turn() -> None:
    cleaned = clean(turn("a", "Hi"), turn("b", bot=""), turn("c", "Ho"), turn("d"))
    assert cleaned.dropped == {"too_short": 2, "empty": 1}
    assert cleaned.drops == [("a", "too_short"), ("b", "empty"), ("c", "too_short")]


# Conversations


def test_a_dropped_turn_in_the_middle_cuts_its_conversation_in_two() -> None:
    texts = ["The first question of all", "A second question", "Hm", "The fourth question here", "Fifth one, the last"]
    cleaned = clean(*(turn(str(n), text, f"Answer to: {text}") for n, text in enumerate(texts)))
    assert kept(cleaned) == [["0", "1"], ["3", "4"]]
    assert [conversation.id for conversation in cleaned.conversations] == ["s", "s"]


def test_a_conversation_of_which_nothing_is_left_is_left_out() -> None:
    cleaned = clean(turn("a", "Hi"), turn("b", session="other"))
    assert kept(cleaned) == [["b"]]


def test_the_system_message_is_cleaned_and_stays_with_both_parts() -> None:
    turns = (turn("a"), turn("b", "Hm"), turn("c", "Where may I park my car?", "In bays 31 to 46, behind the shop."))
    cleaned = DataCleaner().filter_conversations([Conversation(id="s", turns=turns, system="Ask  jo@example.com")])
    assert [conversation.system for conversation in cleaned.conversations] == ["Ask [EMAIL]", "Ask [EMAIL]"]


def test_plain_dicts_are_taken_and_what_is_none_is_named() -> None:
    cleaned = DataCleaner().filter_conversations([{"user_message": QUESTION, "bot_response": ANSWER}])
    assert cleaned.conversations[0].turns[0].user_message == QUESTION
    with pytest.raises(DataError, match="record 0"):
        DataCleaner().filter_conversations([{"question": "?"}])


def test_nothing_in_nothing_out() -> None:
    assert DataCleaner().filter_conversations([]) == Cleaned([], {}, [], {})


def test_what_is_passed_in_stays_as_it_was() -> None:
    turns = [turn("a", "Write to  jo@example.com please", original_response="Ask jo@example.com")]
    before = [t.model_copy(deep=True) for t in turns]
    clean(*turns)
    assert turns == before


# Duplicates


def test_a_repeated_chat_is_learned_once_and_other_phrasings_all() -> None:
    cleaned = clean(
        turn("a", session="1"),
        turn("b", "when are our salaries paid", session="2"),
        turn("c", "When is payday?", session="3"),
    )
    assert kept(cleaned) == [["a"], ["c"]]
    assert cleaned.drops == [("b", "duplicate")]


def test_the_same_question_with_another_answer_is_no_duplicate() -> None:
    assert (
        len(clean(turn("a", session="1"), turn("b", bot="On the 24th of every month.", session="2")).conversations) == 2
    )


def test_a_repeat_that_other_turns_refer_to_stays_as_their_context() -> None:
    follow_up = turn("c", "And what about bonuses?", "They are paid in December.", session="2")
    assert kept(clean(turn("a", session="1"), turn("b", session="2"), follow_up)) == [["a"], ["b", "c"]]


def test_a_follow_up_after_other_words_is_no_duplicate() -> None:
    turns = [
        turn(f"{session}-{n}", *said, session=session)
        for session, first in (
            ("1", ("May I lease a bike here?", "Yes, a bike.")),
            ("2", ("May I rent a room here?", "Yes, a room.")),
        )
        for n, said in enumerate([first, ("And what does it cost?", "It costs £29 a month.")])
    ]
    assert len(clean(*turns).drops) == 0


def test_a_whole_conversation_repeated_is_dropped_as_a_whole() -> None:
    said = [(QUESTION, ANSWER), ("And what about bonuses?", "They are paid in December.")]
    cleaned = clean(*(turn(f"{session}{n}", *pair, session=session) for session in "12" for n, pair in enumerate(said)))
    assert kept(cleaned) == [["10", "11"]]
    assert cleaned.dropped == {"duplicate": 2}


# Whose answers teach


OWN = "fine_tuned_"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"model": "fine_tuned_x:v3"}, "own_answer_not_approved"),
        ({"model": "fine_tuned_x:v3", "rating": "up"}, None),
        ({"model": "fine_tuned_x:v3", "rating": "down"}, "rejected"),
        ({"model": "fine_tuned_x:v3", "original_response": "Never."}, None),
        ({"model": "smollm2:135m"}, None),
        ({}, None),
    ],
)
def test_what_a_fine_tuned_model_said_teaches_only_when_approved(
    metadata: dict[str, str], expected: str | None
) -> None:
    drops = clean(turn("x", **metadata), own_prefix=OWN).drops
    assert (drops[0][1] if drops else None) == expected
    if expected != "rejected":
        assert clean(turn("x", **metadata)).drops == []  # config: data_collection.learn_own_answers


def test_of_answers_given_anew_the_last_one_is_learned() -> None:
    turns = (
        turn("a"),
        turn("b", "Where is it?", "It is upstairs."),
        turn("c", "Where is it?", "It is downstairs.", regenerates="b"),
    )
    cleaned = clean(*turns, turn("d", "And what is it called?", "It is called Bramble.", regenerates="nobody"))
    assert kept(cleaned) == [["a", "c", "d"]]
    assert cleaned.drops == [("b", "regenerated")]


def test_an_approved_answer_stands_against_later_ones_that_are_not() -> None:
    later = turn("c", "Where is it?", "It is downstairs.", regenerates="b")
    assert kept(clean(turn("b", "Where is it?", "It is upstairs.", rating="up"), later)) == [["b"]]
    assert kept(
        clean(
            turn("b", "Where is it?", "It is upstairs."),
            later,
            turn("e", "Where is it?", "No idea at all.", regenerates="c"),
        )
    ) == [["e"]]


# Text


def test_private_data_is_scrubbed_from_both_sides_and_counted() -> None:
    cleaned = clean(
        turn(
            "a",
            "Mail me at jo@example.com or on +44 20 7946 0377",
            "I write to jo@example.com then.",
            original_response="jo@example.com",
        )
    )
    (scrubbed,) = cleaned.conversations[0].turns
    assert (scrubbed.user_message, scrubbed.bot_response) == (
        "Mail me at [EMAIL] or on [PHONE]",
        "I write to [EMAIL] then.",
    )
    assert scrubbed.metadata == {"original_response": "[EMAIL]"}
    assert cleaned.scrubbed == {"email": 2, "phone": 1}


def test_what_is_dropped_does_not_count_as_scrubbed() -> None:
    assert clean(turn("a", "jo@example.com", "Hm"), turn("b")).scrubbed == {}


def test_scrubbing_can_be_left_out() -> None:
    cleaned = clean(turn("a", "Mail me at  jo@example.com"), scrub_pii=False)
    assert cleaned.conversations[0].turns[0].user_message == "Mail me at jo@example.com"
    assert cleaned.scrubbed == {}


@pytest.mark.parametrize(
    ("said", "learned"),
    [
        ("  a  b \t c  ", "a b c"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("a\n\n\n\n\nb", "a\n\nb"),
        ("a  list:\n    with   two   \n\tlevels", "a list:\n    with two\n\tlevels"),
        ("e\u0301te\u0301", "été"),
        ("a\u00a0b\u3000c", "a b c"),
        ("z\u200bero\u00ad\ufeff width\u202e", "zero width"),
        ("bell\x07 nul\x00 esc\x1b[0m", "bell nul esc[0m"),
        ("half \ud83d", "half"),
        ("👩\u200d👧 می\u200cخواهم", "👩\u200d👧 می\u200cخواهم"),
        ("½ x² ﬁ", "½ x² ﬁ"),
    ],
)
def test_white_space_and_unicode_become_plain_and_meaning_stays(said: str, learned: str) -> None:
    assert normalise(said) == learned


@settings(deadline=None)  # a busy machine may take its time
@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    once.encode()  # no half characters


@settings(deadline=None)  # a busy machine may take its time
@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=40)), max_size=6))
def test_every_turn_is_either_kept_or_dropped_once(pairs: list[tuple[str, str]]) -> None:
    turns = [turn(str(n), f"question {pair[0]}", pair[1]) for n, pair in enumerate(pairs)]
    cleaned = clean(*turns)
    ids = [id for conversation in kept(cleaned) for id in conversation] + [id for id, _ in cleaned.drops]
    assert sorted(ids) == sorted(turn.id for turn in turns)
    assert sum(cleaned.dropped.values()) == len(cleaned.drops)


@settings(deadline=None)  # a busy machine may take its time
@given(st.text())
def test_wild_text_never_breaks_the_judgement_of_repetition(text: str) -> None:
    assert isinstance(is_repetitive(text), bool)


def test_the_time_of_cleaning_grows_with_the_conversations() -> None:
    chance = random.Random(0)
    words = [
        f"{a}{b}"
        for a in ("ba", "be", "bi", "do", "du", "ka", "ki", "ku")
        for b in ("n", "ston", "rel", "ment", "ly", "par", "tun", "gos")
    ]
    records = [
        {
            "user_message": " ".join(chance.choices(words, k=12)) + " +44 20 7946 0377" * (n % 10 == 0),
            "bot_response": " ".join(chance.choices(words, k=25)),
        }
        for n in range(1000)
    ]
    cleaned = DataCleaner().filter_conversations(records)
    assert len(cleaned.conversations) == 1000
    assert cleaned.scrubbed == {"phone": 100}
    assert growth(lambda count: DataCleaner().filter_conversations(records[:count]), 100) <= 30


def test_only_the_path_that_stands_is_learned_and_its_branches_are_said_to_be_replaced() -> None:
    turns = [
        turn("a", "Where is it kept?", "It is kept upstairs.", parent=""),
        turn("b", "And what is it called?", "It is called Bramble.", parent="a"),
        turn("c", "Who looks after it?", "The gardener looks after it.", parent="b"),
        turn("d", "How old is it by now?", "It is seven years old.", parent="a"),
    ]
    cleaned = clean(*turns)
    assert kept(cleaned) == [["a", "d"]]
    assert cleaned.drops == [("b", "regenerated"), ("c", "regenerated")]


@pytest.mark.parametrize(
    ("systems", "parts"),
    [
        ((None, None, None), [(None, 3)]),
        (("Be brief.",) * 3, [("Be brief.", 3)]),
        ((None, "Be brief.", "Be brief."), [(None, 1), ("Be brief.", 2)]),
        (("Be brief.", "Be loud.", "Be brief."), [("Be brief.", 1), ("Be loud.", 1), ("Be brief.", 1)]),
        (("Be brief.", "", None), [("Be brief.", 1), (None, 2)]),
        (
            ("Ask jo@example.com or +49 30 901820.", "Ask  jo@example.com or +49 30 901820.", None),
            [("Ask [EMAIL] or [PHONE].", 2), (None, 1)],
        ),
        (({"not": "a text"}, 7, ["x"]), [(None, 3)]),
    ],
)
def test_each_answer_is_learned_under_the_system_prompt_that_it_was_given_under(
    systems: tuple[Any, ...], parts: list[tuple[str | None, int]]
) -> None:
    said = [
        ("Where is it kept?", "It is kept upstairs."),
        ("What is it called?", "It is called Bramble."),
        ("Who owns it?", "The gardener owns it."),
    ]
    turns = [
        turn(str(number), *texts, **({} if system is None else {"system": system}))
        for number, (texts, system) in enumerate(zip(said, systems, strict=True))
    ]
    cleaned = clean(*turns)
    assert [(each.system, len(each.turns)) for each in cleaned.conversations] == parts
    assert "jo@example.com" not in repr(cleaned)
