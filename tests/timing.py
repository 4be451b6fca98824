"""Time as a test may judge it: as a ratio within the test. Seconds depend on the machine, and on
what else it does just now.
"""

import time
from collections.abc import Callable


def seconds(act: Callable[[], object], clock: Callable[[], float] = time.thread_time) -> float:
    """Return how long `act` takes; by default in processor time of this thread, of which other
    programs take nothing.
    """
    started = clock()
    act()
    return clock() - started


def growth(act: Callable[[int], object], size: int, times: int = 10, enough: float = 30.0) -> float:
    """Return how much longer `act(times * size)` takes than `act(size)`: about `times` for work in
    proportion to the size.

    What grows with the square takes `times` squared. The least of up to three tries each counts,
    made in turns; none is made once the ratio is `enough`. `act(size)` should take a millisecond at
    least: less is taken for one.
    """
    small = large = float("inf")
    for _ in range(3):
        small = min(small, seconds(lambda: act(size)))
        large = min(large, seconds(lambda: act(times * size)))
        if large <= enough * max(small, 1e-3):
            break
    return large / max(small, 1e-3)
