"""How the child processes that train are started.

PyTorch is not imported here: the children import it.
"""

import multiprocessing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext


def context() -> "ForkServerContext | SpawnContext":
    """Return the multiprocessing context that starts the children.

    Where the system can, they are forked from a process that has imported PyTorch and the like
    already.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["fine_tuning.training.phases", "fine_tuning.training.network"])
    return found


def warm_up() -> None:
    """Begin to import PyTorch and the like for the next child, while this process does something else."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        from multiprocessing.forkserver import ensure_running

        context()
        ensure_running()
