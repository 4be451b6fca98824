"""Of questions in other words only those are kept that ask for the same."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fine_tuning.config import load_config
from fine_tuning.conversation import Message
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_preparation.paraphrase import Rewording, altered, tidy
from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import ModelNotFound
from fine_tuning.planning import make_plan
from fine_tuning.rewording import rewording
from fine_tuning.workshop import Workshop

ASKED = "When does the canteen open?"


@pytest.mark.parametrize(
    ("question", "made"),
    [
        (ASKED, "At what time does the canteen open?"),
        (ASKED, "Could you tell me when the canteen opens?"),
        (ASKED, "Do you know what time the canteen opens?"),
        ("Which room is the meeting in?", "What room is the meeting in?"),
        ("In which place is the key of room 12?", "Where is the key of room 12?"),
        ("Can I park in the yard?", "May we park in the yard, please?"),
        ("How come [NAME] has no badge?", "Why does [NAME] has no badge?"),
    ],
)
def test_the_same_question_in_other_words_is_kept(question: str, made: str) -> None:
    assert altered(question, made) == ""


@pytest.mark.parametrize(
    ("question", "made"),
    [
        (ASKED, ASKED),
        (ASKED, "when does the canteen open"),
        (ASKED, ""),
        (ASKED, "The canteen opens at 11:35."),
        (ASKED, "When does the canteen close?"),
        (ASKED, "Where does the canteen open?"),
        (ASKED, "When does the canteen not open?"),
        (ASKED, "When does the canteen open on Sundays?"),
        (ASKED, "When does it open?"),
        (ASKED, "Does the canteen open?"),
        (ASKED, "When and where does the canteen open?"),
        ("Does Anna report to Ben?", "Does Ben report to Anna?"),
        ("Is a train from Rome to Bari cheaper?", "Is a train from Bari to Rome cheaper?"),
        ("May I leave before 5 pm?", "May I leave after 5 pm?"),
        ("May I leave before 5 pm?", "May I leave before 6 pm?"),
        ("What is your name?", "What is my name?"),
        ("How many days off do I get?", "How much do I get?"),
        ("Who signs a form over 250 euros?", "Who signs a form over 25 euros?"),
        ("Can I bring a dog?", "Must I bring a dog?"),
        ("Can visitors enter without a badge?", "Can visitors enter with a badge?"),
        ("Does [EMAIL_1] know [EMAIL_2]?", "Does [EMAIL_2] know [EMAIL_1]?"),
        ("Is version 1.20 out?", "Is version 1.2 out?"),
        ("What is the control room?", "What is the contract room?"),
    ],
)
def test_another_question_is_not(question: str, made: str) -> None:
    assert altered(question, made)


@pytest.mark.parametrize(
    ("said", "question"),
    [
        ('"When does it open?"', "When does it open?"),
        ("Here is the question:\n\n**When does it open?**", "When does it open?"),
        ("New question: When does it open?", "When does it open?"),
        ("When does it open?\nIt opens at nine.", ""),
        ("", ""),
    ],
)
def test_what_a_model_writes_around_a_question_is_taken_off(said: str, question: str) -> None:
    assert tidy(said) == question


def record(question: str = ASKED) -> dict[str, Any]:
    return {
        "id": "c",
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "It opens at 11:35."}],
    }


def rewritten(answers: Sequence[str], likely: dict[str, float], question: str = ASKED) -> tuple[str, Rewording]:
    """Return what becomes of a question of which a model says these things, one after the other."""
    said = iter(answers)
    likelihood = lambda messages: likely.get(messages[-2].content, -1.0)  # noqa: E731
    reword = Rewording("k", lambda asked, seed: next(said), likelihood, 0.2)
    return reword.paraphrase(record(question), 0, 1), reword


GOOD = "At what time does the canteen open?"


def test_wordings_after_which_the_answer_is_less_likely_are_thrown_away() -> None:
    made, reword = rewritten([GOOD, "What time does the canteen open?"], {GOOD: -1.3})
    assert made == "What time does the canteen open?"
    assert reword.rejected == {"the answer is less likely": 1}


def test_where_no_attempt_is_right_the_question_stays() -> None:
    made, reword = rewritten(["Lunch!", "When does the canteen close?"], {})
    assert made == ASKED
    assert reword.rejected == {"no question": 1, "other words": 1}


@pytest.mark.parametrize("question", ["x" * 400, "What does this print?\n```\nprint(1)\n```", "One line\nand another?"])
def test_long_questions_and_code_are_not_put_in_other_words(question: str) -> None:
    made, reword = rewritten([], {}, question)
    assert made == question
    assert not reword.rejected


# With the real base

QUESTIONS = {
    "When does the canteen open?": "The canteen opens at 11:35.",
    "Which room does the sales team meet in?": "The sales team meets in Larkspur.",
    "Who repairs the lift in building 4?": "Mr Hobbs repairs the lift in building 4.",
    "Can visitors enter without a badge?": "No, visitors need a badge at all times.",
    "How many days of holiday do new colleagues get?": "New colleagues get 27 days of holiday.",
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, base_gguf: Path) -> Iterator[Engine]:
    engine = EmbeddedEngine(tmp_path_factory.mktemp("engine"))
    engine.create("smollm2:135m", ModelSpec(from_=base_gguf))
    yield engine
    engine.unload()


def test_the_base_finds_an_answer_likelier_after_its_own_question(engine: Engine, home: Path) -> None:
    config = load_config(overrides={"augmentation.paraphrase": 1})
    with rewording(Workshop(config, engine)) as reword:
        assert reword is not None
        answer = Message(role="assistant", content=QUESTIONS[ASKED])
        asked = (ASKED, "At what time does the canteen open?", "Who repairs the lift?")
        own, same, foreign = (reword.likelihood([Message(role="user", content=each), answer]) for each in asked)
    assert own and same and foreign
    assert foreign < own - 0.2
    assert same > foreign


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_wrong_that_the_real_base_writes_is_learned(engine: Engine, home: Path) -> None:
    log = ConversationLogger()
    for question, answer in QUESTIONS.items():
        log.new_session()
        log.log_conversation(question, answer, {"model": "smollm2:135m"})
    changes = {
        "augmentation.paraphrase": 1,
        "augmentation.back_translation": 1,
        "data_preparation.train_ratio": 1.0,
        "data_preparation.validation_ratio": 0.0,
        "data_preparation.test_ratio": 0.0,
        "training.replay.share": 0,
    }
    plan = make_plan(Workshop(load_config(overrides=changes), engine))
    lines = (plan.dataset.path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    made = [record for record in map(json.loads, lines) if "augmented" in record]
    originals = {record["id"]: record for record in map(json.loads, lines) if "augmented" not in record}
    assert len(originals) == len(QUESTIONS)
    for variant in made:
        question, answer = (message["content"] for message in variant["messages"])
        original = originals[variant["id"].partition("~")[0]]["messages"]
        print(f"{variant['augmented']['how']}: {original[0]['content']} -> {question}")
        assert answer == original[1]["content"]
        assert altered(original[0]["content"], question) == ""
    assert plan.dataset.manifest.get("augmented", {}).keys() == {record["augmented"]["how"] for record in made}


def test_a_model_that_the_engine_does_not_have_is_named(engine: Engine, home: Path) -> None:
    config = load_config(overrides={"augmentation.paraphrase": 1, "augmentation.model": "nobody:7b"})
    with pytest.raises(ModelNotFound, match="nobody"), rewording(Workshop(config, engine)):
        pass
