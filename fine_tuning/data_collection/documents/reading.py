"""Read a document into blocks, in a child process with limited time and memory, since it may come from anywhere."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence

from fine_tuning.data_collection.documents.blocks import Block, from_record, tidy, to_record
from fine_tuning.data_collection.importers.files import Member, encoding_of
from fine_tuning.errors import DataError

LARGEST = 50 << 20  # bytes of a file
SECONDS = 60
_MEMORY = 2 << 30  # bytes
_BLOCKS = 200_000
_CHARACTERS = 5_000_000  # of a document's text: some 1,700 pages
_SUFFIXES = {
    ".md": "md",
    ".markdown": "md",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".docx": "docx",
}


def read_document(member: Member, name: str = "", seconds: float = SECONDS) -> list[Block]:
    """Return the blocks of a file.

    Args:
        member: The file.
        name: The file's name, by default `member.name`. Its suffix decides the kind of the file if the
            content does not.
        seconds: The time after which reading is aborted.

    Raises:
        DataError: The file is too large, damaged, of no known kind, has no text, or takes too long to
            read.
    """
    name = name or member.name
    if member.size > LARGEST:
        raise DataError(
            f"{name} has {member.size >> 20} MiB, but a document may have at most {LARGEST >> 20} MiB: split it"
        )
    with member.opened() as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise DataError(f"{name} unpacks to more than {LARGEST >> 20} MiB: split it")
    kind = kind_of(content, name)
    command = [sys.executable, "-m", __name__, kind]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"{name} could not be read within {seconds:g} seconds: save it again, or as plain text"
        ) from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        raise DataError(
            f"{name} could not be read: either it needs too much memory, or it is damaged (exit code "
            f"{done.returncode}). Save it again, or as plain text"
        ) from error
    if "fault" in answer:
        raise DataError(f"{name}: {answer['fault']}")
    return [from_record(record) for record in answer["blocks"]]


def kind_of(content: bytes, name: str) -> str:
    """Return the kind of a file (a key of `READERS`) by its first bytes, else by its name.

    Raises DataError for a kind that cannot be read.
    """
    head = content[:1024].lstrip()
    if b"%PDF-" in head:
        return "pdf"
    if content.startswith(b"PK\x03\x04"):
        if b"word/" in content:
            return "docx"
        raise DataError(f"{name} is an archive, but not a Word document: unpack it, and import the documents in it")
    if content.startswith(b"\xd0\xcf\x11\xe0"):
        raise DataError(f"{name} is in Word's old format: save it as .docx")
    suffix = next((kind for end, kind in _SUFFIXES.items() if name.lower().endswith(end)), "txt")
    if suffix in ("pdf", "docx"):
        raise DataError(
            f"{name} is not a {suffix.upper()} file, although its name ends so, or it is damaged: save it again"
        )
    if head[:200].lower().startswith((b"<!doctype html", b"<html")):
        return "html"
    if b"\0" in content[:4096] and not encoding_of(content[:4096]).startswith("utf-"):
        raise DataError(f"{name} is not text: documents may be Markdown, plain text, PDF, HTML or .docx")
    return suffix


def blocks_of(kind: str, content: bytes) -> list[Block]:
    """Read a file with this content in this process, and return its blocks.

    Raises DataError, whose message does not name the file, if it cannot be read.
    """
    found = tidy(READERS[kind](content))
    size = 0
    for block in found:
        size += sum(map(len, _texts(block)))
    if len(found) > _BLOCKS or size > _CHARACTERS:
        raise DataError(f"the document's text has {size:,} characters, more than {_CHARACTERS:,}: split it")
    return found


def _texts(block: Block) -> Sequence[str]:
    record = to_record(block)
    if "rows" in record:
        return [cell for row in record["rows"] for cell in row]
    return record["items"] if "items" in record else [record["text"]]


def _markdown(content: bytes) -> list[Block]:
    from fine_tuning.data_collection.documents import markdown

    return markdown.read(_decoded(content))


def _plain(content: bytes) -> list[Block]:
    from fine_tuning.data_collection.documents import plain

    return plain.read(_decoded(content))


def _html(content: bytes) -> list[Block]:
    from fine_tuning.data_collection.documents import html

    return html.read(_decoded(content))


def _pdf(content: bytes) -> list[Block]:
    from fine_tuning.data_collection.documents import pdf

    return pdf.read(content)


def _docx(content: bytes) -> list[Block]:
    from fine_tuning.data_collection.documents import docx

    return docx.read(content)


def _decoded(content: bytes) -> str:
    return content.decode(encoding_of(content), "replace")


READERS: dict[str, Callable[[bytes], list[Block]]] = {
    "md": _markdown,
    "txt": _plain,
    "html": _html,
    "pdf": _pdf,
    "docx": _docx,
}


def _answer(kind: str, content: bytes) -> dict[str, object]:
    try:
        return {"blocks": [to_record(block) for block in blocks_of(kind, content)]}
    except DataError as error:
        return {"fault": str(error)}
    except (MemoryError, RecursionError):
        return {"fault": "reading it needs too much memory: save it again, or as plain text"}


def _bound() -> None:
    """Limit the time and memory of this process.

    On Windows this is impossible: only the time limit of the parent process applies there.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS + 5, SECONDS + 5))


if __name__ == "__main__":
    _bound()
    sys.stdout.write(json.dumps(_answer(sys.argv[1], sys.stdin.buffer.read())))
