"""Do several things at the same moment, each in a thread of its own."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

_T = TypeVar("_T")


def at_once(works: Sequence[Callable[[], _T]]) -> list[_T]:
    """Return the results of all `works`, in order, or raise the error of the first that failed."""
    together = Barrier(len(works))

    def begin(work: Callable[[], _T]) -> _T:
        together.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(begin, works))
