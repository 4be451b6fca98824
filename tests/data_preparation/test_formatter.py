from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fine_tuning.config import DatasetFormat
from fine_tuning.conversation import Conversation, Turn
from fine_tuning.data_collection.pair_formats import FORMATS
from fine_tuning.data_preparation.formatter import TrainingDataFormatter
from fine_tuning.errors import DataError


def conversation(*pairs: tuple[str, str], system: str | None = None) -> Conversation:
    turns = tuple(
        Turn(id=f"t{i}", session_id="s", timestamp="", user_message=user, bot_response=bot)
        for i, (user, bot) in enumerate(pairs)
    )
    return Conversation(id="s", turns=turns, system=system)


TWO_TURNS = conversation(("Hi", "Hello"), ("Bye", "See you"), system="Be kind")


def test_each_format_says_a_conversation_in_its_own_way() -> None:
    def pairs(name: str) -> list[dict[str, Any]]:
        return TrainingDataFormatter(name).create_training_pairs([TWO_TURNS])

    assert pairs("chatml") == [
        {
            "messages": [
                {"role": "system", "content": "Be kind"},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
                {"role": "user", "content": "Bye"},
                {"role": "assistant", "content": "See you"},
            ]
        }
    ]
    context = {"system": "Be kind", "history": [["Hi", "Hello"]]}
    assert pairs("alpaca") == [{"instruction": "Bye", "input": "", "output": "See you", **context}]
    assert pairs("instruction") == [{"prompt": "Bye", "completion": "See you", **context}]


def test_a_single_exchange_has_only_the_formats_own_keys() -> None:
    single = [{"user_message": "Hi", "bot_response": "Hello"}]
    assert TrainingDataFormatter("alpaca").create_training_pairs(single) == [
        {"instruction": "Hi", "input": "", "output": "Hello"}
    ]
    assert TrainingDataFormatter("instruction").create_training_pairs(single) == [
        {"prompt": "Hi", "completion": "Hello"}
    ]


def test_alpacas_input_follows_its_instruction_in_the_users_message() -> None:
    pair = {"instruction": "Translate.", "input": "Hallo", "output": "Hello"}
    (chatml,) = TrainingDataFormatter("alpaca").convert([pair], "chatml")
    assert chatml["messages"][0] == {"role": "user", "content": "Translate.\n\nHallo"}


text = st.text(max_size=20).filter(str.strip)
extras = st.dictionaries(st.sampled_from(["id", "source", "rating"]), st.integers() | st.text(max_size=5), max_size=2)
histories = st.lists(st.lists(text, min_size=2, max_size=2), max_size=3)


@st.composite
def alpaca_pairs(draw: st.DrawFn) -> dict[str, Any]:
    said = {"system": draw(st.just("") | text), "history": draw(histories)}
    pair = {"instruction": draw(text), "input": draw(st.text(max_size=10)), "output": draw(text)}
    return pair | {key: value for key, value in said.items() if value} | draw(extras)


@given(pairs=st.lists(alpaca_pairs(), max_size=3), route=st.permutations(list(FORMATS)))
def test_pairs_come_back_unchanged_from_a_round_through_all_formats(
    pairs: list[dict[str, Any]], route: list[DatasetFormat]
) -> None:
    start = TrainingDataFormatter("alpaca").convert(pairs, route[0])
    formats = [*route, route[0]]
    current = start
    for here, there in pairwise(formats):
        current = TrainingDataFormatter(here).convert(current, there)
        TrainingDataFormatter(there).validate(current)
    assert current == start
    assert TrainingDataFormatter(route[0]).convert(current, "alpaca") == pairs


def test_every_fault_is_reported_at_once_with_its_index() -> None:
    pairs = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
        {"messages": [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "  "}]},
        {"messages": [{"role": "human", "content": "Hi"}, {"role": "assistant", "content": 7}]},
        {"instruction": "Hi", "output": "Hello"},
        "Hi",
        {"messages": []},
    ]
    with pytest.raises(DataError) as raised:
        TrainingDataFormatter("chatml").validate(pairs)
    message = str(raised.value)
    for fault in (
        "pair 1: message 0 is 'assistant', but must be 'user'; message 1 is 'user', but must be 'assistant'; message "
        "1 is empty",
        "pair 2: messages.0.role",
        "pair 2: messages.1.content",
        "pair 3: messages: Field required",
        "pair 4",
        "pair 5: messages must end with an answer",
    ):
        assert fault in message
    assert "pair 0" not in message


@pytest.mark.parametrize(
    ("name", "pair", "fault"),
    [
        ("alpaca", {"instruction": "Hi", "output": " "}, "pair 0: output: is empty"),
        ("alpaca", {"instruction": "Hi", "output": "Hello", "history": [["a"]]}, "pair 0: history.0"),
        ("alpaca", {"instruction": "Hi", "output": "Hello", "prompt": "Hi"}, "prompt: belongs to another format"),
        ("instruction", {"prompt": "\n\nx", "completion": "Hello", "input": "x"}, "after an instruction"),
        ("instruction", {"prompt": "Hi", "completion": "Hello", "input": "x"}, "input must end the prompt"),
        (
            "chatml",
            {"messages": [{"role": "user", "content": "\n\nx"}, {"role": "assistant", "content": "y"}], "input": "x"},
            "input must end",
        ),
        ("chatml", {"messages": [{"role": "user", "content": "a", "name": "Eve"}]}, "messages.0.name"),
    ],
)
def test_what_a_conversion_would_lose_or_confuse_is_a_fault(name: str, pair: dict[str, Any], fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        TrainingDataFormatter(name).convert([pair], "chatml")


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(DataError, match="chatml, alpaca, instruction"):
        TrainingDataFormatter("sharegpt")


def test_a_conversation_with_an_empty_answer_is_named() -> None:
    with pytest.raises(DataError, match="pair 1: message 1 is empty"):
        TrainingDataFormatter().create_training_pairs([TWO_TURNS, conversation(("Hi", " "))])
