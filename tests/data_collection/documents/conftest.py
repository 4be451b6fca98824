"""One small document in every kind of file."""

import made_documents
import pytest


@pytest.fixture(scope="session")
def documents() -> dict[str, bytes]:
    """The same document, by the name of its file."""
    return made_documents.documents()
