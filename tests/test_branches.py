"""A session as a tree: the path that stands, siblings, and logs that are not what they should be."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fine_tuning.branches import Tree, on_chosen_paths, stretches
from fine_tuning.conversation import Conversation, Turn
from fine_tuning.errors import TurnNotFound


def turn(id: str, question: str = "", session: str = "s", **facts: Any) -> Turn:
    question = question or f"What is {id}?"
    return Turn(
        id=id, session_id=session, timestamp="", user_message=question, bot_response=f"It is {id}.", metadata=facts
    )


def ids(turns: Any) -> str:
    return " ".join(each.id for each in turns)


@pytest.mark.parametrize(
    ("turns", "stands"),
    [
        ([turn("a"), turn("b"), turn("c")], "a b c"),  # as logged before there were branches
        ([turn("a"), turn("b"), turn("c", "What is b?", regenerates="b"), turn("d")], "a c d"),
        ([turn("a"), turn("b", rating="up"), turn("c", regenerates="b"), turn("d")], "a b d"),
        ([turn("a"), turn("b"), turn("c", regenerates="b", rating="up"), turn("d", regenerates="c")], "a c"),
        # another question in the place of b
        ([turn("a", parent=""), turn("b", parent="a"), turn("c", parent="a")], "a c"),
        ([turn("a", parent=""), turn("b", parent="a"), turn("c", parent="a"), turn("d", parent="b")], "a b d"),
        ([turn("a", parent=""), turn("b", parent=""), turn("c", parent="a")], "a c"),
        ([turn("a", "Q", parent="", rating="up"), turn("b", "Q", parent="")], "a"),  # approved: the same question
        ([turn("a", "Q", parent="", rating="up"), turn("b", "R", parent="")], "b"),  # another question
        ([turn("a", "Q", parent=""), turn("b", "Q", parent="", original_response="x"), turn("c", parent="a")], "b"),
        (
            [turn("a", "Q", parent="", rating="up"), turn("b", "Q", parent="", rating="up"), turn("c", parent="a")],
            "a c",
        ),
        ([turn("a", parent=""), turn("c", parent="b")], "a c"),  # b was deleted
        ([turn("a", parent=""), turn("c", parent="b"), turn("d", parent="b")], "a d"),
        # by an older byoai in between
        ([turn("a"), turn("b", parent="a"), turn("c"), turn("d", parent="a"), turn("e")], "a d e"),
        ([turn("a", parent="a"), turn("b", parent="c"), turn("c", parent="b")], "a b c"),  # circles
        ([turn("a", parent=None), turn("b", parent=3), turn("c", parent=["a"])], "a b c"),
        ([], ""),
    ],
)
def test_the_standing_path_goes_through_the_newest_turn_unless_an_approved_sibling_answers(
    turns: list[Turn], stands: str
) -> None:
    assert ids(Tree(turns).chosen_path()) == stands
    assert ids(on_chosen_paths(turns)) == stands


def test_a_branch_is_shown_through_any_of_its_turns() -> None:
    turns = [
        turn("a", parent=""),
        turn("b", parent="a"),
        turn("c", parent="b"),
        turn("d", parent="a"),
        turn("e", parent="d"),
    ]
    tree = Tree(turns)
    assert [ids(tree.through(each)) for each in "abcde"] == ["a d e", "a b c", "a b c", "a d e", "a d e"]
    assert [ids(tree.siblings(each)) for each in "abcde"] == ["a", "b d", "c", "b d", "e"]
    assert [tree.parent(each) for each in "abcde"] == ["", "a", "b", "a", "d"]
    assert (ids(tree.path("c")), ids(tree.path(""))) == ("a b c", "")
    for ask in (tree.path, tree.through, tree.siblings, tree.parent):
        with pytest.raises(TurnNotFound, match="gone"):
            ask("gone")


def test_what_a_chat_knows_better_than_its_log_counts_first() -> None:
    turns = [turn("a", parent=""), turn("b", parent="a"), turn("c", parent="a")]
    assert ids(Tree(turns, {"c": "b"}).chosen_path()) == "a b c"
    assert ids(Tree(turns, {"c": "gone"}).chosen_path()) == "a c"


def test_sessions_that_are_mixed_stand_each_by_itself_and_in_order() -> None:
    turns = [
        turn("a"),
        turn("x", session="t"),
        turn("b"),
        turn("y", "What is x?", "t", parent=""),
        turn("c", "What is b?", regenerates="b"),
    ]
    assert ids(on_chosen_paths(turns)) == "a y c"


def test_a_path_is_cut_where_its_system_prompt_changes() -> None:
    pirate = "Talk like a pirate."
    turns = [
        turn("a"),
        turn("b", system=pirate),
        turn("c", system=pirate),
        turn("d", system=""),
        turn("e", system=" "),
        turn("f", system=3),
    ]
    found = [(part.system, ids(part.turns)) for part in stretches(Conversation(id="s", turns=tuple(turns)))]
    assert found == [("", "a"), (pirate, "b c"), ("", "d e f")]
    whole = Conversation(id="s", turns=(turn("a"), turn("b", system=pirate), turn("c")), system="Be brief.")
    assert [part.system for part in stretches(whole)] == ["Be brief.", pirate, "Be brief."]


_NAMES = st.sampled_from("abcdefgh")
_FACTS = st.fixed_dictionaries(
    {},
    optional={
        "parent": st.one_of(st.just(""), _NAMES, st.none(), st.integers()),
        "regenerates": st.one_of(_NAMES, st.none()),
        "rating": st.sampled_from(["up", "down"]),
        "original_response": st.just("x"),
    },
)


@given(
    st.lists(st.tuples(_NAMES, st.sampled_from(["Q", "R", "S"]), _FACTS), max_size=12), st.dictionaries(_NAMES, _NAMES)
)
def test_whatever_a_log_says_every_turn_has_a_place_and_nothing_goes_in_circles(
    told: list[tuple[str, str, dict[str, Any]]], parents: dict[str, str]
) -> None:
    turns = [turn(id, question, **facts) for id, question, facts in told]
    tree = Tree(turns, parents)
    order = {id(each): number for number, each in enumerate(turns)}
    path = [order[id(each)] for each in tree.chosen_path()]
    assert path == sorted(set(path)) and bool(path) == bool(turns)
    assert sorted(order[id(each)] for answers in tree.questions() for each in answers) == list(range(len(turns)))
    for each in turns:
        way = tree.path(each.id)
        assert len(way) <= len(turns) and way[-1].id == each.id
        through = tree.through(each.id)
        assert through[: len(way)] == way
        assert tree.path(tree.parent(each.id)) == way[:-1] or len({turn.id for turn in turns}) < len(turns)
        assert {id(sibling) for sibling in tree.same_question(each.id)} <= {
            id(sibling) for sibling in tree.siblings(each.id)
        }


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["Q", "R"]), st.booleans()), min_size=1, max_size=10))
def test_the_path_that_stands_ends_where_nothing_follows_and_holds_no_answer_beside_an_approved_one(
    told: list[tuple[int, str, bool]],
) -> None:
    turns: list[Turn] = []
    for number, (back, question, up) in enumerate(told):
        parent = turns[-1 - back].id if back < len(turns) else ""
        turns.append(turn(str(number), question, parent=parent, **({"rating": "up"} if up else {})))
    tree = Tree(turns)
    path = tree.chosen_path()
    assert not any(each.metadata["parent"] == path[-1].id for each in turns)
    for each, after in itertools.pairwise([*path, None]):
        assert after is None or after.metadata["parent"] == each.id
        same = tree.same_question(each.id)
        assert "rating" in each.metadata or not any("rating" in other.metadata for other in same)
    if not any(up for *_, up in told):
        assert path[-1] is turns[-1]


def test_long_sessions_are_read_in_time_that_grows_with_their_length() -> None:
    old = [turn(str(number)) for number in range(20_000)]
    assert len(Tree(old).chosen_path()) == 20_000
    again = [
        turn(str(number), "Q", **({"regenerates": str(number - 1)} if number % 2 else {})) for number in range(20_000)
    ]
    assert len(Tree(again).chosen_path()) == 10_000
