"""Time as a test may judge it: as a ratio within the test. Seconds depend on the machine, and on
what else it does just now.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise


def seconds(act: Callable[[], object], clock: Callable[[], float] = time.thread_time) -> float:
    """Return how long `act` takes; by default in processor time of this thread, of which other
    programs take nothing.
    """
    started = clock()
    act()
    return clock() - started


def in_time(act: Callable[[], float], limit: float, tries: int = 3) -> None:
    """Fail unless `act`, which returns the seconds that what is promised took, keeps the limit once.

    The machine may stand still for a moment, but not each time: the least of up to `tries` counts.
    None is made once the limit is kept.
    """
    took: list[float] = []
    while len(took) < tries and (not took or took[-1] >= limit):
        took.append(act())
    assert min(took) < limit, f"it took {took} seconds, each longer than {limit}"


def undisturbed(act: Callable[[], None], pause: float, tries: int = 5) -> None:
    """Do `act`, which must not be held up for longer than `pause` seconds.

    Where it fails, and this process stood still for so long meanwhile, it is done again.
    """
    for _ in range(tries - 1):
        with _standstill() as longest:
            try:
                return act()
            except (AssertionError, OSError):
                if longest() < pause:
                    raise
    act()


@contextlib.contextmanager
def _standstill() -> Iterator[Callable[[], float]]:
    """Yield what tells the longest time, in seconds, that a thread of this process waited for its turn."""
    turns, ended, tick = [time.monotonic()], threading.Event(), 0.01

    def watch() -> None:
        while not ended.wait(tick):
            turns.append(time.monotonic())

    def longest() -> float:
        """Count the wait that is not over, too: who asks may have had a turn before the watcher."""
        return max(after - before for before, after in pairwise([*turns, time.monotonic()])) - tick

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield longest
    finally:
        ended.set()
        watcher.join()


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
