"""Read and write one line of the log: a turn or an event as a JSON object, whose last key is its checksum.

The checksum, "crc32", shows that a line was altered on the disk after it was written; it is not a
signature. It is the CRC-32 (`zlib.crc32`), in eight hexadecimal digits, of the object without this
key, in the form that `json.dumps(record, ensure_ascii=False)` writes. So other white space between
the tokens does not matter. A line without a checksum is accepted as it is: older logs, exports, and
lines written by hand have none.
"""

import codecs
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from fine_tuning.conversation import Turn, whole_characters
from fine_tuning.data_collection.redaction import texts_in
from fine_tuning.errors import DataError
from fine_tuning.thoughts import split_thoughts

OWNER = "owner"  # the rater, unless another name is given: the owner of this machine
EVENTS = {"rating", "edit", "exclude", "delete"}

_CHECKSUM = "crc32"
_SEAL = re.compile(rb', "crc32": "([0-9a-f]{8})"\}')
_SEAL_LENGTH = len(', "crc32": "01234567"}')
_SPACE = b" \t\r\n"
# metadata that byoai itself writes about an answer
_OURS = {"model", "digest", "engine", "incomplete", "regenerates", "parent", "import", "ended_line"}
_NAME = re.compile(rb'"(?:id|turn_id|session_id)": ?"([^"\\]+)"')
_HEAD = re.compile(rb'\{("id": "[^"\\]+", "session_id"|"event": "[^"\\]+", "turn_id"): "[^"\\]+",')
_TURN_HEAD = re.compile(rb'\{"id": "[^"\\]+", "session_id": "[^"\\]+", "timestamp": "[^"\\]*", "user_message": "')
_EVENT_HEAD = re.compile(rb'\{"event": "(?:rating|edit|exclude|delete)", "turn_id": "')
_ID_HEAD = re.compile(rb'\{"id": "[0-9a-f]{0,32}')
_WHOLE_ID_HEAD = len('{"id": "') + 32
_AFTER_ID = b'", "session_id": "'
_HALF = re.compile("[\ud800-\udfff]")  # unpaired surrogates: text that no encoding can write


def encode(record: Mapping[str, object]) -> bytes:
    """Return the line of a turn or an event, with its checksum and without a line end.

    Raises DataError for a value that JSON cannot represent.
    """
    body = _dump(record)
    return b'%s, "%s": "%08x"}' % (body[:-1], _CHECKSUM.encode(), zlib.crc32(body))


def decode(line: bytes) -> Turn | dict[str, object]:
    """Return the record on a line: a turn, or an event as a dict.

    Raises ValueError if the line is neither, or does not match its checksum.
    """
    text = _verified(_bare(line))
    try:
        record = json.loads(text) if b'"event"' in text else None  # within a message, the quotes would be escaped
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(record, dict) or "event" not in record:
        return Turn.model_validate_json(text)
    if not _is_event(record):
        raise ValueError("not an event")
    return record


def is_ours(line: bytes) -> bool:
    """Return whether a line is a record of the log, or the beginning of one whose writer was killed."""
    line = _bare(line)
    if _TURN_HEAD.match(line) or _EVENT_HEAD.match(line) or _is_torn_head(line):
        return True
    try:
        record = decode(line)
    except ValueError:
        return False
    return isinstance(record, Turn) or record["event"] in EVENTS


def texts_of(record: Turn | dict[str, object]) -> Iterator[str]:
    """Yield every text in a turn or an event that a person or a model may have written.

    Metadata that byoai itself writes, such as the name of the model, is left out.
    """
    if isinstance(record, Turn):
        told = [value for key, value in record.metadata.items() if key not in _OURS]
        return chain((record.user_message, record.bot_response), texts_in(told) if told else ())
    return texts_in([record.get("bot_response"), record.get("reason")])


def apply(turn: Turn, event: dict[str, Any]) -> Turn:
    """Return `turn` as it is after an event of one of the kinds in EVENTS."""
    answer, facts = turn.bot_response, dict(turn.metadata)
    match event["event"]:
        case "rating":
            if event.get("by", OWNER) == OWNER:
                facts |= {"rating": event["rating"], "rating_reason": event.get("reason")}
        case "exclude":
            # including a turn that is not excluded means: learn it even if it conflicts with another one
            wanted = not event["excluded"] and not facts.get("excluded")
            facts |= {"excluded": event["excluded"], "included": wanted}
        case "edit":
            facts.setdefault("original_response", answer)
            answer = split_thoughts(event["bot_response"]).answer
            # all three refer to the replaced answer
            facts |= {"rating": None, "rating_reason": None, "incomplete": None}
    for key in ("rating", "rating_reason", "excluded", "included", "incomplete"):
        if not facts.get(key):
            facts.pop(key, None)
    return turn.model_copy(update={"bot_response": answer, "metadata": facts})


def named_in(line: bytes) -> set[str]:
    """Return the ids of turns and sessions that a damaged line contains."""
    return {id.decode("utf-8", "replace") for id in _NAME.findall(line)}


def tells_whose(line: bytes) -> bool:
    """Return whether a damaged line still shows which turn it belongs to: the ids at its beginning are intact."""
    return bool(_HEAD.match(line))


def _bare(line: bytes) -> bytes:
    return line.removeprefix(codecs.BOM_UTF8).strip(_SPACE)


def _verified(text: bytes) -> bytes:
    """Return the JSON object of a line, after checking it against its checksum if it has one.

    Raises ValueError if the checksum does not match.
    """
    seal = _SEAL.fullmatch(text[-_SEAL_LENGTH:])
    if seal and zlib.crc32(b"}", zlib.crc32(memoryview(text)[:-_SEAL_LENGTH])) == int(seal[1], 16):
        return text
    if b'"%s"' % _CHECKSUM.encode() not in text:
        return text
    try:
        record = json.loads(text)  # the same object may be written with other white space
        if not isinstance(record, dict) or _CHECKSUM not in record:
            return text
        claimed, body = record.pop(_CHECKSUM), _dump(record)
    except (DataError, RecursionError) as error:
        raise ValueError("not a record") from error
    if claimed != f"{zlib.crc32(body):08x}":
        raise ValueError("the line was altered after it was written")
    return body


def _dump(record: Mapping[str, object]) -> bytes:
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"cannot log a value that JSON cannot store ({error}): use texts, finite numbers, true, false, null, lists "
            "and dictionaries"
        ) from error
    try:
        return text.encode()
    except UnicodeEncodeError:
        return str(whole_characters(text)).encode()


def _is_torn_head(line: bytes) -> bool:
    """Return whether a line is a turn whose writer was killed while it wrote the ids.

    Other records may have been appended to the same line since.
    """
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
