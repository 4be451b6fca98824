"""The prefix tree that is counted is the one that is computed, and divided it stays within the limit."""

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from token_rows import random_rows

from fine_tuning.training.packing import TokenRow, pack
from fine_tuning.training.prefix_tree import divide, tree_branches


def test_the_tree_counted_is_the_tree_that_is_computed():
    for seed in range(20):
        rows = random_rows(random.Random(seed).randint(1, 12), seed, head=seed % 5)
        conversations = [TokenRow(row["input_ids"], [bool(flag) for flag in row["trained"]]) for row in rows]
        assert (
            sum(tree_branches(sorted(row.computed() for row in conversations)))
            == pack(conversations)["input_ids"].numel()
        )


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), max_size=12), st.integers(1, 20))
def test_rows_are_divided_into_trees_within_the_limit_and_no_more_of_them_than_it_takes(rows, limit):
    ordered = sorted(rows)
    parts = [ordered[part] for part in divide(ordered, limit)]
    assert [row for part in parts for row in part] == ordered
    assert all(sum(tree_branches(part)) <= limit or len(part) == 1 for part in parts)
    assert all(sum(tree_branches([*part, following[0]])) > limit for part, following in pairwise(parts))
