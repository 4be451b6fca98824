"""Read SMS and MMS from an Android phone: the XML of SMS Backup & Restore, the JSON of SMS Import / Export and QKSMS.

A message names the other person, whoever wrote it, and tells by its type who did. The phone's owner is
called "Me". Drafts, and messages that could not be sent, are left out.
"""

from collections.abc import Iterator

from fine_tuning.data_collection.importers.chats import Chat, Fault, has, moment, object_in, text_of
from fine_tuning.data_collection.importers.people import Line, conversations_in
from fine_tuning.data_collection.importers.records import Record
from fine_tuning.data_collection.importers.shape import RECORDS, UNREADABLE, Importer, Source, spoilt
from fine_tuning.json_values import JsonObject

_SENT = {"1": False, "2": True}
_NO_NAME = ("", "null", "(Unknown)")


def _fits(record: object) -> bool:
    if not has(record, "address", "date") or not (has(record, "type", "body") or has(record, "msg_box")):
        return False
    return str(record.get("type") or record.get("msg_box")).isdecimal()


def _read(source: Source) -> Iterator[Chat | Fault]:
    chats: dict[str, list[Line]] = {}  # by phone number
    for record in source.records():
        if isinstance(record, Fault):
            yield record
            continue
        try:
            if line := _line(record):
                chats.setdefault(text_of(record.value["address"], "an address"), []).append(line)
        except UNREADABLE as error:
            yield spoilt(error, record.place, "an SMS with an address, a date and a body", record.value)
    for lines in chats.values():
        lines.sort(key=lambda line: line.time)
    yield from conversations_in(list(chats.items()), source.me or "Me", source.member.name)


def _line(record: Record) -> Line | None:
    sms: JsonObject = record.value
    is_sent = _SENT.get(text_of(sms.get("type") or sms.get("msg_box"), "a type"))
    if is_sent is None:
        return None
    name = text_of(sms.get("contact_name") or sms.get("__display_name"), "a name")
    address = text_of(sms["address"], "an address")
    text, parts = text_of(sms.get("body"), "a body"), list[object]()
    for part in _parts(sms):
        if part.get("ct") == "text/plain":
            text = "\n".join(filter(None, (text, text_of(part.get("text"), "a text"))))
        elif part.get("ct") != "application/smil":  # the order in which the others are shown
            parts.append({key: value for key, value in part.items() if key in ("ct", "name", "cl")})
    sender = "Me" if is_sent else address if name in _NO_NAME else name
    return Line(sender, text, moment(sms["date"]), parts, () if is_sent else (address,), record.place)


def _parts(mms: JsonObject) -> list[JsonObject]:
    found = object_in(mms, "parts").get("part") if isinstance(mms.get("parts"), dict) else None
    return [each for each in (found if isinstance(found, list) else [found]) if isinstance(each, dict)]


SMS = Importer("SMS of a phone (SMS Backup & Restore)", _fits, _read, RECORDS)
