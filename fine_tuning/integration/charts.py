"""Load Altair for the pages that draw charts."""

from types import ModuleType


def load() -> ModuleType:
    """Return the module `altair`, which is imported only when a chart is drawn, because that takes a moment.

    pandas is imported first. Otherwise Altair could use a pandas that another thread is still importing.
    """
    import pandas  # type: ignore[import-untyped]  # noqa: F401, I001
    import altair

    return altair
