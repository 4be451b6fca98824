"""Lists of turns by the index: the same turns as by reading the whole log, in pages."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fine_tuning import paths
from fine_tuning.config import load_config
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log import outcomes, turn_list
from fine_tuning.data_collection.log.turn_list import Learned, Wanted
from fine_tuning.events import Watch
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.planning import learned
from fine_tuning.survey import binned, look_through

NAME = "fine_tuned_smollm2-135m"


@pytest.fixture
def log(home: Path) -> ConversationLogger:
    return ConversationLogger()


def said(question: str, answer: str, **metadata: Any) -> Turn:
    return ConversationLogger().log_conversation(question, answer, metadata or None)


def look(log: ConversationLogger) -> None:
    look_through(load_config(), None, Watch())


def nothing() -> Learned:
    return Learned(NAME, -1, lambda id, state_hash: True)


def found(log: ConversationLogger, wanted: Wanted, known: Learned | None = None) -> list[str]:
    """All wanted questions, asked for in pages of two."""
    known, turns, offset = known or nothing(), [], 0
    while (page := turn_list.page(log.index, known, wanted, 2, offset)).turns:
        turns += [each.turn.user_message for each in page.turns]
        offset += 2
    assert page.total == len(turns)
    by_id = {turn.id: turn.user_message for turn in log.turns(include_excluded=True)}
    assert sorted(by_id[id] for id in turn_list.ids(log.index, known, wanted)) == sorted(turns)
    return turns


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), ["liked", "edited", "excluded", "stopped", "long", "plain"]),
        (Wanted(order="oldest"), ["plain", "long", "stopped", "excluded", "edited", "liked"]),
        (Wanted(order="longest"), ["long", "stopped", "excluded", "edited", "liked", "plain"]),
        (Wanted(state="new"), ["liked", "edited", "long", "plain"]),
        (Wanted(state="excluded"), ["excluded"]),
        (Wanted(state="edited"), ["edited"]),
        (Wanted(state="up"), ["liked"]),
        (Wanted(state="down"), []),
        (Wanted(state="imported"), []),
        (Wanted(state="kept"), ["liked", "edited", "plain"]),
        (Wanted(state="dropped"), ["stopped", "long"]),
        (Wanted(reason="too_long"), ["long"]),
        (Wanted(reason="incomplete", state="dropped"), ["stopped"]),
        (Wanted(text="ANSWER"), ["liked", "edited", "excluded", "stopped", "plain"]),
        (Wanted(text="answer", state="up"), ["liked"]),
        (Wanted(text="nowhere"), []),
        (Wanted(text='%_" OR'), []),
        (Wanted(model="other:1b"), ["long"]),
        (Wanted(model="' OR 1=1 --"), []),
    ],
)
def test_turns_are_filtered_and_sorted(log: ConversationLogger, wanted: Wanted, expected: list[str]) -> None:
    questions = {
        name: f"The question that is {name}?" + "?" * more
        for name, more in zip(("plain", "excluded", "edited", "liked"), range(4), strict=True)
    }
    said(questions["plain"], "An answer.")
    said("The question that is long?", "So long. " * 200, model="other:1b")
    said("The question that is stopped?", "An answer that is so much longer than", incomplete="stopped")
    log.exclude(said(questions["excluded"], "An answer that is longer.").id)
    log.edit(said(questions["edited"], "The wrong answer.").id, "The right answer here.")
    log.rate(said(questions["liked"], "A liked answer.").id, "up")
    look(log)
    names = [question.strip("?").rpartition(" ")[2] for question in found(log, wanted)]
    assert names == expected


def test_what_was_said_after_the_look_has_no_reason_yet(log: ConversationLogger) -> None:
    short, kept = said("hm", "no"), said("Where is the key to the office?", "Under the mat.")
    assert {each.reason for each in turn_list.page(log.index, nothing(), Wanted(), 9).turns} == {None}
    look(log)
    log.rate(kept.id, "down")
    said("Where is the key to the shed?", "On the hook.")
    reasons = [each.reason for each in turn_list.page(log.index, nothing(), Wanted(order="oldest"), 9).turns]
    assert reasons == ["too_short", None, None]
    look(log)
    assert found(log, Wanted(state="dropped")) == [kept.user_message, short.user_message]


def test_what_versions_learned_and_what_is_new_to_them(log: ConversationLogger) -> None:
    old, new = (
        said("Where is the key to the office?", "Under the mat."),
        said("Where is the key to the shed?", "On the hook."),
    )
    Registry().add(NAME, 1, turns=[old.id])
    known = learned(load_config(), log, Registry())
    assert found(log, Wanted(state="learned"), known) == [old.user_message]
    assert found(log, Wanted(state="new"), known) == [new.user_message]


def test_a_cut_answer_that_was_learned_stays_so_and_what_is_only_context_never_was(log: ConversationLogger) -> None:
    cut = said("Where is the key to the office?", "Under the", incomplete="stopped")
    read = said("Where is the key to the shed?", "On the hook.", weight=0)
    # when it was learned, the cut one had a thumbs-up
    Registry().add(NAME, 1, turns=[cut.id, read.id], context=[read.id])
    for wanted in ([], [read.user_message]):
        known = learned(load_config(), log, Registry())
        assert found(log, Wanted(state="learned"), known) == [cut.user_message]
        assert found(log, Wanted(state="new"), known) == wanted
        log.rate(read.id, "up")  # approved, it will be learned by the next version


def test_many_are_excluded_in_one_stroke_and_those_that_are_gone_left_out(log: ConversationLogger) -> None:
    turns = [said(f"Question {number}?", "An answer.") for number in range(5)]
    log.delete(turn_id=turns[0].id)
    assert log.exclude_all([turns[0].id, turns[1].id, turns[2].id, "nobody"]) == 2
    assert [turn.id for turn in log.turns()] == [turns[3].id, turns[4].id]
    assert log.exclude_all([turns[1].id], False) == 1 and log.index.counts() == (3, 4)
    assert log.exclude_all([]) == 0


def test_what_a_look_leaves_names_no_word_and_is_not_needed(log: ConversationLogger) -> None:
    said("Where is the xylophone of the office?", "Under the mat.")
    look(log)
    assert b"xylophone" not in outcomes.place().read_bytes()
    if os.name != "nt":
        assert outcomes.place().stat().st_mode & 0o077 == 0
    assert outcomes.last(log.path) is not None
    assert outcomes.last(paths.home() / "other.jsonl") is None
    outcomes.place().write_bytes(b"no database at all")
    assert outcomes.last(log.path) is None and outcomes.conflicts(9) == []
    assert found(log, Wanted()) == ["Where is the xylophone of the office?"]
    look(log)
    assert found(log, Wanted(state="kept")) == ["Where is the xylophone of the office?"]
    outcomes.place().unlink()
    assert outcomes.last(log.path) is None and found(log, Wanted(state="kept")) == []


def test_a_look_at_a_log_that_was_replaced_counts_no_more(log: ConversationLogger) -> None:
    said("Where is the key to the office?", "Under the mat.")
    look(log)
    log.path.write_bytes(b"")
    said("Where is the key to the shed?", "On the hook.")
    assert [each.reason for each in turn_list.page(log.index, nothing(), Wanted(), 9).turns] == [None]


@pytest.mark.parametrize(
    ("values", "bars"), [([], [0] * 10), ([0, 9, 10, 4999, 5000, 10**9], [2, 1, 0, 0, 0, 0, 0, 0, 1, 2])]
)
def test_lengths_fall_into_bars(values: list[int], bars: list[int]) -> None:
    assert binned(values) == bars


def test_two_looks_may_end_at_once(log: ConversationLogger) -> None:
    said("Where is the xylophone of the office?", "Under the mat.")
    before = look_through(load_config(), None, Watch())

    class Meanwhile(list[list[str]]):
        def __iter__(self) -> Iterator[list[str]]:
            with ThreadPoolExecutor() as pool:  # another thread of this process stores its look
                pool.submit(outcomes.keep, log.index, before, {}, []).result()
            return super().__iter__()

    outcomes.keep(log.index, before, {}, [], Meanwhile([["one", "other"]]))
    assert outcomes.alike(9) == [("one", "other")]
    assert [file.name for file in paths.home().glob("*survey.db*")] == [outcomes.place().name]
