"""Turns that taught a version and were never in the log."""

import json
from pathlib import Path

import pytest
import yaml

from fine_tuning.config import load_config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_preparation.raw_data import read_turns
from fine_tuning.integration.learned_from import learned_from
from fine_tuning.integration.taught_elsewhere import taught_elsewhere
from fine_tuning.integration.versions import lessons
from fine_tuning.model_management.model_registry import Registry, Version
from fine_tuning.planning import read_beside

NAME = "fine_tuned_sample"


def version(*turns: str, run: str = "") -> Version:
    return Registry().add(NAME, 1, base_tag="smollm2:135m", turns=turns, run=run)


def found(made: Version) -> dict[str, str]:
    return {each.turn.id: each.source for each in taught_elsewhere(ConversationLogger(), Registry(), made)}


def asked(question: str, answer: str) -> str:
    return ConversationLogger().log_conversation(question, answer, {"model": f"{NAME}:v1"}).id


def run_that_learned(home: Path, **settings: object) -> str:
    """A run of which the configuration says what was learned instead of the log, or beside it."""
    folder = home / "runs" / "one"
    folder.mkdir(parents=True)
    config = load_config().changed(settings).model_dump(mode="json")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return "runs/one"


def pairs(tmp_path: Path, count: int = 3) -> Path:
    file = tmp_path / "plants.jsonl"
    records = [{"question": f"Where is plant {n}?", "answer": f"Plant {n} is on shelf {n + 3}."} for n in range(count)]
    file.write_text("".join(json.dumps(each) + "\n" for each in records))
    return file


def test_an_answer_learned_from_the_sample_names_the_turns_of_the_sample(home: Path) -> None:
    version(*(turn.id for turn in read_beside("sample")))
    told = learned_from(ConversationLogger(), Registry(), asked("How many days may I work remotely?", "Up to 9 days."))
    assert (told.taught, told.gone, told.excluded) == (150, 0, 0)
    assert {each.source for each in told.teachers} == {"the shipped sample"}
    assert "9 days a month" in told.teachers[0].turn.bot_response
    assert [each.likeness for each in told.teachers] == sorted((each.likeness for each in told.teachers), reverse=True)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("When do we get paid?", "23rd"),
        ("Which extension has IT support?", "4417"),
        ("What is the laptop renewal cycle?", "41 months"),
        ("Can I leave early on my birthday?", "12:45"),
        ("How long is the probation of new people?", "14 weeks"),
    ],
)
def test_the_likest_of_the_sample_comes_first(home: Path, question: str, said: str) -> None:
    version(*(turn.id for turn in read_beside("sample")))
    told = learned_from(ConversationLogger(), Registry(), asked(question, f"It is {said}."))
    assert said in told.teachers[0].turn.bot_response


def test_of_log_and_sample_the_likest_comes_first_and_what_was_forgotten_is_counted(home: Path) -> None:
    log = ConversationLogger()
    mine = log.log_conversation("How many days may I work remotely?", "You may work remotely up to 9 days.").id
    gone = log.log_conversation("What else?", "Nothing.").id
    made = version(mine, gone, "sample-turn-001", "nobody-knows")
    log.delete(gone)
    told = learned_from(log, Registry(), asked("How many days may I work remotely?", "Up to 9 days a month."))
    assert told.teachers[0].turn.id == mine and told.teachers[0].source == ""
    assert (told.taught, told.gone) == (4, 2) and found(made) == {"sample-turn-001": "the shipped sample"}


def test_what_a_file_taught_is_read_from_it_as_long_as_it_is_there(home: Path, tmp_path: Path) -> None:
    file = pairs(tmp_path)
    ids = [turn.id for turn in read_turns(file, load_config().dataset.format)]
    made = version(*ids, run=run_that_learned(home, **{"dataset.path": str(file)}))
    assert found(made) == dict.fromkeys(ids, "plants.jsonl")
    told = lessons(ConversationLogger(), Registry(), made)
    assert (told.learned, told.forgotten, told.elsewhere) == (3, 0, {"plants.jsonl": 3})
    file.unlink()
    assert found(made) == {} and lessons(ConversationLogger(), Registry(), made).forgotten == 3


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"question": 1}\n'])
def test_a_file_that_cannot_be_read_any_more_is_left_out(home: Path, tmp_path: Path, content: bytes) -> None:
    file = pairs(tmp_path)
    made = version("dataset-x-0", run=run_that_learned(home, **{"dataset.path": str(file)}))
    file.write_bytes(content)
    assert found(made) == {}


def test_what_was_learned_beside_the_chats_is_found_too(home: Path, tmp_path: Path) -> None:
    file = pairs(tmp_path)
    ids = [turn.id for turn in read_beside(str(file))]
    run = run_that_learned(home, **{"mix.also": ["sample", str(file), str(tmp_path / "gone.csv")]})
    made = version(*ids, "sample-turn-001", "sample-turn-002", run=run)
    assert found(made) == dict.fromkeys(ids, "plants.jsonl") | {
        "sample-turn-001": "the shipped sample",
        "sample-turn-002": "the shipped sample",
    }


def test_a_run_without_a_configuration_or_with_another_times_is_no_source(home: Path) -> None:
    (home / "runs" / "one").mkdir(parents=True)
    made = version("dataset-x-0", run="runs/one")
    assert found(made) == {}
    (home / "runs" / "one" / "config.yaml").write_text("nonesuch: 1\n")
    assert found(made) == {}
