"""Make sets of words from texts."""


def words(text: str) -> frozenset[str]:
    """Return the set of the words in a text, which are separated by spaces."""
    return frozenset(text.split())
