import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fine_tuning.config import DataPreparation
from fine_tuning.conversation import Conversation, Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_cleaner import DataCleaner
from fine_tuning.data_preparation.dataset_builder import build_dataset
from fine_tuning.thoughts import split_thoughts, with_thoughts


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("<think>\nhm\n</think>\n\nParis.", "hm", "Paris."),
        ("<think>hm</think>Paris.", "hm", "Paris."),
        ("\n <think>\n\n</think>\n\nParis.", "", "Paris."),  # Qwen 3, told not to think
        ("<think>\nhm, it was cut", "hm, it was cut", ""),
        ("<think>", "", ""),
        ("hm\n\nso.\n</think>\n\nParis.", "hm\n\nso.", "Paris."),  # DeepSeek R1, whose prompt opens the tag
        ("hm.</think>Paris.", "hm.", "Paris."),
        ("</think>\n\nParis.", "", "Paris."),
        ("<thinking>a <think>b</think> c</thinking>\nd", "a <think>b</think> c", "d"),
        ("<think>the tag <think> is meant</think>Yes.", "the tag <think> is meant", "Yes."),
        ("<think>a</think>\n<think>b</think>\nc", "a\n\nb", "c"),
        ("<THINK>\na\n</Think>\nb", "a", "b"),
        ("< think >a</ think >b", "a", "b"),
        ("<reasoning>a</reasoning>\n\nb", "a", "b"),
        ("<thought>a</thought>b", "a", "b"),
        ("<think>a</think>Say `</think>` to stop. <think> opens.", "a", "Say `</think>` to stop. <think> opens."),
        ("<think> 好的\n</think>\n\n巴黎", "好的", "巴黎"),
        ("[THINK]a[/THINK]b", "a", "b"),
        ("◁think▷a◁/think▷b", "a", "b"),
        ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>b<|END_RESPONSE|>", "a", "b"),
        ("<|begin_of_thought|>a<|end_of_thought|>\n\n<|begin_of_solution|>b<|end_of_solution|>", "a", "b"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>", "a", "b"),
        ("<|channel|>analysis<|message|>a", "a", ""),
        ("<|channel|>final<|message|>b", "", "b"),
        ("analysisThe user asks.assistantfinalParis.", "The user asks.", "Paris."),
    ],
)
def test_thoughts_before_an_answer_are_told_apart(text: str, thoughts: str, answer: str) -> None:
    said = split_thoughts(text)
    assert (said.thoughts, said.answer) == (thoughts, answer)


@pytest.mark.parametrize(
    "text",
    [
        "Paris.",
        "",
        "  <b>Paris</b>\n",
        "The `<think>` tag opens the thoughts, and `</think>` closes them.",
        "`<think>` opens the thoughts.",
        "<think> is a tag that Qwen uses.",
        "<think> and </think> are tags of some models.",
        "<think>, a tag, opens them.",
        "Use </think> to close it.",
        "It is closed by\n\n    </think>\n\nand then the answer follows.",
        "```xml\n<think>\nhm\n</think>\nParis.\n```",
        "Here it is:\n\n<think>\nhm\n</think>\n\nParis.",
        "text.split('</think>')[-1]",
        "I think</b> so",
        "analysis shows that the assistant is final",
        "The channel <|channel|>analysis<|message|> holds thoughts.",
    ],
)
def test_a_tag_in_prose_or_code_stays(text: str) -> None:
    assert split_thoughts(text) == ("", "", "", text)


@given(
    st.lists(
        st.sampled_from(
            ["<think>", "</think>", "hm", "\n", " ", "```", "Paris.", "<|channel|>", "analysis", "<|message|>", "final"]
        )
    )
)
def test_what_is_left_has_no_thoughts_before_it(parts: list[str]) -> None:
    said = split_thoughts("".join(parts))
    assert not split_thoughts(said.answer).answer.startswith("<think>\n")
    assert split_thoughts(with_thoughts("a", "b")) == ("<think>\n", "a", "\n</think>\n\n", "b")


RAW = "<think>\nAsk anna@example.com\n</think>\n\nThe capital of France is Paris."


def test_thoughts_are_logged_beside_the_answer(home: Path) -> None:
    log = ConversationLogger()
    turn = log.log_conversation("What is the capital of France?", RAW, {"model": "m"})
    assert turn.bot_response == "The capital of France is Paris."
    assert turn.metadata == {"model": "m", "thoughts": "Ask anna@example.com"}
    assert json.loads(log.path.read_text("utf-8"))["metadata"]["thoughts"] == "Ask anna@example.com"
    assert log.turns() == [turn]
    log.edit(turn.id, "<think>x</think>Paris!")
    assert (log.turns()[0].bot_response, log.turns()[0].metadata["original_response"]) == ("Paris!", turn.bot_response)


def test_what_was_logged_before_thoughts_were_told_apart_is_read_as_well(home: Path) -> None:
    log = ConversationLogger()
    log.log_conversation("a", "b")
    line = json.loads(log.path.read_text("utf-8")) | {"id": "old", "bot_response": RAW}
    del line["crc32"]  # as it was before lines had one
    log.path.write_text(json.dumps(line) + "\n", "utf-8")
    (turn,) = log.turns()
    assert (turn.bot_response, turn.metadata) == (
        "The capital of France is Paris.",
        {"thoughts": "Ask anna@example.com"},
    )
    assert "<think>" in log.path.read_text("utf-8")  # reading rewrites nothing


@pytest.mark.parametrize("thoughts", [3, ["x"], None, "before"])
def test_thoughts_in_an_answer_join_only_those_that_are_text(thoughts: object) -> None:
    turn = Turn(
        id="1", session_id="s", timestamp="", user_message="a", bot_response=RAW, metadata={"thoughts": thoughts}
    )
    first = "before\n\n" if thoughts == "before" else ""
    assert turn.bot_response == "The capital of France is Paris."
    assert turn.metadata == {"thoughts": f"{first}Ask anna@example.com"}
    assert Turn.model_validate_json(turn.model_copy(update={"bot_response": RAW}).model_dump_json()).bot_response == (
        turn.bot_response
    )


@pytest.mark.parametrize("teach", [False, True])
def test_thoughts_are_taught_only_where_they_are_wanted_and_scrubbed_as_all_is(home: Path, teach: bool) -> None:
    turn = Turn(id="t", session_id="s", timestamp="", user_message="What is the capital of France?", bot_response=RAW)
    cleaned = DataCleaner().filter_conversations([Conversation(id="s", turns=(turn,))])
    settings = DataPreparation(train_ratio=1, validation_ratio=0, test_ratio=0, teach_thoughts=teach)
    record = json.loads((build_dataset(cleaned.conversations, settings).path / "train.jsonl").read_text("utf-8"))
    answer = "The capital of France is Paris."
    assert record["messages"][-1]["content"] == (f"<think>\nAsk [EMAIL]\n</think>\n\n{answer}" if teach else answer)
