"""Read chats of Facebook Messenger and Instagram: `message_1.json` of Meta's download, newest first.

Meta writes the bytes of UTF-8 as if each were a character of Latin-1. Chats that were encrypted end
to end come in another download, with `senderName` and correct characters.
"""

import re
from collections.abc import Iterator

from fine_tuning.data_collection.importers.chats import Chat, Fault, has, moment, text_of
from fine_tuning.data_collection.importers.people import Line, conversations
from fine_tuning.data_collection.importers.records import Record, within
from fine_tuning.data_collection.importers.shape import UNREADABLE, Importer, Source, spoilt
from fine_tuning.json_values import JsonObject

_NAMES = ("sender_name", "senderName")
_TIMES = ("timestamp_ms", "timestamp")
# a character of several bytes in UTF-8, with each byte as a character of Latin-1
_CHARACTER = re.compile(r"[Â-ß][\x80-\xbf]|[à-ï][\x80-\xbf]{2}|[ð-ô][\x80-\xbf]{3}")
_MEDIA = ("photos", "videos", "audio_files", "files", "gifs", "sticker", "share", "media")


def _fits(record: object) -> bool:
    messages = record.get("messages") if isinstance(record, dict) else None
    return isinstance(messages, list) and any(
        has(each, name, time) for each in messages[:3] for name in _NAMES for time in _TIMES
    )


def _read(source: Source) -> Iterator[Chat | Fault]:
    lines: list[Line] = []
    for record in within(source.member, "messages", source.read):
        if isinstance(record, Fault):
            yield record
            continue
        try:
            lines.append(_line(record))
        except UNREADABLE as error:
            yield spoilt(error, record.place, "a message", record.value)
    lines.reverse()
    lines.sort(key=lambda line: line.time)
    yield from conversations(lines, source.me, source.member.name, source.member.folder or source.member.name)


def _line(record: Record) -> Line:
    message: JsonObject = record.value
    name = next((message[key] for key in _NAMES if key in message), None)
    time = next((message[key] for key in _TIMES if key in message), None)
    text = message.get("content") if "content" in message else message.get("text")
    parts = [{key: message[key]} for key in _MEDIA if message.get(key)]
    shown = "" if message.get("is_unsent") or message.get("isUnsent") else _decoded(text_of(text, "content"))
    return Line(_decoded(text_of(name, "a name")), shown, moment(time), parts, place=record.place)


def _decoded(text: str) -> str:
    """Return a text with Meta's wrong encoding repaired ("Ã¼" becomes "ü"); any other text unchanged.

    Of a text that is cut within a character, the whole characters are repaired.
    """
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeEncodeError:
        return text
    except UnicodeDecodeError:
        return _CHARACTER.sub(lambda found: found[0].encode("latin-1").decode("utf-8", "replace"), text)


MESSENGER = Importer("Messenger or Instagram chat (message_1.json)", _fits, _read, frozenset({"object"}))
