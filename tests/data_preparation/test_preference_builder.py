"""Preferences are what an owner said of answers, and nothing that only looks like it."""

from collections import UserDict
from pathlib import Path

import pytest

from fine_tuning import paths
from fine_tuning.conversation import Message, Turn, conversations_of
from fine_tuning.data_collection.cleaning import turn_decisions
from fine_tuning.data_collection.cleaning.clean_turns import CleanTurn
from fine_tuning.data_collection.cleaning.turn_decisions import CleanSettings
from fine_tuning.data_collection.data_cleaner import DataCleaner
from fine_tuning.data_collection.preferences import Preference, preferences_of
from fine_tuning.data_preparation.dataset_builder import delete_datasets_of
from fine_tuning.data_preparation.preference_builder import build_preferences
from fine_tuning.data_preparation.rows import ConversationTokenizer


def turn(id: str, answer: str, *, session: str = "s", question: str = "Where is the key?", **metadata: object) -> Turn:
    return Turn(id=id, session_id=session, timestamp="", user_message=question, bot_response=answer, metadata=metadata)


def preferred(turns: list[Turn], **settings: int) -> list[Preference]:
    cleaned = DataCleaner(CleanSettings(**{"min_length": 4, **settings})).filter_conversations(conversations_of(turns))
    return preferences_of(turns, cleaned.fit)


def sides(turns: list[Turn], **settings: int) -> list[tuple[str, str | None]]:
    return [(each.chosen, each.rejected) for each in preferred(turns, **settings)]


def test_an_edit_prefers_the_new_text_to_the_models():
    assert sides([turn("1", "Under the mat.", original_response="In the sea.")]) == [("Under the mat.", "In the sea.")]


def test_an_edit_that_changed_nothing_but_space_prefers_nothing():
    assert sides([turn("1", "Under the mat.", original_response="Under the mat. ")]) == []


def test_a_thumb_up_among_answers_given_again_prefers_that_one_to_all_others():
    turns = [
        turn("1", "In the sea."),
        turn("2", "Under the mat.", regenerates="1", rating="up"),
        turn("3", "No idea.", regenerates="2"),
    ]
    assert sides(turns) == [("Under the mat.", "In the sea."), ("Under the mat.", "No idea.")]


def test_that_an_answer_was_given_again_says_nothing_by_itself():
    assert sides([turn("1", "In the sea."), turn("2", "Under the mat.", regenerates="1")]) == []


def test_a_rating_costs_what_its_chat_costs_however_many_turns_the_log_has():
    turns = [turn(str(number), f"Under the mat {number}.", session=f"s{number // 3}") for number in range(30)]
    turns[10] = turn("10", "In the sea.", session="s3", rating="down")
    fit = DataCleaner(CleanSettings(min_length=4)).filter_conversations(conversations_of(turns)).fit
    looked_up = []

    class Fit(UserDict[str, CleanTurn]):
        def __getitem__(self, id: str) -> CleanTurn:
            looked_up.append(id)
            return fit[id]

    (found,) = preferences_of(turns, Fit(fit))
    assert (found.chosen, found.wanted, found.turn_ids) == ("In the sea.", False, ("9", "10"))
    assert set(looked_up) == {"9", "10", "11"}


@pytest.mark.parametrize(("rating", "wanted"), [("up", True), ("down", False)])
def test_a_thumb_on_an_answer_that_stands_alone_is_a_rating(rating: str, wanted: bool):
    (found,) = preferred([turn("1", "Under the mat.", rating=rating)])
    assert (found.chosen, found.rejected, found.wanted) == ("Under the mat.", None, wanted)


def test_an_answer_in_a_pair_is_not_rated_once_more():
    turns = [turn("1", "In the sea.", rating="down"), turn("2", "Under the mat.", regenerates="1", rating="up")]
    assert sides(turns) == [("Under the mat.", "In the sea.")]


def test_an_answer_that_was_stopped_is_left_out():
    assert sides([turn("1", "Under the", rating="down", incomplete="stopped")]) == []


def test_what_was_said_before_is_part_of_it_and_of_what_can_be_forgotten():
    turns = [turn("1", "Yes.", question="Are you there?"), turn("2", "Under the mat.", rating="up")]
    (found,) = preferred(turns)
    assert [message.content for message in found.said] == ["Are you there?", "Yes.", "Where is the key?"]
    assert found.turn_ids == ("1", "2")


