"""Write lists of words as texts."""


def words(text: str) -> frozenset[str]:
    """Return the set of words in a text."""
    return frozenset(text.split())
