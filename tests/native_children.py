"""The processes in which llama.cpp runs, found as the system lists them."""

import time
from collections.abc import Callable

import psutil

Children = Callable[..., list[psutil.Process]]


def native_children(pid: int | None = None) -> list[psutil.Process]:
    """Those of the process `pid`, by default of the tests' own."""
    return [
        child for child in psutil.Process(pid).children(recursive=True) if "native_child" in " ".join(_command(child))
    ]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended meanwhile
        return []


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)
