"""Read SillyTavern's chats: JSON Lines. The first line describes the chat, and each other line is a message."""

import re
from collections.abc import Iterator
from datetime import datetime

from fine_tuning.data_collection.importers.chats import Chat, Fault, Role, Said, has, iso, moment, object_in, text_of
from fine_tuning.data_collection.importers.shape import UNREADABLE, Importer, Source, spoilt
from fine_tuning.json_values import JsonObject

_HUMANIZED = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2}) ?@ ?(\d{1,2})h ?(\d{1,2})m ?(\d{1,2})s(?: ?(\d{1,3})ms)?")
_LONGEST = 2_000  # messages of one chat


def _fits(record: object) -> bool:
    return has(record, "mes", "is_user") or has(record, "user_name", "character_name")


def _read(source: Source) -> Iterator[Chat | Fault]:
    id, now, place = "", list[Said](), ""
    for record in source.records():
        if isinstance(record, Fault):
            yield record
            continue
        try:
            if "mes" not in record.value and has(record.value, "user_name"):
                id = f"{record.value.get('character_name')} {record.value.get('create_date')}"
                continue
            said = _said(record.value)
        except UNREADABLE as error:
            yield spoilt(error, record.place, "a message", record.value)
            continue
        if said and len(now) >= _LONGEST and said.role == "user":
            yield Chat(now, id, place=place)
            now = []
        if said:
            place = place if now else record.place
            now.append(said)
    if now:
        yield Chat(now, id, place=place)


def _said(message: JsonObject) -> Said | None:
    extra = object_in(message, "extra")
    if message.get("is_system"):
        return None  # a note, or a message that was hidden from the model
    role: Role = "user" if message["is_user"] else "assistant"
    parts = [{key: extra[key]} for key in ("image", "file", "files", "tool_invocations") if extra.get(key)]
    model = text_of(extra.get("model"), "a model")
    return Said(
        role,
        text_of(message["mes"], "mes"),
        _time(message.get("send_date")),
        text_of(extra.get("reasoning"), "reasoning"),
        model,
        parts,
    )


def _time(value: object) -> str:
    if isinstance(value, str) and (found := _HUMANIZED.fullmatch(value.strip())):
        *parts, millis = (int(part or 0) for part in found.groups())
        try:
            return iso(datetime(parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], millis * 1000))
        except ValueError:
            return ""
    return moment(value, "%B %d, %Y %I:%M%p", "%B %d, %Y %I:%M %p")


SILLYTAVERN = Importer("SillyTavern chat", _fits, _read, frozenset({"lines"}))
