"""What is new since the last version: what was said, and what its owner has said of it since."""

from dataclasses import asdict
from pathlib import Path

import pytest

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.planning import count_new, new_turns

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
    said = {turn.id: turn.user_message for turn in log.turns()}
    found = new_turns(CONFIG, log, Registry())
    assert count_new(CONFIG, log, Registry()) == len(found)
    return [said[id] for id in found]


def test_what_was_rated_or_edited_since_the_last_version_is_new_again(log: ConversationLogger) -> None:
    turns = log.turns()
    learned(log, 1, {turn.id: turn.state_hash for turn in turns[:3]})
    assert new(log) == ["Question 3?"]
    log.rate(turns[0].id, "up")
    log.edit(turns[1].id, "A better answer.")
    assert new(log) == ["Question 0?", "Question 1?", "Question 3?"]
    learned(log, 2, {turn.id: turn.state_hash for turn in log.turns()})
    assert new(log) == []
    log.rate(turns[0].id, None)
    assert new(log) == ["Question 0?"]


def test_a_stopped_answer_is_new_once_it_is_approved(log: ConversationLogger) -> None:
    stopped = [log.log_conversation(f"Stopped {name}?", "Half an ans", {"incomplete": "stopped"}) for name in "abc"]
    assert count_new(CONFIG, log, Registry()) == 4  # before the first version
    learned(log, 1, {turn.id: turn.state_hash for turn in log.turns()})
    log.edit(stopped[0].id, "A whole answer.")
    log.rate(stopped[1].id, "up")
    log.rate(stopped[2].id, "down")
    assert new(log) == ["Stopped a?", "Stopped b?"]
    log.rate(stopped[1].id, None)
    assert new(log) == ["Stopped a?"]


def test_a_version_that_only_knows_which_turns_it_saw_has_seen_them(log: ConversationLogger) -> None:
    learned(log, 1, [turn.id for turn in log.turns()[:2]])
    assert new(log) == ["Question 2?", "Question 3?"]


def test_the_mark_of_the_newest_version_saves_looking_at_what_came_before(
    log: ConversationLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = log.turns()
    inputs = {"seen": {turn.id: turn.state_hash for turn in turns}, "mark": asdict(log.index.mark())}
    paths.write_json(paths.home() / "runs" / "run-1" / "inputs.json", inputs)
    Registry().add(CONFIG.tuned_name(), 1, run="runs/run-1")
    assert new(log) == []
    log.rate(turns[1].id, "up")
    added = log.log_conversation("Question 4?", "Answer 4.")
    assert new(log) == ["Question 1?", "Question 4?"]
    log.rate(turns[1].id, None)  # as it stood when it was seen
    assert new(log) == ["Question 4?"]
    log.exclude(added.id)
    assert new(log) == []


def test_a_mark_from_before_the_index_was_made_anew_hides_nothing(log: ConversationLogger) -> None:
    turns, mark = log.turns(), log.index.mark()
    paths.write_json(
        paths.home() / "runs" / "run-1" / "inputs.json",
        {"seen": {turns[0].id: turns[0].state_hash}, "mark": asdict(mark)},
    )
    for file in paths.home().glob("state.db*"):
        file.unlink()
    Registry().add(CONFIG.tuned_name(), 1, run="runs/run-1")
    assert new(log) == ["Question 1?", "Question 2?", "Question 3?"]
