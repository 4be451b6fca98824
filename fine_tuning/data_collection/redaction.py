"""Find texts in files, in all forms in which files may encode them, and overwrite them with asterisks."""

import bz2
import gzip
import html
import json
import lzma
import os
import re
import time
import unicodedata
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

from fine_tuning import paths
from fine_tuning.errors import ByoaiError
from fine_tuning.json_values import parse_json

Pattern = re.Pattern[bytes]

_NUMBERS = {".gguf", ".safetensors", ".sketches"}  # they contain numbers and perhaps a vocabulary, but no messages
_MOMENT = 0.005  # seconds in which a program that has opened a file to append a line has done so
_GGUF = b"GGUF"  # first bytes of a GGUF file, whatever its name: engines name their blobs by digests
_PACKED: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    ".gz": (gzip.decompress, gzip.compress),
    ".bz2": (bz2.decompress, bz2.compress),
    ".xz": (lzma.decompress, lzma.compress),
}


def pattern(texts: Collection[str]) -> Pattern | None:
    """Return a pattern that matches any of `texts` in UTF-8; None if there is no text.

    It ignores case and white space, matches composed and decomposed accents, and also the forms in
    which JSON, CSV and HTML write a text.
    """
    forms = {
        form
        for text in texts
        for form in (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))
    }
    ways = [
        b"(?:\\s|\\\\[nrt]|&#10;)+".join(b"".join(map(_ways, word)) for word in form.split())
        for form in sorted(forms, key=len)
    ]
    return re.compile(b"|".join(way for way in reversed(ways) if way), re.IGNORECASE) if any(ways) else None


def holds(text: str, wanted: Pattern) -> bool:
    return wanted.search(text.encode("utf-8", "replace")) is not None


def texts_in(value: object) -> Iterator[str]:
    """Yield all strings in a JSON value except the keys of objects."""
    waiting = [value]  # no recursion, so that a value may be nested deeply
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, (dict, list)):
            waiting += reversed([*each.values()] if isinstance(each, dict) else each)


def search(folder: Path, wanted: Pattern, skip: Collection[Path] = ()) -> Iterator[Path]:
    """Yield the files under `folder` whose content matches `wanted`.

    Compressed files are searched too; in JSON only strings are. Files of weights and of sketches are not
    searched, and neither is anything in `skip` (files and folders). Raises ByoaiError if a file or folder
    cannot be read.
    """
    for path in sorted(_files(folder)):
        left_out = any(path == each or each in path.parents for each in skip)
        if not left_out and not _is_numbers(path) and _says(path, wanted):
            yield path


def _files(folder: Path) -> Iterator[Path]:
    """Yield all files under a folder, links to files included."""

    def refused(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # else it was removed meanwhile
            raise ByoaiError(f"cannot search {error.filename}: {error.strerror}. Make it readable, and try again")

    for place, _, names in os.walk(folder, onerror=refused):
        yield from (path for name in names if (path := Path(place, name)).is_file())


def _says(path: Path, wanted: Pattern) -> bool:
    content = _read(path)
    if not wanted.search(content):
        return False
    values = _json(path, content)
    return values is None or any(holds(text, wanted) for text in texts_in(values))


def redact(path: Path, wanted: Pattern) -> None:
    """Overwrite every match in a file with asterisks.

    In JSON only strings are changed, not the keys. In other files a match keeps its length. A
    compressed file is compressed again. A running job waits before it appends (`paths.appending`); what its
    children print meanwhile is redacted, too.
    """
    with suppress(FileNotFoundError), paths.replacing(path), path.open("rb") as file:
        pack = _PACKED[path.suffix][1] if path.suffix in _PACKED else bytes
        content = _unpacked(path, file.read())
        if os.name == "nt":  # Windows replaces no open file
            file.close()
        paths.atomic_write(path, pack(_redacted(path, content, wanted)))
        time.sleep(_MOMENT)
        if not file.closed and (late := file.read()):  # appended to the file that was just replaced
            with path.open("ab") as new:
                new.write(_redacted(path, late, wanted))


def _redacted(path: Path, content: bytes, wanted: Pattern) -> bytes:
    changed = _redact_json(path, content, wanted)
    return _redact_bytes(content, wanted) if changed is None else changed


def redact_text(text: str, wanted: Pattern) -> str:
    """Return a text with every match overwritten by asterisks. Unpaired surrogates become question marks."""
    return (
        _redact_bytes(text.encode("utf-8", "replace"), wanted).decode("utf-8", "replace")
        if holds(text, wanted)
        else text
    )


def redact_value(value: object, wanted: Pattern) -> object:
    """Return a JSON value in which the matches in all strings are overwritten. Keys of objects stay unchanged."""
    if isinstance(value, str):
        return redact_text(value, wanted)
    if isinstance(value, dict):
        return {key: redact_value(each, wanted) for key, each in value.items()}
    return [redact_value(each, wanted) for each in value] if isinstance(value, list) else value


def _redact_bytes(content: bytes, wanted: Pattern) -> bytes:
    return wanted.sub(lambda match: b"*" * len(match[0]), content)


def _redact_json(path: Path, content: bytes, wanted: Pattern) -> bytes | None:
    """Return the redacted content of a JSON file; None if the file is not JSON, or is nested too deeply."""
    values = _json(path, content)
    if values is None:
        return None
    try:
        lines = [
            json.dumps(redact_value(value, wanted), ensure_ascii=False, indent=None if _is_lines(path) else 2)
            for value in values
        ]
    except RecursionError:
        return None
    return "".join(line + "\n" for line in lines).encode()


def _json(path: Path, content: bytes) -> list[object] | None:
    """Return the value of a JSON file in a list, or the values of the lines of JSON Lines; None for any other file."""
    if path.suffix != ".json" and not _is_lines(path):
        return None
    try:
        return (
            [parse_json(line) for line in content.splitlines() if line.strip()]
            if _is_lines(path)
            else [parse_json(content)]
        )
    except ValueError:
        return None


def _is_lines(path: Path) -> bool:
    return path.suffix == ".jsonl"


def _is_numbers(path: Path) -> bool:
    """Return whether a file contains weights or sketches, by its suffix or its first four bytes.

    Such a file may be larger than the memory.
    """
    if path.suffix in _NUMBERS:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(_GGUF)) == _GGUF
    except OSError:  # `_read` reports it
        return False


def _read(path: Path) -> bytes:
    """Return the decompressed content of a file; b"" if it no longer exists.

    Raises ByoaiError if it cannot be read.
    """
    try:
        return _unpacked(path, path.read_bytes())
    except FileNotFoundError:
        return b""
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ByoaiError(f"cannot search {path}: {error}. Repair or remove the file, and try again") from error


def _unpacked(path: Path, content: bytes) -> bytes:
    return _PACKED[path.suffix][0](content) if path.suffix in _PACKED else content


def _ways(character: str) -> bytes:
    """Return a regex for all the ways in which a character may be written in plain text, JSON, CSV and HTML."""
    if character.isascii() and character.isalnum():
        return character.encode()
    forms = {character, character.lower(), character.upper()}
    written = {way for form in forms for way in (form, json.dumps(form)[1:-1], html.escape(form))}
    if character == '"':
        written |= {'""', "&#34;"}
    ways = {way.encode("utf-8", "replace") for way in written}
    return b"(?:" + b"|".join(re.escape(way) for way in sorted(ways, key=len, reverse=True)) + b")"
