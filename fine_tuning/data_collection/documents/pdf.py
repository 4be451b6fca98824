"""Read the text of PDF files with pypdf. Scripts and attachments are ignored."""

import io
import re
from collections import Counter

from fine_tuning.data_collection.documents import plain
from fine_tuning.data_collection.documents.blocks import Block
from fine_tuning.errors import DataError

PAGES = 1_000
# errors of pypdf for damaged files
_DAMAGED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError, OSError, AssertionError)


def read(content: bytes) -> list[Block]:
    """Return the blocks of a PDF.

    Raises DataError if it is damaged or encrypted, has too many pages, or has no text (scanned pages).
    """
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(content))
        if len(reader.pages) > PAGES:
            raise DataError(f"the document has {len(reader.pages)} pages, more than {PAGES}: split it")
        pages = [page.extract_text() for page in reader.pages]
    except PyPdfError as error:
        raise DataError(f"the document cannot be read as PDF ({error}): save it again") from error
    except _DAMAGED as error:
        raise DataError(
            f"the document cannot be read as PDF, because it is damaged ({type(error).__name__}: {error}): save it "
            "again"
        ) from error
    if not any(page.strip() for page in pages):
        raise DataError("the document contains no text: scanned pages must be turned into text first (OCR)")
    return plain.read("\n\n".join(_without_margins(pages)))


def _without_margins(pages: list[str]) -> list[str]:
    """Return the pages without page numbers, and without lines that most pages have at the top or bottom."""
    edges = Counter(line for page in pages for line in set(_edges(page)))
    usual = {line for line, count in edges.items() if len(pages) >= 3 and count * 2 > len(pages)}
    return [
        "\n".join(
            line for line in page.split("\n") if _key(line) not in usual and not re.fullmatch(r"\W*\d{0,4}\W*", line)
        )
        for page in pages
    ]


def _edges(page: str) -> list[str]:
    lines = [_key(line) for line in page.split("\n") if line.strip()]
    return [*lines[:2], *lines[-2:]]


def _key(line: str) -> str:
    return re.sub(r"\d+", "#", line.strip())
