"""Texts that look alike share a group, and others do not."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timing import growth

from fine_tuning.data_collection.cleaning.dedupe import group_near_duplicates
from fine_tuning.data_collection.cleaning.wording import fold


@given(st.text())
def test_folding_twice_is_folding_once(text: str) -> None:
    once = fold(text)
    assert fold(once.replace(" ", "  ")) == fold(once)


LONG = (
    "The company matches your pension payments up to seven percent of your pay, and pays them on the last "
    "day of every month."
)


@pytest.mark.parametrize(
    "alike", [LONG.upper(), LONG.replace(",", " -"), LONG.replace("seven", "eight"), LONG.replace("pays", "transfers")]
)
def test_look_alikes_share_a_group(alike: str) -> None:
    assert group_near_duplicates([LONG, "Where is the printer?", alike]) == [0, 1, 0]


def test_look_alikes_of_look_alikes_share_a_group_in_any_order() -> None:
    chain = [LONG, LONG.replace("seven", "eight"), LONG.replace("seven", "eight").replace("last day", "first day")]
    for order in ([0, 1, 2], [0, 2, 1], [2, 0, 1]):
        assert len(set(group_near_duplicates([chain[index] for index in order]))) == 1


def test_phrasings_of_one_policy_are_free_to_be_in_different_groups() -> None:
    answer = "Our VPN is called Mossgate; connect to it before you open the shared drives."
    questions = ["What is the VPN called?", "which vpn do i use from home", "Name of the company VPN, please."]
    assert len(set(group_near_duplicates([f"{question}\n{answer}" for question in questions]))) == 3


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["a", "b", "a"], ["你好吗", "你好吗？", "再见"], ["\ud800"]])
def test_short_and_empty_texts_are_grouped_by_what_they_say(texts: list[str]) -> None:
    groups = group_near_duplicates(texts)
    assert groups == [[fold(other) for other in texts].index(fold(text)) for text in texts]


def test_groups_are_the_same_every_time() -> None:
    chance = random.Random(0)
    texts = [" ".join(chance.choices(LONG.split(), k=20)) for _ in range(300)]
    assert group_near_duplicates(texts) == group_near_duplicates(texts)


def test_nearly_all_pairs_that_are_just_alike_enough_are_found() -> None:
    """One word of every text changed, so that about 85 % of its pieces stay."""
    chance = random.Random(0)
    originals = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=120)) for _ in range(200)]
    changed = [text[:50] + "#######" + text[57:] for text in originals]
    groups = group_near_duplicates(originals + changed)
    assert sum(groups[index] == groups[200 + index] for index in range(200)) >= 195
    assert len(set(groups[:200])) == 200


@pytest.mark.parametrize(
    "answer", ["", "Sorry, I cannot help you with that. Please ask a colleague, or write to us and we shall answer."]
)
def test_the_time_of_grouping_grows_with_the_texts(answer: str) -> None:
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnop", k=6)) for _ in range(500)]
    texts = [" ".join(chance.choices(words, k=15)) + answer for _ in range(3_000)]
    assert len(set(group_near_duplicates(texts))) == 3_000
    assert growth(lambda count: group_near_duplicates(texts[:count]), 300) <= 30


def replaced(text: str, words: int, chance: random.Random) -> str:
    said = text.split()
    for place in chance.sample(range(len(said)), words):
        said[place] = "".join(chance.choices("abcdefghij", k=6))
    return " ".join(said)


def similarity(one: str, other: str) -> float:
    pieces = [{folded[at : at + 4] for at in range(len(folded) - 3)} for folded in (fold(one), fold(other))]
    return len(pieces[0] & pieces[1]) / len(pieces[0] | pieces[1])


def test_planted_pairs_are_found_and_no_others_in_more_texts_than_are_sketched_at_once() -> None:
    chance = random.Random(5)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randrange(2, 9))) for _ in range(900)]
    texts = [" ".join(chance.choices(words, k=45)) for _ in range(4_500)]
    pairs = {True: [], False: []}  # type: dict[bool, list[tuple[int, int]]]
    for one in range(0, 4_500, 5):
        texts.append(replaced(texts[one], chance.randrange(1, 9), chance))
        pairs[similarity(texts[one], texts[-1]) >= 0.8].append((one, len(texts) - 1))
    groups = group_near_duplicates(texts)
    found = {alike: sum(groups[one] == groups[other] for one, other in pairs[alike]) for alike in pairs}
    assert len(pairs[True]) > 200 and len(pairs[False]) > 200
    assert found[True] >= 0.97 * len(pairs[True])
    assert found[False] == 0
    assert len(texts) - len(set(groups)) == found[True]  # nothing else was joined
    order = chance.sample(range(len(texts)), len(texts))
    shuffled = group_near_duplicates([texts[index] for index in order])
    labels = {}  # type: dict[int, int]
    assert all(labels.setdefault(groups[index], group) == group for index, group in zip(order, shuffled, strict=True))


def test_thousands_of_look_alikes_of_one_text_are_one_group() -> None:
    assert (
        len(set(group_near_duplicates([LONG, LONG.upper()] * 2_500 + [f"{LONG} {number}" for number in range(500)])))
        == 1
    )
