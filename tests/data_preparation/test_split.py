from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fine_tuning.data_preparation.split import assign_splits, join_groups

RATIOS = (0.8, 0.1, 0.1)


def sizes(count: int, ratios: tuple[float, ...] = RATIOS, seed: int = 0) -> tuple[int, ...]:
    chosen = Counter(assign_splits([f"c{i}" for i in range(count)], range(count), ratios, seed))
    return chosen["train"], chosen["validation"], chosen["test"]


def test_sizes_follow_the_ratios_and_train_comes_first_when_there_is_little() -> None:
    assert [sizes(count) for count in (0, 1, 2, 3, 5, 10, 20, 100)] == [
        (0, 0, 0),
        (1, 0, 0),
        (2, 0, 0),
        (3, 0, 0),
        (4, 1, 0),
        (8, 1, 1),
        (16, 2, 2),
        (80, 10, 10),
    ]
    assert sizes(1, (0.1, 0.0, 0.9)) == (1, 0, 0)
    assert sizes(10, (1.0, 0.0, 0.0)) == (10, 0, 0)


grouped = st.lists(st.integers(0, 12), min_size=1, max_size=60)
ratios = st.tuples(st.floats(0.05, 1), st.floats(0, 1), st.floats(0, 1)).map(
    lambda parts: tuple(part / sum(parts) for part in parts)
)


@given(groups=grouped, ratios=ratios, seed=st.integers(0, 5))
def test_groups_stay_whole_train_is_never_empty_and_sizes_are_near(
    groups: list[int], ratios: tuple[float, ...], seed: int
) -> None:
    ids = [f"c{i}" for i in range(len(groups))]
    chosen = assign_splits(ids, groups, ratios, seed)
    assert len(chosen) == len(ids)
    assert len(set(zip(groups, chosen, strict=True))) == len(set(groups))
    assert "train" in chosen
    largest = max(Counter(groups).values())
    for split, ratio in zip(("train", "validation", "test"), ratios, strict=True):
        assert abs(chosen.count(split) - ratio * len(ids)) <= 2 * largest


@given(groups=grouped, seed=st.integers(0, 5), data=st.data())
def test_the_split_depends_on_seed_and_ids_and_not_on_the_order(
    groups: list[int], seed: int, data: st.DataObject
) -> None:
    items = [(f"c{i}", group) for i, group in enumerate(groups)]
    mixed = data.draw(st.permutations(items))

    def split(of: list[tuple[str, int]]) -> dict[str, str]:
        return dict(
            zip(
                [id for id, _ in of],
                assign_splits([id for id, _ in of], [group for _, group in of], RATIOS, seed),
                strict=True,
            )
        )

    assert split(items) == split(mixed)


def test_another_seed_gives_another_split() -> None:
    ids = [f"c{i}" for i in range(50)]
    assert assign_splits(ids, range(50), RATIOS, 0) != assign_splits(ids, range(50), RATIOS, 1)


@pytest.mark.parametrize("grown", [101, 105, 110, 150])
def test_nearly_all_conversations_keep_their_split_when_the_log_grows(grown: int) -> None:
    """Else the live model has learned what the next one is examined with."""
    known = kept = 0
    for seed in range(20):
        ids = [f"c{i}" for i in range(grown)]
        before, after = (
            assign_splits(ids[:100], range(100), RATIOS, seed),
            assign_splits(ids, range(grown), RATIOS, seed),
        )
        known += sum(new == "test" and old == "train" for old, new in zip(before, after, strict=False))
        kept += sum(old == new for old, new in zip(before, after, strict=False))
    assert known <= 0.1 * 20 * 10 and kept >= 0.9 * 20 * 100


def test_items_are_joined_through_any_labelling() -> None:
    assert join_groups(["a", "b", "b", "c"], [1, 1, 2, 3]) == [0, 0, 0, 3]
    assert join_groups([1, 2, 3]) == [0, 1, 2]
    assert join_groups([], []) == []
