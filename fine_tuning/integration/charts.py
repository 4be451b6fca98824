"""Altair for the pages that draw charts."""

from types import ModuleType


def load() -> ModuleType:
    """Return the module `altair`, imported only now, as it takes a moment.

    Altair looks at pandas wherever its import has begun, and another page may be importing it: this
    waits until it is whole.
    """
    import pandas  # type: ignore[import-untyped]  # noqa: F401, I001
    import altair

    return altair
