"""A dialogue about two people stays one: each private detail of a conversation has a name of its own."""

import re
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fine_tuning.conversation import Conversation, Turn
from fine_tuning.data_collection.cleaning.turn_decisions import CleanSettings, clean_text
from fine_tuning.data_collection.data_cleaner import DataCleaner
from fine_tuning.data_collection.placeholders import Placeholders, identity
from fine_tuning.data_collection.privacy import PII


def turns_of(*said: tuple[str, str], session: str = "s", **metadata: Any) -> list[Turn]:
    return [
        Turn(
            id=f"{session}{number}",
            session_id=session,
            timestamp="2026-01-01T12:00:00+00:00",
            user_message=asked,
            bot_response=answered,
            metadata=metadata,
        )
        for number, (asked, answered) in enumerate(said)
    ]


def together(turns: list[Turn]) -> Conversation:
    return Conversation(id=turns[0].session_id, turns=tuple(turns))


def fit(turns: list[Turn]) -> list[tuple[str, str]]:
    """Return question and answer of every turn, clean."""
    cleaned = DataCleaner(CleanSettings(min_length=1)).filter_conversations([together(turns)]).fit
    return [(cleaned[turn.id].turn.user_message, cleaned[turn.id].turn.bot_response) for turn in turns]


def names_in(text: str) -> list[str]:
    return re.findall(r"\[[A-Z]+(?:_\d+)?\]", text)


def learned(turns: list[Turn], system: str | None = None, **settings: object) -> list[str]:
    cleaner = DataCleaner(CleanSettings(min_length=1, **settings))  # type: ignore[arg-type]
    cleaned = cleaner.filter_conversations([Conversation(id="s", turns=tuple(turns), system=system)])
    return [message.content for conversation in cleaned.conversations for message in conversation.messages()]


@pytest.mark.parametrize(
    ("said", "clean"),
    [
        (
            [("Forward the mail of anna@x.org to bo@y.org", "Done: bo@y.org has it, anna@x.org knows.")],
            ["Forward the mail of [EMAIL_1] to [EMAIL_2]", "Done: [EMAIL_2] has it, [EMAIL_1] knows."],
        ),
        (  # only one: the plain name, however often it comes and however it is written
            [("Who is anna@x.org?", "ANNA@X.org is the head of sales."), ("Mail Anna@x.org then", "Sent it to her.")],
            ["Who is [EMAIL]?", "[EMAIL] is the head of sales.", "Mail [EMAIL] then", "Sent it to her."],
        ),
        (  # each kind counts for itself; over several turns
            [
                ("Is +44 20 7946 0377 the office?", "Yes, and anna@x.org writes from there."),
                ("And 0049 30 1234567?", "That is Berlin, not +44 (20) 7946-0377."),
                ("Then +49 (0)30 1234567 it is", "Right, and it is the better one."),
            ],
            [
                "Is [PHONE_1] the office?",
                "Yes, and [EMAIL] writes from there.",
                "And [PHONE_2]?",
                "That is Berlin, not [PHONE_1].",
                "Then [PHONE_2] it is",
                "Right, and it is the better one.",
            ],
        ),
        (
            [("Move 203.0.113.7 to 203.0.113.8 tonight", "203.0.113.8 answers now.")],
            ["Move [IP_1] to [IP_2] tonight", "[IP_2] answers now."],
        ),
        (
            [("Compare https://X.org/a with https://x.org/A", "https://x.org/a is the shorter one.")],
            ["Compare [URL_1] with [URL_2]", "[URL_1] is the shorter one."],
        ),
        (
            [
                (
                    "From DE89 3704 0044 0532 0130 00, or GB82 WEST 1234 5698 7654 32?",
                    "Paid from DE89370400440532013000.",
                )
            ],
            ["From [IBAN_1], or [IBAN_2]?", "Paid from [IBAN_1]."],
        ),
        (  # a dot counts in an address
            [("Is a.b@x.org or ab@x.org right?", "It is ab@x.org, as ever.")],
            ["Is [EMAIL_1] or [EMAIL_2] right?", "It is [EMAIL_2], as ever."],
        ),
        (  # a name that somebody typed stands for something else
            [("I replaced his mail by [EMAIL]", "And anna@x.org is hers?")],
            ["I replaced his mail by [EMAIL]", "And [EMAIL_1] is hers?"],
        ),
        (
            [("I replaced his by [EMAIL_1]; hers is anna@x.org", "And mine is bo@y.org, too.")],
            ["I replaced his by [EMAIL_1]; hers is [EMAIL_2]", "And mine is [EMAIL_3], too."],
        ),
    ],
)
def test_details_of_a_conversation_have_names_of_their_own(said: list[tuple[str, str]], clean: list[str]) -> None:
    assert learned(turns_of(*said)) == clean
    assert learned(turns_of(*zip(clean[::2], clean[1::2], strict=True))) == clean  # once more changes nothing


def test_the_leak_probe_sees_the_names_that_the_training_saw() -> None:
    turns = turns_of(
        ("Is it a@x.org or b@x.org?", "b@x.org, not c@x.org. Call +44 20 7946 0377."),
        ("Not a@x.org?", "No, and see https://x.org/help and https://x.org/faq."),
    )
    said = [message.content for message in together(turns).messages()]
    names = Placeholders.of(said)
    assert [clean_text(text, CleanSettings(), names).text for text in said] == learned(turns)


def test_own_words_are_told_apart() -> None:
    turns = turns_of(("Does Anna know Bo?", "Bo knows anna, yes."))
    clean = ["Does [PRIVATE_1] know [PRIVATE_2]?", "[PRIVATE_2] knows [PRIVATE_1], yes."]
    assert learned(turns, own_words=["Anna", "Bo"]) == clean


