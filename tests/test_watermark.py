"""What is new since the last version: what was said, and what its owner has said of it since."""

from pathlib import Path

import pytest

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.pipeline import _standing, new_turns

CONFIG = FineTuningConfig()


@pytest.fixture
def log(home: Path) -> ConversationLogger:
    log = ConversationLogger()
    for number in range(4):
        log.log_conversation(f"Question {number}?", f"Answer {number}.")
    return log


def learned(log: ConversationLogger, number: int, seen: object) -> None:
    paths.write_json(paths.home() / "runs" / f"run-{number}" / "inputs.json", {"seen": seen})
    Registry().add(CONFIG.tuned_name(), number, run=f"runs/run-{number}")


def new(log: ConversationLogger) -> list[str]:
    return [turn.user_message for turn in new_turns(CONFIG, log.turns(), Registry())]


def test_what_was_rated_or_edited_since_the_last_version_is_new_again(log: ConversationLogger) -> None:
    turns = log.turns()
    learned(log, 1, {turn.id: _standing(turn) for turn in turns[:3]})
    assert new(log) == ["Question 3?"]
    log.rate(turns[0].id, "up")
    log.edit(turns[1].id, "A better answer.")
    assert new(log) == ["Question 0?", "Question 1?", "Question 3?"]
    learned(log, 2, {turn.id: _standing(turn) for turn in log.turns()})
    assert new(log) == []
    log.rate(turns[0].id, None)
    assert new(log) == ["Question 0?"]


def test_a_version_that_only_knows_which_turns_it_saw_has_seen_them(log: ConversationLogger) -> None:
    learned(log, 1, [turn.id for turn in log.turns()[:2]])
    assert new(log) == ["Question 2?", "Question 3?"]
