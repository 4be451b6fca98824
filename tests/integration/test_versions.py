"""What is told of a version."""

from dataclasses import replace
from pathlib import Path

import pytest

from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.integration.versions import how_sure, judged, lessons, marks, verdict
from fine_tuning.model_management import elo
from fine_tuning.model_management.model_registry import Registry

PASSED = {"rule": "own chats", "passed": True, "reason": "better"}
SKIPPED = {"rule": "speed", "passed": True, "reason": "not judged: the speed was not measured"}
WARNED = {"rule": "forgetting", "passed": True, "warned": True, "reason": "perhaps it forgot"}
FAILED = {"rule": "leak probe", "passed": False, "reason": "it reveals private details"}


@pytest.mark.parametrize(
    ("results", "outcomes", "said"),
    [
        ([], [], "The gate has not judged it"),
        ([PASSED], ["passed"], "Passed 1 of 1 rule"),
        ([PASSED, SKIPPED], ["passed", "not judged"], "Passed 1 of 2 rules; 1 could not be judged"),
        ([PASSED, WARNED], ["passed", "warned"], "Passed 2 of 2 rules"),
        ([PASSED, FAILED], ["passed", "refused"], "Refused, for 1 of 2 rules: leak probe: it reveals private details"),
        ([FAILED, {**FAILED, "rule": "fit"}], ["refused", "refused"], "Refused, for 2 of 2 rules"),
    ],
)
def test_the_verdict_is_told_rule_by_rule(
    home: Path, results: list[dict[str, object]], outcomes: list[str], said: str
) -> None:
    metrics = {"gate": {"passed": FAILED not in results, "results": results}} if results else {}
    version = Registry().add("fine_tuned_a", 1, metrics=metrics)
    assert [each.outcome for each in judged(version)] == outcomes and said in verdict(version)
    assert marks(replace(version, pinned=True)) == ["refused" if FAILED in results else "candidate", "pinned"]


def test_the_chats_that_taught_a_version_are_found_and_what_is_forgotten_is_counted(home: Path) -> None:
    one, other = ConversationLogger(), ConversationLogger()
    ids = [
        logger.log_conversation(f"Question {number}?", "An answer.").id
        for number, logger in enumerate((one, other, one, other))
    ]
    registry = Registry()
    version = registry.add("fine_tuned_a", 1, turns=[*ids[:3], "the id is wrong"])
    found = lessons(one, registry, version)
    assert [(chat.session, chat.turns) for chat in found.chats] == [
        (other.session_id, (ids[1],)),
        (one.session_id, (ids[0], ids[2])),
    ]
    assert (found.learned, found.forgotten) == (4, 1)
    one.delete(ids[0])
    assert lessons(one, registry, version).forgotten == 2


def test_ratings_are_told_vote_by_vote(home: Path) -> None:
    for score in (1, 0.5, 0):
        elo.vote("a", "b", score)
    told = elo.history()
    assert [(each.tag, each.votes) for each in told] == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3)]
    assert told[0].rating == 1016 and {each.tag: (each.rating, each.votes) for each in told[-2:]} == elo.ratings()
    assert all(
        one.rating + other.rating == pytest.approx(2000) for one, other in zip(told[::2], told[1::2], strict=True)
    )


@pytest.mark.parametrize(
    ("votes", "said"), [(0, "hardly"), (1, "±50"), (9, "hardly"), (16, "±24"), (39, "fairly"), (100, "sure (a")]
)
def test_few_votes_tell_little(votes: int, said: str) -> None:
    assert said in how_sure(votes)
