"""What is told of the log's data, and the jobs that find it out."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from fine_tuning.config import Uploads, load_config
from fine_tuning.conversation import Turn
from fine_tuning.data_collection import uploads
from fine_tuning.data_collection.cleaning.turn_decisions import Reason
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.importers.importing import import_files
from fine_tuning.data_collection.log import outcomes
from fine_tuning.errors import Cancelled, DataError, TooLarge, TurnNotFound
from fine_tuning.events import Finished, Watch
from fine_tuning.integration import data_view
from fine_tuning.jobs.kinds import KINDS, read_request
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.survey import look_through


def said(question: str, answer: str, **metadata: Any) -> Turn:
    return ConversationLogger().log_conversation(question, answer, metadata or None)


def done(kind: str, **request: Any) -> dict[str, Any]:
    """Do a job here, and return its result."""
    told: list[object] = []
    result = KINDS[kind].work(read_request(kind, request), Watch(told.append))
    assert isinstance(told[-1], Finished)
    return dict(result or {})


def test_every_reason_is_told_in_plain_words() -> None:
    assert list(data_view.REASONS) == list(Reason)
    assert all(words.meaning.endswith(".") for words in data_view.REASONS.values())


def test_a_survey_counts_keeps_and_names_examples(embedded: None) -> None:
    said("Where is the key to the office?", "Ask anna@example.org for it.")
    short = said("hm", "no")
    said("Is it so?", "Yes, and it is", incomplete="stopped")
    facts = done("survey")
    assert (facts["turns"], facts["kept_turns"], facts["dropped"]) == (3, 1, {"too_short": 1, "incomplete": 1})
    assert facts["tokens"] is None  # no base is there
    log = ConversationLogger()
    look = outcomes.last(log.path)
    assert look is not None and not data_view.is_stale(log, look)
    assert short.id in {each.example.id for each in data_view.dropped(log, look) if each.example}
    (scrubbing,) = data_view.scrubbings(load_config(), log, look)
    assert scrubbing.learned == ("Ask [EMAIL] for it.",)
    assert scrubbing.masked == (f"Ask {len('anna@example.org') * '•'} for it.",) and scrubbing.said == (
        "Ask anna@example.org for it.",
    )
    log.delete(turn_id=short.id)
    assert data_view.is_stale(log, look)
    assert short.id not in {each.example.id for each in data_view.dropped(log, look) if each.example}
    assert json.dumps(facts).find("anna@") == -1


def test_examples_show_the_names_that_are_learned(embedded: None) -> None:
    log = ConversationLogger()
    log.log_conversation("Who has the key to the office?", "Ask anna@example.org, or Tom.")
    log.log_conversation("Where can I write to Tom?", "He is at tom@example.org today.")
    log.exclude(log.log_conversation("And where is the boss?", "Write to boss@example.org, please.").id)
    done("survey")
    look = outcomes.last(log.path)
    assert look is not None
    config = load_config()
    shown = [each.learned for each in data_view.scrubbings(config, log, look)]
    assert shown == [("Ask [EMAIL_1], or Tom.",), ("He is at [EMAIL_2] today.",)]
    words = config.changed({"data_preparation.own_words": ["Tom"]})
    shown = [each.learned for each in data_view.scrubbings(words, log, look)]
    assert shown == [
        ("Ask [EMAIL_1], or [PRIVATE].",),
        ("Where can I write to [PRIVATE]?", "He is at [EMAIL_2] today."),
    ]


def test_a_survey_ends_when_it_is_asked_to_and_keeps_the_last_one(home: Path) -> None:
    said("Where is the key to the office?", "Under the mat.")
    with pytest.raises(Cancelled):
        look_through(load_config(), None, Watch(stopping=lambda: True))
    assert not outcomes.place().exists()


def test_a_dataset_that_is_learned_instead_is_named(home: Path) -> None:
    config = load_config(overrides={"dataset.path": str(home / "mine.jsonl")})
    with pytest.raises(DataError, match=r"mine\.jsonl is learned instead"):
        look_through(config, None, Watch())


def test_what_costs_nothing_is_counted_at_once(home: Path) -> None:
    turns = [said(f"Question {number}?", "An answer.") for number in range(4)]
    log = ConversationLogger()
    log.exclude(turns[0].id)
    assert data_view.counts(load_config(), log, Registry()) == data_view.Counts(turns=4, new=3, excluded=1)


def test_a_choice_is_settled_by_keeping_one_or_all(home: Path) -> None:
    log = ConversationLogger()
    for number in range(3):
        said("When is lunch served?", f"It is served at {number}.")
        said("When is dinner served?", f"It is served at {number}.")
    look_through(load_config(), None, Watch())
    lunch, dinner = data_view.choices(log, 10)
    assert lunch.stands == lunch.turns[-1].id and data_view.choices(log, 1, offset=1)[0] == dinner
    data_view.keep_one(log, lunch.turns, lunch.turns[0].id)
    data_view.keep_all(log, dinner)
    assert data_view.choices(log, 10) == []
    look = look_through(load_config(), None, Watch())
    assert (look.facts["kept_turns"], look.facts["conflicts"], look.facts["dropped"]) == (4, 0, {})


def test_an_import_is_taken_back_by_a_job(home: Path) -> None:
    log = ConversationLogger()
    (home / "pairs.jsonl").write_text('{"prompt": "Where is the key?", "completion": "Under the mat."}\n')
    report = import_files(log, [home / "pairs.jsonl"])
    assert done("undo_import", import_id=report.id) == {"id": report.id, "taken_back": 1}
    assert log.turns() == []
    with pytest.raises(TurnNotFound):
        done("undo_import", import_id=report.id)


def test_a_review_of_an_empty_log_finds_nothing(home: Path) -> None:
    assert done("review") == {"items": []}


@pytest.mark.parametrize(
    ("name", "content", "type"),
    [
        ("chats.json", b'[{"prompt": "Who?", "completion": "I."}]', "json"),
        ("../../etc/passwd", b'{"prompt": "Who?", "completion": "I."}\n' * 2, "jsonl"),
        ("a table.csv", b"question,answer\nWho?,I.\n", "csv"),
        ("chat", b"User: Who?\nBot: I.\n", "text"),
    ],
)
def test_a_dropped_file_is_kept_by_its_content(home: Path, name: str, content: bytes, type: str) -> None:
    upload = data_view.take_in(name, io.BytesIO(content), len(content), Uploads())
    assert upload.type == type and upload.content.read_bytes() == content
    assert upload.content.resolve().is_relative_to(home.resolve())


@pytest.mark.parametrize("content", [b"", b"\x7fELF" + bytes(100), b"PK\x03\x04 no archive", bytes(range(256)) * 4])
def test_of_a_file_that_may_not_be_taken_nothing_is_left(home: Path, content: bytes) -> None:
    with pytest.raises(DataError):
        data_view.take_in("file.json", io.BytesIO(content), len(content), Uploads())
    assert uploads.find() == []


def test_a_file_that_is_too_large_is_refused_before_it_is_read(home: Path) -> None:
    with pytest.raises(TooLarge):
        data_view.take_in("file.json", io.BytesIO(b""), 3 << 40, Uploads())
    assert uploads.find() == []
