"""The shipped sample is what data/samples/README.md says: learnable, unguessable, and free of real people."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import phonenumbers
import pytest
from rapidfuzz import fuzz

from fine_tuning.conversation import Conversation, Turn, conversations_of
from fine_tuning.data_collection.data_cleaner import DataCleaner
from fine_tuning.paths import SAMPLES

EMAIL = re.compile(r"[\w.+-]+@([\w-]+(?:\.[\w-]+)+)")
URL = re.compile(r"(?:https?://|www\.)([\w.-]+)\S*")
# Ofcom's numbers for drama, and the block that North America reserves for fiction.
FICTIONAL_PHONE = re.compile(r"\+442079460\d{3}|\+1\d{3}55501\d\d")


def records(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLES / name).read_text(encoding="utf-8").splitlines()]


def phones(text: str) -> list[str]:
    """E.164 form of all that anyone could dial, read as in Britain and as in the United States."""
    found = [match.number for region in ("GB", "US") for match in phonenumbers.PhoneNumberMatcher(text, region)]
    return [phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164) for number in found]


def normalised(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def texts(value: Any) -> Iterator[str]:
    """Every string in a record, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (key, *texts(item))
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


@pytest.fixture(scope="module")
def turns() -> list[Turn]:
    return [Turn.model_validate(record) for record in records("conversations.jsonl")]


@pytest.fixture(scope="module")
def conversations(turns: list[Turn]) -> list[Conversation]:
    return conversations_of(turns)


