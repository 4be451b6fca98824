"""Open the files of an import as streams: a file, a folder, a ZIP archive; compressed or not; in any encoding.

YAML is read as the JSON with the same content.
Nothing is unpacked to the disk. A file in an archive that would become too large is refused.
"""

import codecs
import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import IO, BinaryIO, TextIO, cast

from fine_tuning import paths
from fine_tuning.config.file import parse
from fine_tuning.errors import ConfigError, DataError

HEAD = 1 << 18  # bytes of a file that are examined to recognise it
_MOST_MEMBERS = 200_000
_BOMB = 1 << 30  # unpacked bytes of a member that are always allowed
_LARGEST_YAML = 1 << 20  # bytes of a YAML file, which is read as a whole
_ASSIGNMENT = re.compile(rb"\s*window\.YTD\.[\w.]+\s*=\s*")
_LONGEST_NAME = 200  # bytes
_RATIO = 200  # a larger member may be compressed at most by this factor
_BOMS = [
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
# invalid bytes, as the error handler "surrogateescape" returns them
UNDECODED = re.compile("[\udc80-\udcff]")


Read = Callable[[int], None]
"""A function that is called with the number of bytes after each read. It may raise Cancelled to stop reading."""


def unwatched(count: int) -> None:
    """Do nothing. This is the `Read` function of callers that do not follow how much was read."""


@dataclass(frozen=True)
class Member:
    """A file on the disk, or a member of an archive.

    `path` is its path if it is a file on the disk. `others` returns another member of the same folder or
    archive by its name; None if there is none.
    """

    name: str  # path below the folder or archive, with "/"
    size: int
    opener: Callable[[], IO[bytes]]
    path: Path | None = None
    others: Callable[[str], "Member | None"] = lambda name: None

    @property
    def suffix(self) -> str:
        return Path(self.name.lower().removesuffix(".gz")).suffix

    @property
    def folder(self) -> str:
        return self.name.rpartition("/")[0]

    @contextmanager
    def opened(self, read: Read = unwatched) -> Iterator[BinaryIO]:
        """Open the file for reading, decompressed, within the `with` block.

        Raises DataError if it cannot be opened, or read within the block.
        """
        try:
            with self.opener() as raw:
                watched = io.BufferedReader(_Watched(raw, read), 1 << 20)
                if watched.peek(2)[:2] == b"\x1f\x8b":
                    with gzip.GzipFile(fileobj=watched) as content:
                        yield cast(BinaryIO, io.BufferedReader(content, 1 << 20))
                else:
                    yield watched
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            if (
                isinstance(error, RuntimeError)
                and "password" not in str(error)
                and not isinstance(error, NotImplementedError)
            ):
                raise
            raise DataError(
                f"cannot read {self.name}: {getattr(error, 'strerror', None) or error}. Check the file and its "
                "permissions"
            ) from error

    @contextmanager
    def text(self, read: Read = unwatched, newline: str | None = "\n") -> Iterator[TextIO]:
        """Open the file as text within the `with` block.

        Bytes that are invalid in its encoding become characters that match `UNDECODED`. Raises DataError if
        the file cannot be read.
        """
        encoding = self.encoding
        with self.opened(read) as content, io.TextIOWrapper(content, encoding, "surrogateescape", newline) as text:
            try:
                yield text
            except UnicodeError as error:  # such as a UTF-16 file that ends within a character
                raise DataError(f"{self.name} is not {encoding} text throughout ({error}): save it as UTF-8") from error

    @cached_property
    def encoding(self) -> str:
        return encoding_of(self.head())

    def head(self) -> bytes:
        with self.opened() as content:
            return content.read(HEAD)


class _Watched(io.RawIOBase):
    def __init__(self, raw: IO[bytes], read: Read) -> None:
        self._raw, self._read = raw, read

    def readable(self) -> bool:
        return True

    def readinto(self, target: object) -> int:
        view = memoryview(target)  # type: ignore[arg-type]
        data = self._raw.read(len(view))
        view[: len(data)] = data
        self._read(len(data))
        return len(data)


def encoding_of(head: bytes) -> str:
    """Return the encoding of a text that begins with `head`.

    A byte-order mark decides. Without one, the encoding is UTF-16 if many bytes are zero, but only the
    even or only the odd ones; UTF-8 if nearly all bytes are valid in it; else Windows-1252.
    """
    for bom, name in _BOMS:
        if head.startswith(bom):
            return name
    even, odd, half = head[:4096:2].count(0), head[1:4096:2].count(0), len(head[:4096]) // 2
    if half >= 4 and max(even, odd) * 3 > half and min(even, odd) * 20 < half:
        return "utf-16-le" if odd > even else "utf-16-be"
    decoder = codecs.getincrementaldecoder("utf-8")()
    with suppress(UnicodeDecodeError):
        decoder.decode(head)
        return "utf-8"
    undecodable = len(UNDECODED.findall(head.decode("utf-8", "surrogateescape")))
    letters = sum(byte >= 0x80 for byte in head)
    return "utf-8" if undecodable * 10 < letters else "cp1252"  # a few damaged bytes do not make it another encoding


def members_of(path: Path) -> list[Member]:
    """Return the files at `path`, ordered by name: the file itself, or those in the folder or the archive.

    Raises DataError if there is nothing at `path`, or it cannot be read.
    """
    try:
        if path.is_dir():
            return _of_folder(path)
        if not path.is_file():
            raise DataError(f"{path} does not exist, or is neither a file nor a folder: name one to import")
        with path.open("rb") as file:
            archive = file.read(4) == b"PK\x03\x04" and not _is_office(path)
        if archive:
            return _of_archive(path)
        return [_read_as_json(Member(path.name, path.stat().st_size, partial(_open, path), path))]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}. Check the path and its permissions") from error


