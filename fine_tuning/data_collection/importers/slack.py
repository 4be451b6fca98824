"""Read Slack's export: a folder, or its ZIP archive, with a folder per channel and a file per day.

Each thread becomes a conversation of its own.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import partial

from fine_tuning.data_collection.importers.chats import Chat, Fault, dicts, has, moment, object_in, text_of
from fine_tuning.data_collection.importers.people import Line, conversations
from fine_tuning.data_collection.importers.records import Record
from fine_tuning.data_collection.importers.shape import UNREADABLE, Importer, Source, spoilt
from fine_tuning.json_values import JsonObject

_SPOKEN = (None, "", "thread_broadcast", "bot_message", "file_share", "me_message")
_LINK = re.compile(r"<([@#!]?)([^<>|]+)(?:\|([^<>]*))?>")
_MOST = 50_000  # messages of threads kept in memory until the channel ends


def _fits(record: object) -> bool:
    return (
        has(record, "type", "ts")
        and record["type"] == "message"
        and ("user" in record or "bot_id" in record or "text" in record)
    )


def _read(source: Source) -> Iterator[Chat | Fault]:
    names = _people(source)
    threads: dict[str, list[Line]] = {}
    channel = source.member.folder
    alone = not source.member.others("users.json")
    talk = partial(conversations, me=source.me, file=channel or source.member.name, chat=channel)
    yield from talk(_lines(source.records(), names, threads), apart=not alone and bool(source.me))
    for lines in threads.values():
        yield from talk(lines, apart=True, silence=timedelta.max)


def _people(source: Source) -> dict[str, list[str]]:
    """Return the names of each person in the export, by the person's id. The displayed name comes first."""
    listed = source.member.others("users.json")
    if not listed:
        return {}
    try:
        with listed.text() as text:
            people = dicts(json.load(text), "people")
        return {
            str(each.get("id")): [*_names(object_in(each, "profile")), str(each.get("name") or "")] for each in people
        }
    except UNREADABLE:
        return {}  # people are then named by their ids


def _names(profile: JsonObject) -> list[str]:
    return [str(profile.get(key)) for key in ("display_name", "real_name") if profile.get(key)]


def _lines(
    records: Iterable[Record | Fault], people: dict[str, list[str]], threads: dict[str, list[Line]]
) -> Iterator[Line | Fault]:
    """Yield the messages that belong to no thread; add those of threads to `threads`, by the thread's id."""
    waiting = 0
    for record in records:
        if isinstance(record, Fault):
            yield record
            continue
        try:
            line = _line(record.value, people, record.place)
            thread = text_of(record.value.get("thread_ts"), "thread_ts")
        except UNREADABLE as error:
            yield spoilt(error, record.place, "a message", record.value)
            continue
        if line and thread and waiting < _MOST:
            threads.setdefault(thread, []).append(line)
            waiting += 1
        elif line:
            yield line


def _line(message: JsonObject, people: dict[str, list[str]], place: str) -> Line | None:
    if message.get("type") != "message" or message.get("subtype") not in _SPOKEN:
        return None  # a notice that somebody joined, set the topic, or pinned a message
    id = text_of(message.get("user") or message.get("bot_id"), "a user")
    names = [
        name
        for name in (
            *people.get(id, ()),
            *_names(object_in(message, "user_profile")),
            text_of(message.get("username"), "a name"),
        )
        if name
    ]
    parts = dicts(message.get("files") or [], "files")
    text = _plain(text_of(message.get("text"), "text"), people)
    return Line(
        names[0] if names else id, text, moment(float(text_of(message["ts"], "ts"))), parts, [*names[1:], id], place
    )


def _plain(text: str, people: dict[str, list[str]]) -> str:
    """Return a text in Slack's markup as people see it: with names, links and special characters resolved."""

    def seen(link: re.Match[str]) -> str:
        sign, target, label = link.groups()
        if sign == "@":
            return f"@{label or next(iter(people.get(target, ())), target)}"
        return f"{sign.replace('!', '@')}{label or target}"

    return html.unescape(_LINK.sub(seen, text))


SLACK = Importer("Slack export", _fits, _read, frozenset({"array", "lines"}), joins="folder")
