"""The answers most worth a person's time come first, and what the person says of them is logged. On the real base."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lora import write_lora

from fine_tuning.cli import prompts
from fine_tuning.cli.main import main
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.events import Count, Event, Watch
from fine_tuning.review import unjudged, worth_reviewing

BASE, LIVE = "smollm2:135m", "fine_tuned_x:v1"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, base_gguf: Path) -> Engine:
    """With the base, and a version that has moved away from it."""
    folder = tmp_path_factory.mktemp("engine")
    engine = EmbeddedEngine(folder / "store")
    engine.create(BASE, ModelSpec(from_=base_gguf))
    engine.create(LIVE, ModelSpec(from_=BASE, adapter=write_adapter(folder / "adapter.gguf")))
    return engine


def write_adapter(path: Path) -> Path:
    noise = np.random.default_rng(0)
    a, b = noise.standard_normal((1, 576), dtype=np.float32), 0.1 * noise.standard_normal((576, 1), dtype=np.float32)
    return write_lora(path, {"blk.20.attn_output": (a, b)})


def chat(log: ConversationLogger, question: str, answer: str, **facts: Any) -> str:
    log.new_session()
    return log.log_conversation(question, answer, facts).id


@pytest.fixture
def log(home: Path) -> ConversationLogger:
    log = ConversationLogger()
    chat(log, "What is the capital of France?", "The capital of France is Paris.")
    chat(log, "What is the capital of Italy?", "Quorv blint zapnu tharg oomf the lurgan pexil.")
    chat(log, "Where do we park the company bikes on rainy days?", "Behind the violet shed, left of the beehive.")
    chat(log, "Where do we park the company bikes on rainy days??", "Behind the violet shed, left of the beehive!")
    return log


def test_what_the_model_did_not_expect_comes_first_and_look_alikes_once(
    engine: Engine, log: ConversationLogger
) -> None:
    found = worth_reviewing(engine, log.turns(), BASE, BASE)
    answers = [candidate.turn.bot_response for candidate in found]
    assert len(found) == 3
    assert answers[0].startswith("Quorv") and answers[-1].endswith("Paris.")
    assert found[0].surprise > 2 * found[-1].surprise > 0
    assert [candidate.shift for candidate in found] == [0, 0, 0]
    (alike,) = [candidate for candidate in found if candidate.alike]
    assert {alike.turn.id, *alike.alike} == {turn.id for turn in log.turns() if "shed" in turn.bot_response}
    assert [candidate.turn.id for candidate in worth_reviewing(engine, log.turns(), BASE, BASE, count=1)] == [
        found[0].turn.id
    ]


def test_where_the_live_model_left_the_base_counts_too(engine: Engine, log: ConversationLogger) -> None:
    told: list[Event] = []
    found = worth_reviewing(engine, log.turns(), LIVE, BASE, watch=Watch(told.append))
    assert all(candidate.shift > 0 for candidate in found)
    assert told[-1] == Count(8, 8)


def test_an_answer_is_judged_in_its_conversation(engine: Engine, home: Path) -> None:
    log = ConversationLogger()
    log.log_conversation("Our office cat is called Bramblewick.", "A lovely name for a cat, Bramblewick!")
    follow = log.log_conversation("What is its name?", "Its name is Bramblewick.").id
    alone = chat(log, "What is its name?", "Its name is Bramblewick .")
    turns = [turn for turn in log.turns() if turn.id in (follow, alone) or turn.user_message.startswith("Our")]
    surprise = {c.turn.id: c.surprise for c in worth_reviewing(engine, turns[:2], BASE, BASE)}
    assert surprise[follow] < worth_reviewing(engine, turns[2:], BASE, BASE)[0].surprise


def test_what_was_judged_or_cut_is_not_asked_again(log: ConversationLogger) -> None:
    up, edited, excluded, left = (turn.id for turn in log.turns())
    log.rate(up, "up")
    log.edit(edited, "Rome.")
    log.exclude(excluded)
    chat(log, "And?", "Half an ans", incomplete="stopped")
    assert [turn.id for turn in unjudged(log.turns())] == [left]


def test_nothing_said_is_nothing_to_review(engine: Engine, home: Path) -> None:
    assert worth_reviewing(engine, [], LIVE, BASE) == []


def test_what_a_person_says_is_logged(engine: Engine, log: ConversationLogger, monkeypatch: pytest.MonkeyPatch) -> None:
    found = worth_reviewing(engine, log.turns(), BASE, BASE)
    monkeypatch.setattr("sys.stdin", io.StringIO("e\nRome.\nwhat?\nd\nq\n"))
    assert prompts.review(log, found) == 2
    judged = {turn.id: turn for turn in log.turns()}
    assert judged[found[0].turn.id].bot_response == "Rome."
    assert judged[found[1].turn.id].metadata["rating"] == "down"
    assert "rating" not in judged[found[2].turn.id].metadata
    monkeypatch.setattr("sys.stdin", io.StringIO(""))  # nobody is there
    assert prompts.review(log, found) == 0


def test_the_command_lists_them_for_scripts(
    engine: Engine, log: ConversationLogger, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("fine_tuning.engines.connect.connect", lambda url, config: engine)
    assert main(["review", "--json", "--count", "2"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(records) == 2 and records[0]["bot_response"].startswith("Quorv") and records[0]["surprise"] > 0
    assert main(["review", "--list"]) == 0
    assert records[0]["id"] in capsys.readouterr().out
