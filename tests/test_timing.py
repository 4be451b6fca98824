"""The ratio by which tests judge time tells work that grows with the size from work that grows with its square."""

import pytest
from timing import growth


def linear(size: int) -> None:
    sum(number * number for number in range(20 * size))


def quadratic(size: int) -> None:
    for _ in range(size // 10):
        sum(range(size))


@pytest.mark.parametrize("size", [1_000, 3_000])
def test_what_grows_with_the_size_passes_and_what_grows_with_its_square_fails(size: int) -> None:
    assert growth(linear, size) <= 30 < growth(quadratic, size)


def test_what_takes_less_than_a_millisecond_is_taken_for_one() -> None:
    assert growth(lambda size: None, 1) < 1
