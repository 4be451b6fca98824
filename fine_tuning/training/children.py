"""Provide the multiprocessing context in which the child processes that run trainings are started.

This module does not import PyTorch; the children do.
"""

import multiprocessing
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext


def context() -> "ForkServerContext | SpawnContext":
    """Return the multiprocessing context that starts training processes.

    Where the system supports it, they are forked from a server process that has already imported
    PyTorch and the other libraries.
    """
    # PEFT imports bitsandbytes, which would load PyTorch's compiler: a third of the time until a training begins.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["fine_tuning.training.phases", "fine_tuning.training.network"])
    return found


def warm_up() -> None:
    """Start the server process that imports PyTorch, so that the next training process starts sooner."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        from multiprocessing.forkserver import ensure_running

        context()
        ensure_running()