def test_a_system_prompt_belongs_to_its_conversation() -> None:
    turns = turns_of(("Who answers beside desk@x.org?", "anna@x.org does, on Mondays."))
    assert learned(turns, "You are desk@x.org, and friendly.") == [
        "You are [EMAIL_1], and friendly.",
        "Who answers beside [EMAIL_1]?",
        "[EMAIL_2] does, on Mondays.",
    ]


def test_each_conversation_counts_for_itself() -> None:
    one = together(turns_of(("Mail anna@x.org or bo@x.org?", "The second, bo@x.org."), session="a"))
    other = together(turns_of(("And who is bo@x.org?", "The one in the cellar."), session="b"))
    cleaned = DataCleaner(CleanSettings(min_length=1)).filter_conversations([one, other])
    said = [turn.user_message for each in cleaned.conversations for turn in each.turns]
    assert said == ["Mail [EMAIL_1] or [EMAIL_2]?", "And who is [EMAIL]?"]
    assert cleaned.scrubbed == {"email": 4}


def test_what_is_not_learned_takes_no_number_and_shares_none() -> None:
    turns = turns_of(
        ("Where is anna@x.org?", "She is in Bonn today."), ("And who is bo@x.org?", "Her brother, he says.")
    )
    turns[0] = turns[0].model_copy(update={"metadata": {"rating": "down"}})
    cleaned = DataCleaner(CleanSettings(min_length=1)).filter_conversations([Conversation(id="s", turns=tuple(turns))])
    (kept,) = cleaned.conversations
    assert kept.turns[0].user_message == "And who is [EMAIL]?"
    assert cleaned.fit["s1"].turn.user_message == "And who is [EMAIL]?"
    assert cleaned.fit["s0"].turn.user_message == "Where is [EMAIL_2]?"


def test_an_answer_before_an_edit_has_the_same_names() -> None:
    (turn,) = turns_of(
        ("Whom do I ask, a@x.org or b@x.org?", "Ask b@x.org about it."), original_response="Ask a@x.org!"
    )
    cleaned = DataCleaner(CleanSettings(min_length=1)).filter_conversations([Conversation(id="s", turns=(turn,))])
    assert cleaned.fit["s0"].original == "Ask [EMAIL_1]!"
    assert cleaned.fit["s0"].turn.bot_response == "Ask [EMAIL_2] about it."


_mails = st.from_regex(r"[a-z]{2,8}(\.[a-z]{2,5})?@[a-z]{3,8}\.(org|com|de)", fullmatch=True)
_phones = st.integers(10**9, 10**10 - 1).map(lambda number: f"+49 30 {number}")
_addresses = st.ip_addresses(v=4, network="203.0.113.0/24").map(str)
_details = st.one_of(
    st.tuples(st.just(PII.EMAIL), _mails),
    st.tuples(st.just(PII.PHONE), _phones),
    st.tuples(st.just(PII.IP), _addresses),
)


@given(st.lists(_details, min_size=1, max_size=12))
def test_equal_details_have_one_name_and_different_ones_never_share_one(
    details: list[tuple[PII, str]],
) -> None:
    said = [detail for _, detail in details]
    turns = turns_of(*((f"Who or what is {detail} here?", f"As told: {detail.upper()} it is.") for detail in said))
    clean = fit(turns)
    names = [names_in(asked) for asked, _ in clean]
    if all(len(each) == 1 for each in names):  # else a made-up one was not seen as a detail
        assert names == [names_in(answered) for _, answered in clean]
        for (one, name), (other, name_too) in combinations(zip(said, names, strict=True), 2):
            assert (one == other) == (name == name_too)
        for kind in PII:
            mine = list(dict.fromkeys(name for each in names for name in each if name.startswith(f"[{kind.name}")))
            numbered = [f"[{kind.name}_{number}]" for number in range(1, len(mine) + 1)]
            assert mine == ([f"[{kind.name}]"] if len(mine) == 1 else numbered)  # by first appearance
    assert fit(turns_of(*clean)) == clean


@given(st.lists(st.text(max_size=60), max_size=6))
def test_naming_any_texts_twice_is_naming_them_once(texts: list[str]) -> None:
    settings = CleanSettings()
    texts = [*texts, "anna@x.org and bo@y.org", "[EMAIL_1]"]
    names = Placeholders.of(texts)
    once = [clean_text(text, settings, names).text for text in texts]
    again = Placeholders.of(once)
    assert [clean_text(text, settings, again).text for text in once] == once


@pytest.mark.parametrize(
    ("kind", "one", "other", "same"),
    [
        (PII.PHONE, "+49 (0)30 1234567", "0049 30 123-4567", True),
        (PII.PHONE, "020 7946 0143", "020 7946 0144", False),
        (PII.PHONE, "＋４４ ２０ ７９４６ ０３７７", "+442079460377", True),
        (PII.CARD, "4111 1111 1111 1111", "4111-1111-1111-1111", True),
        (PII.SECRET, "Hunter2", "hunter2", False),
        (PII.URL, "HTTPS://x.org/", "https://x.org", True),
        (PII.URL, "https://x.org/a?b=C", "https://x.org/a?b=c", False),
        (PII.URL, "https://x.org/?u=http://a.org", "https://x.org/?u=http://A.org", False),
        (PII.IP, "2001:db8::1", "2001:0DB8:0:0::1", True),
        (PII.EMAIL, "a+b@x.org", "ab@x.org", False),
        (PII.PRIVATE, "Project  Heron", "project heron", True),
    ],
)
def test_two_details_are_the_same_however_they_are_written(kind: PII, one: str, other: str, same: bool) -> None:
    assert (identity(kind, one) == identity(kind, other)) is same
