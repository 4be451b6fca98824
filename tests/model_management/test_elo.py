"""Votes become ratings, as Elo has it."""

from pathlib import Path

import pytest

from fine_tuning.errors import ByoaiError
from fine_tuning.model_management.elo import START, K, expected, ratings, vote


def test_the_winner_gains_what_the_loser_loses(home: Path) -> None:
    assert ratings() == {}
    vote("v1", "base", 1.0)
    assert ratings() == {"v1": (START + K / 2, 1), "base": (START - K / 2, 1)}


def test_a_surprise_counts_more_and_a_tie_moves_towards_each_other(home: Path) -> None:
    for _ in range(10):
        vote("strong", "weak", 1.0)
    (strong, _), (weak, games) = ratings()["strong"], ratings()["weak"]
    assert games == 10 and strong - weak > 200
    vote("strong", "weak", 1.0)
    gain = ratings()["strong"][0] - strong
    assert 0 < gain < K / 2
    vote("weak", "strong", 0.5)
    assert weak - gain < ratings()["weak"][0] < ratings()["strong"][0]
    vote("weak", "strong", 1.0)
    assert ratings()["weak"][0] > weak + K / 2
    assert sum(rating for rating, _ in ratings().values()) == pytest.approx(2 * START)


def test_four_hundred_points_are_ten_to_one() -> None:
    assert expected(1400, 1000) == pytest.approx(10 / 11)
    assert expected(1000, 1400) + expected(1400, 1000) == pytest.approx(1)


def test_a_vote_is_for_one_for_the_other_or_a_tie(home: Path) -> None:
    with pytest.raises((ByoaiError, Exception), match="CHECK"):
        vote("a", "b", 0.7)
    assert ratings() == {}
