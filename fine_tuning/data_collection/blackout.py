"""Find texts in files, however they are written there, and black them out."""

import bz2
import gzip
import html
import json
import lzma
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from fine_tuning import paths
from fine_tuning.errors import ByoaiError

Pattern = re.Pattern[bytes]

_WEIGHTS = {".gguf", ".safetensors"}  # hold numbers, and a vocabulary that nobody said
_GGUF = b"GGUF"  # how one begins, whatever it is called: engines name their blobs by digests
_PACKED: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    ".gz": (gzip.decompress, gzip.compress),
    ".bz2": (bz2.decompress, bz2.compress),
    ".xz": (lzma.decompress, lzma.compress),
}


def pattern(texts: Collection[str]) -> Pattern | None:
    """Matches any of `texts` in UTF-8, whatever the case and the white space, also as JSON, CSV or HTML write it. None for no text."""
    ways = [b"(?:\\s|\\\\[nrt]|&#10;)+".join(b"".join(map(_ways, word)) for word in text.split()) for text in sorted(texts, key=len)]
    return re.compile(b"|".join(way for way in reversed(ways) if way), re.IGNORECASE) if any(ways) else None


def search(folder: Path, wanted: Pattern, skip: Collection[Path] = ()) -> Iterator[Path]:
    """The files under `folder` that hold it, packed ones too; not those in `skip` (files or folders), and no weights."""
    for path in sorted(folder.rglob("*")):
        left_out = any(path == each or each in path.parents for each in skip)
        if not left_out and path.is_file() and not _is_weights(path) and wanted.search(_read(path)):
            yield path


def black_out(path: Path, wanted: Pattern) -> None:
    """Overwrite every match by as many asterisks: the file keeps its length and its form. A packed one is packed anew."""
    content = wanted.sub(lambda match: b"*" * len(match[0]), _read(path))
    pack = _PACKED[path.suffix][1] if path.suffix in _PACKED else bytes
    paths.atomic_write(path, pack(content))


def black_out_text(text: str, wanted: Pattern) -> str:
    """The same for a string; half characters become question marks."""
    content = text.encode("utf-8", "replace")
    return wanted.sub(lambda match: b"*" * len(match[0]), content).decode("utf-8", "replace") if wanted.search(content) else text


def _is_weights(path: Path) -> bool:
    """Told by four bytes: the whole may be larger than the memory."""
    if path.suffix in _WEIGHTS:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(_GGUF)) == _GGUF
    except OSError:  # `_read` says what is wrong with it
        return False


def _read(path: Path) -> bytes:
    """What a file holds, unpacked. A file that has vanished holds nothing. ByoaiError if it cannot be read."""
    try:
        content = path.read_bytes()
        return _PACKED[path.suffix][0](content) if path.suffix in _PACKED else content
    except FileNotFoundError:
        return b""
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ByoaiError(f"cannot search {path}: {error}. Mend or remove it, and try again") from error


def _ways(character: str) -> bytes:
    """A pattern for the ways in which one character may be written."""
    if character.isascii() and character.isalnum():
        return character.encode()
    forms = {character, character.lower(), character.upper()}
    written = {way for form in forms for way in (form, json.dumps(form)[1:-1], html.escape(form))}
    if character == '"':
        written |= {'""', "&#34;"}
    ways = {way.encode("utf-8", "replace") for way in written}
    return b"(?:" + b"|".join(re.escape(way) for way in sorted(ways, key=len, reverse=True)) + b")"
