"""Models that are timed in turns, whatever else the machine does."""

import multiprocessing
import os
import random
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest

from fine_tuning import measurements
from fine_tuning.durations import DecodingSpeed
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.evaluation import speed
from fine_tuning.evaluation.metrics import Interval, median_interval
from fine_tuning.evaluation.served_model import Ask
from fine_tuning.evaluation.speed import Served, race


class Machine:
    """A clock, and models that take their time by it; `busy` says by how much the machine is slowed down at a time."""

    def __init__(self, busy) -> None:
        self.now, self.busy, self.order = 0.0, busy, list[str]()

    def model(self, name: str, seconds: float) -> SimpleNamespace:
        def answers(asks: Sequence[Ask]) -> Iterator[SimpleNamespace]:
            self.order.append(name)
            times = []
            for _ in range(asks[0].limit):
                self.now += seconds * self.busy(self.now)
                times.append(self.now)
            yield SimpleNamespace(times=times)

        return SimpleNamespace(
            name=name,
            gguf=None,
            adapter=None,
            open=lambda context: SimpleNamespace(answers=answers, close=lambda: None, memory=0),
        )


def noise(now: float) -> float:
    return 1 + random.Random(int(now * 1000)).random()


BUSY = {
    "nothing else": lambda now: 1.0,
    "nine times slower for a while": lambda now: 9.33 if 0.5 < now < 3 else 1.0,
    "slower from the middle on": lambda now: 4.0 if now > 2 else 1.0,
    "faster and faster": lambda now: 5 / (1 + now),
    "now and then": lambda now: 8.0 if int(now * 2) % 3 == 0 else 1.0,
    "noise": noise,
}


@pytest.mark.parametrize("busy", BUSY)
def test_what_else_the_machine_does_hits_both_alike(busy, monkeypatch):
    """The base takes 10 ms a token, the candidate 12.5: four fifths of its speed. One after the
    other they may seem anything.
    """
    machine = Machine(BUSY[busy])
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: machine.now))
    found = race([machine.model("base", 0.01), machine.model("candidate", 0.0125)], [1], 9, lambda done, total: None)
    ratio = found.ratios["base"]
    assert ratio.low <= 0.8 + 1e-6 and ratio.high >= 0.8 - 1e-6
    assert ratio.value == pytest.approx(0.8, rel=0.15)
    assert machine.order[2:] == ["base", "candidate", "candidate", "base"] * 4 + ["base", "candidate"]


def test_base_and_live_are_each_timed_beside_the_candidate(monkeypatch):
    machine, counts = Machine(BUSY["nothing else"]), []
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: machine.now))
    models = [machine.model("base", 0.01), machine.model("live", 0.02), machine.model("candidate", 0.015)]
    found = race(models, [1], 3, lambda done, total: counts.append((done, total)))
    assert {name: round(ratio.value, 2) for name, ratio in found.ratios.items()} == {"base": 0.67, "live": 1.33}
    assert {name: round(each.tokens_per_second) for name, each in found.speeds.items()} == {
        "base": 100,
        "candidate": 67,
        "live": 50,
    }
    assert counts[-1] == (6, 6)


@pytest.mark.parametrize("count", [6, 9, 12, 25, 60])
def test_the_interval_of_a_median_covers_it_as_often_as_it_says(count):
    draw = random.Random(count)
    covered = 0
    for _ in range(400):
        found = median_interval([draw.lognormvariate(0, 1) for _ in range(count)])
        covered += found.low <= 1 <= found.high
    assert covered >= 0.93 * 400


def test_few_values_hold_no_interval():
    assert str(median_interval([3.0])) == "3 [too few to tell]"
    assert str(median_interval([3.0, 1.0, 2.0, 5.0, 4.0])) == "3 [too few to tell]"
    assert str(median_interval([3.0, 1.0, 2.0, 5.0, 4.0, 6.0])) == "3.5 [1, 6]"


def test_what_llama_cpp_does_in_a_second_is_measured_once_a_day_for_each_base(home, small_base, monkeypatch):
    first = speed.decoding_speed(small_base, "digest", 3_000_000)
    assert first.reading > first.alone > 0 and first.together > 0
    monkeypatch.setattr(speed, "_measure", lambda gguf, parameters: DecodingSpeed(3.0, 2.0, 1.0))
    assert speed.decoding_speed(small_base, "digest", 3_000_000) == first
    assert speed.decoding_speed(small_base, "another", 3_000_000) == DecodingSpeed(3.0, 2.0, 1.0)
    for broken in ({}, {"reading": 1.0}, {"reading": 0.0, "together": 1.0, "alone": 1.0}):
        monkeypatch.setattr(measurements, "recall", lambda key, broken=broken: broken)
        assert speed.decoding_speed(small_base, "digest", 3_000_000).reading == 3.0


def _burn() -> None:
    while True:
        sum(number * number for number in range(10_000))


@pytest.mark.slow
def test_the_base_is_as_fast_as_itself_while_every_core_has_something_else_to_do(base_gguf):
    found: list[Interval] = []
    while len(found) < 3 and not any(map(_is_fair, found)):  # one interval of 95 % in twenty misses by chance
        found.append(_raced_against_itself(base_gguf))
    assert any(map(_is_fair, found)), found


def _is_fair(found: Interval) -> bool:
    return found.low <= 1.02 and found.high >= 0.98 and 0.7 < found.value < 1.4


def _raced_against_itself(base_gguf) -> Interval:
    busy = [multiprocessing.get_context("spawn").Process(target=_burn, daemon=True) for _ in range(os.cpu_count() or 1)]
    prompt = Vocabulary(base_gguf).encode("What is the capital of France?")

    def report(done: int, total: int) -> None:
        if done == total // 2:
            for process in busy:
                process.start()

    try:
        return race([Served("base", base_gguf), Served("candidate", base_gguf)], prompt, 12, report).ratios["base"]
    finally:
        for process in busy:
            process.kill()
