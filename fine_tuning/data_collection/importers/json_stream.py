"""Read JSON of any length piece by piece: the elements of an array, or of the lists in one large object.

The standard library decodes each element from a buffer that grows only as far as needed. After a
malformed element, reading continues with the next element that resembles those before it.
"""

import json
import re
from collections.abc import Iterator
from typing import TextIO

from fine_tuning.data_collection.importers.chats import Fault
from fine_tuning.json_values import JsonValue

LONGEST = 32 << 20  # characters of one element
_PIECE = 1 << 18  # characters read at once
_SPACE = re.compile(r"[ \t\r\n]*")
_NEXT = re.compile(r"\}\s*,\s*(?=\{)")
_BEFORE_END = 12  # characters before the buffer's end where an error may mean that more must be read
_DECODER = json.JSONDecoder()

Path = tuple[str, ...]


class BadJson(Exception):
    """Raised for text that is not JSON. The message says where, and what was expected."""


class JsonReader:
    """Reads JSON values from a text, one after the other."""

    def __init__(self, text: TextIO) -> None:
        self._text, self._buffer, self._at = text, "", 0
        self._line, self._column, self._ended = 1, 1, False

    def peek(self) -> str:
        """Return the next character that is not white space, without taking it; "" at the end."""
        while True:
            # always matches, since it also matches the empty text
            self._at = _SPACE.match(self._buffer, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def take(self, wanted: str) -> str:
        """Take the next character, which must be one of `wanted`. Raises BadJson for any other."""
        found = self.peek()
        if not found or found not in wanted:
            raise BadJson(f"{self.place()}: expected {' or '.join(wanted)}, found {found or 'the end of the file'}")
        self._at += 1
        return found

    def value(self) -> JsonValue:
        """Take the next value. Raises BadJson if there is none, or it is malformed."""
        self.peek()
        found: JsonValue
        while True:
            try:
                found, end = _DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if self._is_cut(error) and len(self._buffer) - self._at < LONGEST and self._more():
                    continue
                self._at = max(self._at, min(error.pos, len(self._buffer)))
                raise BadJson(f"{self.place()}: {error.msg}") from error
            except (RecursionError, ValueError) as error:
                where = self.place()
                self._at += 1
                raise BadJson(
                    f"{where}: {'nested too deeply' if isinstance(error, RecursionError) else error}"
                ) from error
            if end == len(self._buffer) and isinstance(found, int | float) and self._more():
                continue  # the number may continue
            self._at = end
            return found

    def to_next(self) -> bool:
        """Skip to the position at which the next object of a list may begin. Return False if there is none."""
        while not (found := _NEXT.search(self._buffer, self._at)):
            self._at = max(self._at, len(self._buffer) - 1000)
            if not self._more():
                return False
        self._at = found.end()
        return True

    def place(self) -> str:
        before = self._buffer[: self._at]
        lines = before.count("\n")
        column = len(before) - before.rfind("\n") if lines else self._column + len(before)
        return f"line {self._line + lines}, column {column}"

    def _is_cut(self, error: json.JSONDecodeError) -> bool:
        return not self._ended and (
            error.msg.startswith("Unterminated string") or error.pos >= len(self._buffer) - _BEFORE_END
        )

    def _more(self) -> bool:
        """Read another piece of the text into the buffer. Return False at the end of the file."""
        if self._ended:
            return False
        before = self._buffer[: self._at]
        if lines := before.count("\n"):
            self._line, self._column = self._line + lines, 1
        self._column += len(before) - before.rfind("\n") - 1
        rest = self._buffer[self._at :]
        piece = self._text.read(max(_PIECE, len(rest)))
        self._ended = not piece
        self._buffer, self._at = rest + piece, 0
        return bool(piece)


def elements(reader: JsonReader) -> Iterator[JsonValue | Fault]:
    """Yield the elements of the array that comes next; a Fault in place of each malformed one."""
    reader.take("[")
    alike: set[str] = set()
    if reader.peek() == "]":
        reader.take("]")
        return
    found: list[JsonValue] = []  # the element with which reading continues after a malformed one
    while True:
        try:
            value = found.pop() if found else reader.value()
            if isinstance(value, dict):
                alike = alike or set(value)
            yield value
            if reader.take(",]") == "]":
                return
        except BadJson as error:
            place, _, reason = str(error).partition(": ")
            yield Fault(place, f"expected JSON: {reason}")
            if not (found := _recovered(reader, alike)):
                return


def _recovered(reader: JsonReader, alike: set[str]) -> list[JsonValue]:
    """Return the next object that has at least half of the keys in `alike`, in a list; [] if there is none."""
    while reader.to_next():
        try:
            value = reader.value()
        except BadJson:
            continue
        if isinstance(value, dict) and 2 * len(alike & set(value)) >= len(alike):
            return [value]
    return []


def events(reader: JsonReader, path: Path = ()) -> Iterator[tuple[Path, JsonValue | Fault]]:
    """Yield (path, value) for the content of a large object: its values, and the elements of its lists one by one.

    A path consists of the keys that lead to a value. "*" in it stands for an element of a list, and "{"
    at its end for the beginning of an object whose content follows. So {"id": 1, "messages": [{...}]}
    yields (("{",), None), (("id",), 1) and (("messages", "*"), {...}). The messages of each chat in a
    Telegram export, which are lists within a list, are yielded one by one too.

    A malformed element of a list is yielded as a Fault. Raises BadJson if the object is malformed
    elsewhere.
    """
    opening = reader.peek()
    if opening == "{" and _opens(path):
        yield (*path, "{"), None
        reader.take("{")
        while reader.peek() != "}":
            key = reader.value()
            reader.take(":")
            yield from events(reader, (*path, str(key)))
            if reader.take(",}") == "}":
                return
        reader.take("}")
    elif opening == "[" and path and (len(path) == 1 or path[-1] == "messages"):
        for value in elements(reader):
            yield (*path, "*"), value
    elif opening == "[" and path[-2:] == ("chats", "list"):
        reader.take("[")
        while reader.peek() != "]":
            yield from events(reader, (*path, "*"))
            if reader.take(",]") == "]":
                return
        reader.take("]")
    else:
        yield path, reader.value()


def _opens(path: Path) -> bool:
    return not path or path == ("chats",) or path == ("chats", "list", "*")
