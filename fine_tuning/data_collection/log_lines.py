"""One line of the log: a turn or an event as a JSON object, whose last key, "crc32", is the checksum of the rest.

The checksum shows that a line was altered on the disk after it was written; it is no signature. It
is CRC-32 (`zlib.crc32`) in eight hexadecimal digits, of the object without it as
`json.dumps(record, ensure_ascii=False)` writes it: other white space between the parts changes
nothing. A line without a checksum is taken as it is: logs written before there were any, exports,
lines written by hand.
"""

import codecs
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from fine_tuning.conversation import Turn, whole_characters
from fine_tuning.data_collection.redaction import texts_in
from fine_tuning.errors import DataError
from fine_tuning.thoughts import split_thoughts

OWNER = "owner"  # of this machine and its log; who rates without saying who it is
EVENTS = {"rating", "edit", "exclude", "delete"}

_CHECKSUM = "crc32"
_SEAL = re.compile(rb', "crc32": "([0-9a-f]{8})"\}')
_SEAL_LENGTH = len(', "crc32": "01234567"}')
_SPACE = b" \t\r\n"
# what byoai itself says of an answer
_OURS = {"model", "digest", "engine", "incomplete", "regenerates", "parent", "import", "ended_line"}
_NAME = re.compile(rb'"(?:id|turn_id|session_id)": ?"([^"\\]+)"')
_HEAD = re.compile(rb'\{("id": "[^"\\]+", "session_id"|"event": "[^"\\]+", "turn_id"): "[^"\\]+",')
_TURN_HEAD = re.compile(rb'\{"id": "[^"\\]+", "session_id": "[^"\\]+", "timestamp": "[^"\\]*", "user_message": "')
_EVENT_HEAD = re.compile(rb'\{"event": "(?:rating|edit|exclude|delete)", "turn_id": "')
_ID_HEAD = re.compile(rb'\{"id": "[0-9a-f]{0,32}')
_WHOLE_ID_HEAD = len('{"id": "') + 32
_AFTER_ID = b'", "session_id": "'
_HALF = re.compile("[\ud800-\udfff]")  # half a character: no text that could be written anywhere


def encode(record: Mapping[str, object]) -> bytes:
    """Return the line of a turn or an event, with its checksum and without its end. DataError for
    what JSON cannot hold.
    """
    body = _dump(record)
    return b'%s, "%s": "%08x"}' % (body[:-1], _CHECKSUM.encode(), zlib.crc32(body))


def decode(line: bytes) -> Turn | dict[str, object]:
    """Return the turn, or the event as a dict, that a line holds. ValueError if it holds neither,
    or not what its checksum says.
    """
    text = _verified(_bare(line))
    try:
        record = json.loads(text) if b'"event"' in text else None  # within what people said the quotes would be escaped
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(record, dict) or "event" not in record:
        return Turn.model_validate_json(text)
    if not _is_event(record):
        raise ValueError("not an event")
    return record


def is_ours(line: bytes) -> bool:
    """Return whether a line is a record of the log, whole, or spoilt after its beginning: a writer
    may have been killed in the middle.
    """
    line = _bare(line)
    if _TURN_HEAD.match(line) or _EVENT_HEAD.match(line) or _is_torn_head(line):
        return True
    try:
        record = decode(line)
    except ValueError:
        return False
    return isinstance(record, Turn) or record["event"] in EVENTS


def texts_of(record: Turn | dict[str, object]) -> Iterator[str]:
    """Yield every text of a turn or an event that somebody may have said."""
    if isinstance(record, Turn):
        told = {key: value for key, value in record.metadata.items() if key not in _OURS}
        return texts_in([record.user_message, record.bot_response, told])
    return texts_in([record.get("bot_response"), record.get("reason")])


def apply(turn: Turn, event: dict[str, Any]) -> Turn:
    """Return `turn` after a known event."""
    answer, facts = turn.bot_response, dict(turn.metadata)
    match event["event"]:
        case "rating":
            if event.get("by", OWNER) == OWNER:
                facts |= {"rating": event["rating"], "rating_reason": event.get("reason")}
        case "exclude":
            # it was not excluded: so it must not lose a conflict, either
            wanted = not event["excluded"] and not facts.get("excluded")
            facts |= {"excluded": event["excluded"], "included": wanted}
        case "edit":
            facts.setdefault("original_response", answer)
            answer = split_thoughts(event["bot_response"]).answer
            # Both are said of the answer that is now replaced.
            facts |= {"rating": None, "rating_reason": None, "incomplete": None}
    for key in ("rating", "rating_reason", "excluded", "included", "incomplete"):
        if not facts.get(key):
            facts.pop(key, None)
    return turn.model_copy(update={"bot_response": answer, "metadata": facts})


def named_in(line: bytes) -> set[str]:
    """Return the ids of the turns and sessions that a damaged line names."""
    return {id.decode("utf-8", "replace") for id in _NAME.findall(line)}


def tells_whose(line: bytes) -> bool:
    """Return whether a damaged line begins as ours do: with the ids, before anything that was said."""
    return bool(_HEAD.match(line))


def _bare(line: bytes) -> bytes:
    return line.removeprefix(codecs.BOM_UTF8).strip(_SPACE)


def _verified(text: bytes) -> bytes:
    """Return the object, with nothing in it that its checksum does not cover. ValueError if the checksum is another."""
    seal = _SEAL.fullmatch(text[-_SEAL_LENGTH:])
    if seal and zlib.crc32(b"}", zlib.crc32(memoryview(text)[:-_SEAL_LENGTH])) == int(seal[1], 16):
        return text
    if b'"%s"' % _CHECKSUM.encode() not in text:
        return text
    try:
        record = json.loads(text)  # perhaps only written in another way
        if not isinstance(record, dict) or _CHECKSUM not in record:
            return text
        claimed, body = record.pop(_CHECKSUM), _dump(record)
    except (DataError, RecursionError) as error:
        raise ValueError("not a record") from error
    if claimed != f"{zlib.crc32(body):08x}":
        raise ValueError("altered after it was written")
    return body


def _dump(record: Mapping[str, object]) -> bytes:
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"cannot log what JSON cannot hold: {error}") from error
    try:
        return text.encode()
    except UnicodeEncodeError:
        return str(whole_characters(text)).encode()


def _is_torn_head(line: bytes) -> bool:
    """Return whether a line is, or begins with, what was written of a turn's ids before its writer was killed."""
    if not (head := _ID_HEAD.match(line)):
        return False
    rest = line[head.end() :]
    return _AFTER_ID.startswith(rest) or (len(head[0]) == _WHOLE_ID_HEAD and rest.startswith(_AFTER_ID))


def _is_event(record: dict[str, Any]) -> bool:
    if not isinstance(record.get("turn_id"), str) or not record["turn_id"]:
        return False
    match record["event"]:
        case "rating":
            reason = record.get("reason", "")
            told = isinstance(record.get("by", OWNER), str) and isinstance(reason, str) and not _HALF.search(reason)
            return told and record.get("rating") in ("up", "down", None)
        case "edit":
            return isinstance(record.get("bot_response"), str) and not _HALF.search(record["bot_response"])
        case "exclude":
            return isinstance(record.get("excluded"), bool)
        case kind:
            return isinstance(kind, str)