def build(preferences: list[Preference], conversations: ConversationTokenizer):
    return build_preferences(preferences, conversations, "key")


def test_pairs_and_ratings_are_written_in_tokens_that_share_their_prompt(home: Path, all_served, vocabulary):
    conversations = ConversationTokenizer(all_served["chatml"].render, vocabulary, 256)
    said = (Message(role="user", content="Where is the [name] key?"),)
    pair_of_answers = Preference(said, "Under the mat.", "In the sea.", turn_ids=("1",))
    data = build([pair_of_answers, Preference(said, "There.", wanted=False)], conversations)
    assert (data.pairs, data.ratings, data.turn_ids) == (1, 1, ["1"])
    pair, rating = paths.read_jsonl(data.path, dict, "a record", Exception)  # type: ignore[arg-type]
    assert vocabulary.decode(pair["chosen_ids"]).startswith("Under the mat.")
    assert vocabulary.decode(pair["rejected_ids"]).startswith("In the sea.")
    assert "Where is the [name] key?" in vocabulary.decode(pair["prompt_ids"], special=True)
    assert rating["label"] is False and rating["prompt_ids"] == pair["prompt_ids"]


def test_what_is_the_same_or_does_not_fit_is_left_out(home: Path, all_served, vocabulary):
    said = (Message(role="user", content="Who?"),)
    preferences = [
        Preference(said, "A [name].", "A [name]."),
        Preference(said, "word " * 300, "No."),
        Preference(said, "Yes.", " "),
    ]
    data = build(preferences, ConversationTokenizer(all_served["chatml"].render, vocabulary, 64))
    assert (data.pairs, data.ratings) == (0, 0)


def test_they_go_with_any_turn_whose_text_they_hold(home: Path, all_served, vocabulary):
    conversations = ConversationTokenizer(all_served["chatml"].render, vocabulary, 256)
    turns = [turn("1", "Yes.", question="Are you there?"), turn("2", "Under the mat.", rating="up")]
    data = build(preferred(turns), conversations)
    assert delete_datasets_of(["9"]) == []
    assert delete_datasets_of(["1"]) == [data.path.parent]
    assert not data.path.exists()


def test_the_engine_renders_nothing_where_nothing_is_new(home: Path, all_served, vocabulary):
    """An engine renders with its model loaded, which takes seconds."""

    def never(messages: object) -> str:
        raise AssertionError("rendered")

    preferences = [Preference((Message(role="user", content="Where?"),), "Under the mat.", "In the sea.")]
    first = build(preferences, ConversationTokenizer(all_served["chatml"].render, vocabulary, 256))
    assert build(preferences, ConversationTokenizer(never, vocabulary, 256)) == first
    assert build([], ConversationTokenizer(never, vocabulary, 256)).pairs == 0


UNFIT = {
    "too long": "A word or two, " * 80,
    "too short": "No.",
    "inappropriate": "Find it yourself, you asshole.",
    "repetitive": "I am sorry, I can not. " * 6,
    "without words": "?!?! :::: ---- ....",
    "an echo": "Where is the key?",
    "empty": " \u200b",
}


@pytest.mark.parametrize("unfit", UNFIT.values(), ids=UNFIT)
def test_what_is_rated_or_edited_passes_the_same_filters_as_all_that_is_learned(unfit: str):
    assert sides([turn("1", unfit, rating="up")]) == []
    assert sides([turn("1", unfit, rating="down")]) == []
    assert sides([turn("1", "Under the mat.", original_response=unfit)]) == []
    assert sides([turn("1", unfit, original_response="Under the mat.")]) == []
    assert sides([turn("1", unfit), turn("2", "Under the mat.", regenerates="1", rating="up")]) == [
        ("Under the mat.", None)
    ]


def test_the_length_that_is_configured_holds_for_what_is_rated():
    turns = [
        turn("1", "Under the mat, behind the door.", rating="up"),
        turn("2", "Under the mat.", session="t", rating="up"),
    ]
    assert sides(turns, max_length=20) == [("Under the mat.", None)]
    assert len(sides(turns, max_length=40)) == 2


