"""Load Altair for the pages that draw charts."""

from types import ModuleType


def load() -> ModuleType:
    """Return the module `altair`, which is imported only now because it takes a moment.

    pandas is imported first: Altair uses a pandas whose import has only begun, for instance on
    another page.
    """
    import pandas  # type: ignore[import-untyped]  # noqa: F401, I001
    import altair

    return altair
