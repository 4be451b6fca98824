"""What tests judge time by: work that grows with the size is told from work that grows with its square, and a busy
machine from a slow program.
"""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
from ports import unused_port
from timing import growth, in_time, undisturbed


def linear(size: int) -> None:
    sum(number * number for number in range(20 * size))


def quadratic(size: int) -> None:
    for _ in range(size // 10):
        sum(range(size))


@pytest.mark.parametrize("size", [1_000, 1_500])
def test_what_grows_with_the_size_passes_and_what_grows_with_its_square_fails(size: int) -> None:
    assert growth(linear, size) <= 30 < growth(quadratic, size)


def test_what_takes_less_than_a_millisecond_is_taken_for_one() -> None:
    assert growth(lambda size: None, 1) < 1


def test_one_try_in_time_is_enough_and_none_in_three_is_not() -> None:
    took = iter([5.0, 1.0])
    in_time(lambda: next(took), 2)
    assert next(took, None) is None
    too_long = iter([5.0, 4.0, 3.0, 1.0])
    with pytest.raises(AssertionError, match=r"\[5.0, 4.0, 3.0\] seconds"):
        in_time(lambda: next(too_long), 2)


def test_what_fails_is_done_again_only_where_this_process_stood_still() -> None:
    tried: list[int] = []

    def held_up_once() -> None:
        tried.append(1)
        if len(tried) == 1:
            ctypes.PyDLL(None).usleep(300_000)  # no thread of this process has its turn meanwhile
            raise AssertionError("too slow")

    undisturbed(held_up_once, 0.1)
    assert len(tried) == 2
    with pytest.raises(AssertionError, match="wrong"):
        undisturbed(lambda: fail("wrong"), 60)


def fail(why: str) -> None:
    raise AssertionError(why)


def test_a_port_is_given_once() -> None:
    code = "import ports; print(*(ports.unused_port() for _ in range(50)))"
    ours = {unused_port() for _ in range(50)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    theirs = {int(port) for port in done.stdout.split()}
    assert len(ours) == len(theirs) == 50 and not ours & theirs