@pytest.fixture(scope="module", params=["held_out.jsonl", "held_out_validation.jsonl"])
def held_out(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return records(request.param)


@pytest.fixture(scope="module")
def key_facts(held_out: list[dict[str, Any]]) -> dict[str, str]:
    return {record["policy"]: record["key_fact"] for record in held_out}


def test_there_are_120_chats_and_some_have_several_turns(conversations: list[Conversation]) -> None:
    lengths = Counter(len(conversation.turns) for conversation in conversations)
    assert len(conversations) >= 120
    assert lengths[2] + lengths[3] >= 8
    assert set(lengths) == {1, 2, 3}


def test_every_policy_is_asked_in_at_least_four_ways(turns: list[Turn]) -> None:
    asked = defaultdict(set)
    for turn in turns:
        asked[turn.metadata["policy"]].add(normalised(turn.user_message))
    assert len(asked) == 30
    assert min(len(phrasings) for phrasings in asked.values()) >= 4


def test_turns_are_valid_log_records_in_order(turns: list[Turn], conversations: list[Conversation]) -> None:
    assert len({turn.id for turn in turns}) == len(turns)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", turn.timestamp) for turn in turns)
    assert [turn.timestamp for turn in turns] == sorted(turn.timestamp for turn in turns)
    assert [turn for conversation in conversations for turn in conversation.turns] == turns
    assert all(turn.metadata["model"] for turn in turns)


def test_turns_keep_to_the_lengths_that_the_cleaner_accepts(turns: list[Turn]) -> None:
    assert all(10 <= len(side) <= 1000 for turn in turns for side in (turn.user_message, turn.bot_response))
    assert all(len(turn.bot_response.split()) <= 25 for turn in turns)


def test_no_two_phrasings_of_a_policy_are_near_duplicates(turns: list[Turn]) -> None:
    asked = defaultdict(list)
    for turn in turns:
        asked[turn.metadata["policy"]].append(normalised(turn.user_message))
    for phrasings in asked.values():
        for index, phrasing in enumerate(phrasings):
            assert all(fuzz.ratio(phrasing, other) < 80 for other in phrasings[:index]), phrasing


def test_every_policy_has_two_held_out_phrasings(turns: list[Turn], held_out: list[dict[str, Any]]) -> None:
    assert all(set(record) == {"policy", "question", "key_fact", "answer"} for record in held_out)
    assert Counter(record["policy"] for record in held_out) == {turn.metadata["policy"]: 2 for turn in turns}
    assert len({normalised(record["question"]) for record in held_out}) == len(held_out)


def test_held_out_questions_are_not_in_the_training_file(turns: list[Turn], held_out: list[dict[str, Any]]) -> None:
    for record in held_out:
        question = normalised(record["question"])
        assert all(fuzz.ratio(question, normalised(turn.user_message)) < 90 for turn in turns), question


def test_a_key_fact_is_in_every_answer_of_its_policy(
    turns: list[Turn], held_out: list[dict[str, Any]], key_facts: dict[str, str]
) -> None:
    assert all(key_facts[turn.metadata["policy"]] in turn.bot_response for turn in turns)
    assert all(record["key_fact"] in record["answer"] for record in held_out)


def test_a_key_fact_cannot_be_read_off_a_question_or_mistaken_for_another(
    turns: list[Turn], held_out: list[dict[str, Any]], key_facts: dict[str, str]
) -> None:
    questions = [turn.user_message.lower() for turn in turns] + [record["question"].lower() for record in held_out]
    answers = {(turn.metadata["policy"], turn.bot_response.lower()) for turn in turns}
    for policy, fact in key_facts.items():
        assert not [question for question in questions if fact.lower() in question]
        assert not [other for other, answer in answers if other != policy and fact.lower() in answer]


def test_contacts_are_only_of_the_kinds_reserved_for_fiction() -> None:
    shipped = [
        text for path in sorted(SAMPLES.glob("*.jsonl")) for record in records(path.name) for text in texts(record)
    ]
    for text in shipped:
        assert {host.removesuffix(".") for host in EMAIL.findall(text)} <= {"example.com"}, text
        assert all(host == "example.com" or host.endswith(".example.com") for host in URL.findall(text)), text
        assert all(FICTIONAL_PHONE.fullmatch(number) for number in phones(text)), text


def test_contacts_to_scrub_are_planted_in_questions_and_in_answers(conversations: list[Conversation]) -> None:
    def planted(side: str) -> int:
        return sum(
            any(holds_contact(getattr(turn, side)) for turn in conversation.turns) for conversation in conversations
        )

    assert planted("user_message") >= 5
    assert planted("bot_response") >= 3


def holds_contact(text: str) -> bool:
    return bool(EMAIL.search(text) or URL.search(text) or phones(text))


def test_cleaning_scrubs_every_contact_and_keeps_every_turn_and_fact(
    turns: list[Turn], conversations: list[Conversation], key_facts: dict[str, str]
) -> None:
    cleaned = DataCleaner().filter_conversations(conversations)
    kept = [turn for conversation in cleaned.conversations for turn in conversation.turns]
    assert cleaned.drops == []
    assert [turn.id for turn in kept] == [turn.id for turn in turns]
    assert all(key_facts[turn.metadata["policy"]] in turn.bot_response for turn in kept)
    assert not [turn for turn in kept if holds_contact(turn.user_message) or holds_contact(turn.bot_response)]
    assert sum(cleaned.scrubbed.values()) == 10


def test_cleaning_alters_nothing_but_the_contacts(turns: list[Turn], conversations: list[Conversation]) -> None:
    cleaned = DataCleaner().filter_conversations(conversations)
    after = {turn.id: turn for conversation in cleaned.conversations for turn in conversation.turns}
    plain = [turn for turn in turns if not holds_contact(turn.user_message) and not holds_contact(turn.bot_response)]
    assert [after[turn.id].messages() for turn in plain] == [turn.messages() for turn in plain]


def test_general_prompts_are_many_and_unique() -> None:
    prompts = [record["prompt"] for record in records("general_prompts.jsonl")]
    assert len(prompts) >= 150
    assert len({normalised(prompt) for prompt in prompts}) == len(prompts)


def test_general_questions_name_their_answers_and_what_the_base_knows() -> None:
    questions = records("general_questions.jsonl")
    assert all(set(record) == {"question", "answers", "base"} and record["answers"] for record in questions)
    assert (questions[0]["question"], questions[0]["answers"], questions[0]["base"]) == (
        "What is the capital of France?",
        ["Paris"],
        True,
    )
    assert len({normalised(record["question"]) for record in questions}) == len(questions)
    assert sum(record["base"] for record in questions) >= 25


def test_general_questions_do_not_hold_their_answers() -> None:
    for record in records("general_questions.jsonl"):
        asked = f" {normalised(record['question'])} "
        assert not [answer for answer in record["answers"] if f" {normalised(answer)} " in asked]


def test_nothing_that_is_asked_later_is_replayed(held_out: list[dict[str, Any]]) -> None:
    prompts = [normalised(record["prompt"]) for record in records("general_prompts.jsonl")]
    for question in [normalised(record["question"]) for record in [*records("general_questions.jsonl"), *held_out]]:
        assert all(fuzz.ratio(question, prompt) < 95 for prompt in prompts), question
    assert not [prompt for prompt in prompts if re.search(r"\b(france|paris|japan|tokyo|h2o|water)\b", prompt)]