def _read_as_json(member: Member) -> Member:
    """Return a YAML file, or a script of X's archive, as a member that is read as JSON; any other file unchanged."""
    if member.suffix == ".js":
        return _without_assignment(member)
    if member.suffix not in (".yml", ".yaml"):
        return member

    @cache
    def converted() -> bytes:
        with member.opened() as content:
            data = content.read(_LARGEST_YAML + 1)
        if len(data) > _LARGEST_YAML:
            raise DataError(f"{member.name} has more than {_LARGEST_YAML >> 20} MB of YAML: convert it to JSON")
        try:
            return json.dumps(parse(data.decode(encoding_of(data), "replace"), member.name)).encode()
        except ConfigError as error:
            raise DataError(f"{error}. Correct it, or convert it to JSON") from error

    return replace(member, opener=lambda: io.BytesIO(converted()))


def _without_assignment(member: Member) -> Member:
    """Return a member that begins after "window.YTD.direct_messages.part0 =", as X begins the files of an archive."""

    def opened() -> IO[bytes]:
        content = member.opener()
        if found := _ASSIGNMENT.match(content.read(_LONGEST_NAME)):
            content.seek(found.end())
        else:
            content.seek(0)
        return content

    return replace(member, opener=opened)


def _is_office(path: Path) -> bool:
    """Return whether a ZIP archive is a single document of Word or another Office program."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "[Content_Types].xml" in archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, UnicodeError):
        return False


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def _of_folder(folder: Path) -> list[Member]:
    """Return the files in a folder, without hidden ones, and without byoai's data folder if it is within the folder."""
    home = paths.home().resolve()
    is_around_home = folder.resolve() in home.parents
    found = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not path.is_symlink()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not (is_around_home and home in path.resolve().parents)
    }

    def named(name: str) -> Member | None:
        path = found.get(name)
        return Member(name, path.stat().st_size, partial(_open, path), path, named) if path else None

    return [_read_as_json(member) for name in found if (member := named(name))]


def _of_archive(path: Path) -> list[Member]:
    try:
        archive = zipfile.ZipFile(path)  # stays open as long as a member exists, since opening it reads the whole list
        if not all(info.filename for info in archive.infolist()):
            raise zipfile.BadZipFile("a file in it has no name")
        listed = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, UnicodeError) as error:
        raise DataError(f"{path} is a damaged ZIP archive ({error}): download or make it again") from error
    if len(listed) > _MOST_MEMBERS:
        raise DataError(
            f"{path} contains {len(listed)} files, more than {_MOST_MEMBERS}: unpack it, and import the folder with "
            "the chats"
        )
    infos = {info.filename: info for info in sorted(listed, key=lambda info: info.filename)}

    def named(name: str) -> Member | None:
        info = infos.get(name)
        return Member(name, info.file_size, partial(_open_archived, archive, info), others=named) if info else None

    return [_read_as_json(member) for name in infos if not _is_hidden(name) and (member := named(name))]


def _is_hidden(name: str) -> bool:
    return name.startswith("__MACOSX/") or any(part.startswith(".") for part in name.split("/"))


def _open_archived(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    if info.file_size > _BOMB and info.file_size > _RATIO * max(info.compress_size, 1):
        raise DataError(
            f"{archive.filename}: {info.filename} would unpack to {info.file_size / 1e9:.0f} GB: unpack it yourself if "
            "you trust it"
        )
    return archive.open(info)
