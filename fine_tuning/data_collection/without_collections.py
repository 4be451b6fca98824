"""Switch off Python's cyclic garbage collector for a while, to save time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """Switch the cyclic garbage collector off within the `with` block.

    Turns form no cycles. Where many are created and kept, the collector takes up to half of the
    time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():
                # All that was created counts as old, or else the next collection would examine all of it at once.
                gc.freeze()
                gc.unfreeze()
            gc.enable()
