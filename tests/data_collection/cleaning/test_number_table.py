"""A table of numbers answers as a dict does, however its keys collide."""

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fine_tuning.data_collection.cleaning.number_table import NumberTable

KEYS = st.one_of(
    st.integers(0, 40),
    st.sampled_from([0, -1, 2**63, 2**64 - 1, -(2**63), 1024, 2048, 4096]),
    st.integers(-(2**63), 2**64 - 1),
)


@given(st.lists(st.tuples(KEYS, st.integers(0, 2**40)), max_size=200))
def test_it_answers_as_a_dict_does(entries: list[tuple[int, int]]) -> None:
    table, known = NumberTable(), {}
    for key, value in entries:
        assert table.get(key) == known.get(key % 2**64, -1)
        table.put(key, value)
        known[key % 2**64] = value
    assert all(table.get(key) == value for key, value in known.items())


@given(st.lists(st.tuples(KEYS, st.integers(0, 2**40)), max_size=200))
def test_the_first_number_of_a_key_stays_as_in_a_dict(entries: list[tuple[int, int]]) -> None:
    table, known = NumberTable(), dict[int, int]()
    for key, value in entries:
        assert table.first(key, value) == known.get(key % 2**64, -1)
        known.setdefault(key % 2**64, value)
    assert all(table.get(key) == value for key, value in known.items())


@pytest.mark.parametrize("stride", [1, 1024, 2**32, 0x9E3779B97F4A7C15])
def test_it_grows(stride: int) -> None:
    table = NumberTable()
    for number in range(5000):
        table.put(number * stride % 2**64, number)
    assert all(table.get(number * stride % 2**64) == number for number in range(5000))
    assert table.get(5001 * stride % 2**64) == -1


def test_it_takes_little_memory() -> None:
    chance, table = random.Random(0), NumberTable()
    for number in range(100_000):
        table.put(chance.getrandbits(64), number)
    assert sys.getsizeof(table._keys) + sys.getsizeof(table._values) < 50 * 100_000
