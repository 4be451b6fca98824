"""Provide the multiprocessing context in which the child processes that run trainings are started.

This module does not import PyTorch; the children do.
"""

import multiprocessing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext


def context() -> "ForkServerContext | SpawnContext":
    """Return the multiprocessing context that starts training processes.

    Where the system supports it, they are forked from a server process that has already imported
    PyTorch and the other libraries.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    rooms = ("no_compiler", "phases", "network")  # in this order
    found.set_forkserver_preload([f"fine_tuning.training.{room}" for room in rooms])
    return found


def warm_up() -> None:
    """Start the server process that imports PyTorch, so that the next training process starts sooner."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        from multiprocessing.forkserver import ensure_running

        context()
        ensure_running()
