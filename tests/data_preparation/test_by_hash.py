from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fine_tuning.data_preparation.by_hash import Table, hashes_of, stretches


@given(st.lists(st.binary(max_size=2)), st.lists(st.binary(max_size=2)))
def test_a_hash_is_found_at_its_first_place(known: list[bytes], sought: list[bytes]) -> None:
    places = Table(hashes_of(known)).find(hashes_of(sought)).tolist()
    assert places == [known.index(each) if each in known else -1 for each in sought]


@given(st.lists(st.integers(-1, 5)))
def test_what_is_read_at_once_follows_one_another(places: list[int]) -> None:
    found = list(stretches(np.array(places, np.int64)))
    assert [number for begin, end in found for number in range(begin, end)] == list(range(len(places)))
    for begin, end in found:
        first = places[begin]
        assert places[begin:end] == (list(range(first, first + end - begin)) if first >= 0 else [-1])
    for (begin, _), (following, _) in pairwise(found):
        assert places[begin] < 0 or places[following] != places[following - 1] + 1
