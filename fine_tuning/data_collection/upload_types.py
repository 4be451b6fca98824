"""Recognise the type of an uploaded file by its content, not its name.

Programs, pickles, and archives whose members would be unpacked outside of the target folder are
refused. Nothing is run, unpickled or unpacked to find this out: of a ZIP archive, only the list of
members and the beginning of each member are read.
"""

import io
import pickletools
import stat
import zipfile
import zlib
from pathlib import Path
from typing import Literal

from fine_tuning.data_collection.importers.files import HEAD, encoding_of, members_of
from fine_tuning.data_collection.importers.records import look
from fine_tuning.errors import DataError

Type = Literal["jsonl", "json", "csv", "tsv", "parquet", "text", "pdf", "zip"]

_MACHO = (b"\xca\xfe\xba\xbe", b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe")
_PROGRAMS = (b"MZ", b"\x7fELF", b"#!", b"\0asm", *_MACHO)
_TEXTUAL = (b"MZ", b"#!")  # a text may also begin with these
_LAYOUTS: dict[str, Type] = {
    **{"array": "json", "object": "json", "lines": "jsonl", "parquet": "parquet"},
    **dict.fromkeys(("text", "xml", "mail"), "text"),
}
_GROWN = 1 << 30  # unpacked bytes of an archive that are always allowed
_RATIO = 200  # a larger archive may be compressed at most by this factor
_MEMBERS = 200_000


def type_of(path: Path) -> Type:
    """Return the type of a file. Raises DataError if it may not be uploaded, or cannot be read."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        raise DataError(f"{path.name} is empty: choose another file")
    _check_harmless(head, path.name, path.stat().st_size <= HEAD)
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path)
        return "zip"
    if head.lstrip().startswith(b"%PDF-"):
        return "pdf"  # it is read in a process of its own
    if not head.startswith(b"PAR1") and not _is_text(head):
        raise DataError(
            f"{path.name} is neither text nor PDF, Parquet or a ZIP archive: send JSON lines, JSON, CSV, TSV, "
            "Parquet, text, a document or a ZIP"
        )
    if head.startswith(b"PAR1"):
        return "parquet"  # it is read in a process of its own
    (member,) = members_of(path)
    found = look(member)
    if found.layout == "table":
        return "tsv" if found.delimiter == "\t" else "csv"
    return _LAYOUTS[found.layout]


def _check_harmless(head: bytes, name: str, is_whole: bool) -> None:
    """Raise DataError for a program or a pickle."""
    if head.startswith(_PROGRAMS) and (not head.startswith(_TEXTUAL) or not _is_text(head) or head.startswith(b"#!/")):
        raise DataError(f"{name} is a program, but only data can be uploaded: choose another file")
    if is_pickle(head, is_whole):
        raise DataError(f"{name} is a Python pickle, which can run code: save the data as JSON lines or Parquet")


def is_pickle(head: bytes, is_whole: bool) -> bool:
    """Return whether a file that begins with `head` is a pickle of any protocol.

    `is_whole`: whether `head` is the whole file. The operations of the pickle are parsed, not executed.
    """
    if head[:1] == b"\x80" and head[1:2] in (b"\x00", b"\x01", b"\x02", b"\x03", b"\x04", b"\x05", b"\x06"):
        return True
    content = io.BytesIO(head)
    names, last, at = False, "", 0
    try:
        for operation, _, position in pickletools.genops(content):
            names = names or operation.name in ("GLOBAL", "INST", "PUT", "BINPUT")
            last, at = operation.name, position or 0
    except ValueError:  # no operation, or cut off
        return names and not is_whole and at > len(head) - (1 << 16)
    return last == "STOP" and at > 0 and not head[content.tell() :].strip() and _is_sound(head)


def _is_sound(pickle: bytes) -> bool:
    """Return whether each operation of a pickle finds its operands on the stack.

    This is not so for a text whose letters only happen to be codes of operations.
    """
    try:
        pickletools.dis(pickle, out=io.StringIO())
    except ValueError:
        return False
    return True


def _is_text(head: bytes) -> bool:
    encoding = encoding_of(head)
    if encoding.startswith(("utf-16", "utf-32")):
        return True
    controls = sum(head.count(bytes([byte])) for byte in (*range(9), 11, *range(14, 27), *range(28, 32)))
    return b"\0" not in head and controls * 100 <= len(head)


def _check_archive(path: Path) -> None:
    """Raise DataError for an archive that is damaged or not safe to unpack.

    It is not safe if a member is a link, a program or a pickle, or would be outside of the target
    folder, or if all members together would be too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if len(infos) > _MEMBERS:
                raise DataError(
                    f"{path.name} contains too many files ({len(infos)}): send only the files with the chats"
                )
            grown = sum(info.file_size for info in infos)
            if grown > _GROWN and grown > _RATIO * path.stat().st_size:
                raise DataError(
                    f"{path.name} would unpack to {grown / 1e9:.0f} GB, which is too much: send only the files with "
                    "the chats"
                )
            for info in infos:
                _check_member(archive, info, path.name)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path.name} is a damaged ZIP archive ({error}): make or download it again") from error
    except RuntimeError as error:  # a password is asked for
        raise DataError(f"{path.name} cannot be read: {error}. Make the archive again without a password") from error


def _check_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> None:
    told = info.orig_filename  # as it is stored: zipfile cuts a name at a NUL, and replaces backslashes on Windows
    if not told:
        raise zipfile.BadZipFile("a file in it has no name")
    parts = told.replace("\\", "/").split("/")
    if (
        told.startswith(("/", "\\"))
        or ".." in parts
        or ":" in parts[0]
        or "\0" in told
        or stat.S_ISLNK(info.external_attr >> 16)
    ):
        raise DataError(
            f"{name} contains {told[:100]!r}, which is a link or lies outside of the archive: make the archive again "
            "without it"
        )
    if info.is_dir():
        return
    with archive.open(info) as member:
        head = member.read(4096)
    _check_harmless(head, f"{name}: {told[:100]}", info.file_size <= len(head))