def test_what_nobody_approved_of_a_model_of_ours_still_tells_what_was_not_wanted():
    cleaned = DataCleaner(own_prefix="fine_tuned_").filter_conversations(
        conversations_of(turns := [turn("1", "Behind the curtain.", rating="down", model="fine_tuned_x:v1")])
    )
    assert cleaned.conversations == []
    assert [each.wanted for each in preferences_of(turns, cleaned.fit)] == [False]


def test_a_question_without_a_fit_answer_cuts_what_was_said_before():
    turns = [
        turn("1", "Yes, I am.", question="Are you there?"),
        turn("2", UNFIT["too long"], question="What is all that here?"),
        turn("3", "Under the mat.", rating="up"),
        turn("4", "It was", question="Which of the mats is it?", incomplete="stopped"),
        turn("5", "The green one.", question="So which one is it?", rating="up"),
    ]
    assert [each.turn_ids for each in preferred(turns)] == [("3",), ("5",)]


def test_an_unfit_answer_between_two_others_does_not_ask_the_question_twice():
    turns = [
        turn("1", "In the sea."),
        turn("2", UNFIT["repetitive"], regenerates="1"),
        turn("3", "Under the mat.", regenerates="2", rating="up"),
    ]
    (found,) = preferred(turns)
    assert (found.chosen, found.rejected, len(found.said)) == ("Under the mat.", "In the sea.", 1)


def test_private_details_are_scrubbed_from_every_text_of_a_preference():
    turns = [
        turn("1", "Mail jo@example.com then.", question="Who is jo@example.com here?"),
        turn("2", "Ask jo@example.com for it.", original_response="Ask jim@example.com for it, please."),
    ]
    (found,) = preferred(turns)
    assert [message.content for message in found.said] == [
        "Who is [EMAIL] here?",
        "Mail [EMAIL] then.",
        "Where is the key?",
    ]
    assert (found.chosen, found.rejected) == ("Ask [EMAIL] for it.", "Ask [EMAIL_2] for it, please.")  # another address


def test_each_text_is_cleaned_once_however_many_ratings_come_after_it(home: Path, all_served, vocabulary, monkeypatch):
    cleaned: list[str] = []
    normalised = turn_decisions.normalised
    monkeypatch.setattr(turn_decisions, "normalised", lambda text: cleaned.append(text) or normalised(text))
    turns = [turn("table", "1,2,3\n" * 4_000, question="Make a table of it")]
    turns += [
        turn(str(n), f"Answer {n}: under the mat.", question=f"Where is key {n}?", rating="up") for n in range(30)
    ]
    preferences = preferred(turns)
    data = build(preferences, ConversationTokenizer(all_served["chatml"].render, vocabulary, 2048))
    assert data.ratings == 30
    assert len(cleaned) == len(set(cleaned)) == 2 * 31


def test_in_every_branch_only_answers_to_the_same_question_are_compared() -> None:
    turns = [
        turn("1", "In the hall.", question="Where are you?", parent=""),
        turn("2", "In the sea.", parent="1", rating="down"),
        turn("3", "The mat is red.", question="Which mat is it?", parent="1", rating="up"),
        turn("4", "Under the mat.", parent="1", rating="up"),
        turn("5", "No idea at all.", question="Is it there?", parent="2"),
        turn("6", "It is there.", question="Is it there?", parent="2", rating="up"),
    ]
    found = preferred(turns)
    assert [(each.chosen, each.rejected, each.wanted) for each in found] == [
        ("Under the mat.", "In the sea.", True),
        ("The mat is red.", None, True),
        ("It is there.", "No idea at all.", True),
    ]
    assert [[message.content for message in each.said[1::2]] for each in found] == [
        ["In the hall."],
        ["In the hall."],
        ["In the hall.", "In the sea."],
    ]


def test_answers_under_different_system_prompts_are_not_compared() -> None:
    pirate = "Talk like jo@example.com, the pirate."
    turns = [
        turn("1", "In the sea.", parent=""),
        turn("2", "Under the mat, arr.", parent="", system=pirate, rating="up"),
        turn("3", "Over the mat, arr.", parent="", system=pirate),
    ]
    (found,) = preferred(turns)
    assert (found.chosen, found.rejected, found.turn_ids) == ("Under the mat, arr.", "Over the mat, arr.", ("2", "3"))
    assert found.said[0] == Message(role="system", content="Talk like [EMAIL], the pirate.")
