"""Read Word documents (.docx) with python-docx. XML entities are not resolved, and no other file is opened."""

import io
import re
import zipfile
import zlib

from fine_tuning.data_collection.documents.blocks import Block, Heading, Items, Paragraph, Table
from fine_tuning.errors import DataError

_UNPACKED = 200 << 20  # largest size of an unpacked document in bytes
_MEMBERS = 5_000
_HEADING = re.compile(r"(?:heading|überschrift|titre|título|titolo|kop) (\d)", re.IGNORECASE)


def read(content: bytes) -> list[Block]:
    """Return the blocks of a Word document. Raises DataError if it is damaged, or would be too large when unpacked."""
    from docx import Document
    from docx.opc.exceptions import OpcError
    from docx.table import Table as WordTable
    from docx.text.paragraph import Paragraph as WordParagraph
    from lxml import etree

    _check_size(content)
    found: list[Block] = []
    try:
        for part in Document(io.BytesIO(content)).iter_inner_content():
            if isinstance(part, WordTable):
                found.append(Table(tuple(tuple(cell.text for cell in row.cells) for row in part.rows)))
            elif isinstance(part, WordParagraph):
                _add(
                    found,
                    part.text,
                    part.style.name or "" if part.style else "",
                    part._p.pPr is not None and part._p.pPr.numPr is not None,
                )
    except (
        OpcError,
        etree.LxmlError,
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise DataError(f"the Word document is damaged ({error}): save it again") from error
    # raised where a part of the document is missing
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, AssertionError, UnicodeError) as error:
        raise DataError(f"the Word document is damaged ({type(error).__name__} {error}): save it again") from error
    return found


def _add(found: list[Block], text: str, style: str, numbered: bool) -> None:
    if style == "Title":
        found.append(Heading(text, 1))
    elif heading := _HEADING.match(style):
        found.append(Heading(text, int(heading[1])))
    elif numbered or style.startswith("List"):
        if found and isinstance(last := found[-1], Items):
            found[-1] = Items((*last.items, text))
        else:
            found.append(Items((text,)))
    else:
        found.append(Paragraph(text))


def _check_size(content: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, UnicodeError, EOFError, OSError) as error:
        raise DataError(f"the Word document is damaged ({error}): save it again") from error
    grown = sum(member.file_size for member in members)
    if grown > _UNPACKED or len(members) > _MEMBERS:
        raise DataError(
            f"the Word document would unpack to {grown >> 20} MiB in {len(members)} parts, which is too much: save it "
            "again without pictures"
        )
