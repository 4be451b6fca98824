"""Read chats among people from JSON or tables: each record is a message with a sender, a text and a time.

Exports of Matrix, Mattermost, Rocket.Chat, Google Chat, Microsoft Teams, Skype, Zulip, LinkedIn,
iMazing and KakaoTalk have such records. `_NAMES`, `_TEXTS` and `_TIMES` list the keys that occur.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import Any

from fine_tuning.data_collection.importers.chats import Chat, Fault, moment, object_in, text_of
from fine_tuning.data_collection.importers.html_text import text_of_html
from fine_tuning.data_collection.importers.people import Line, conversations_in
from fine_tuning.data_collection.importers.records import Record
from fine_tuning.data_collection.importers.shape import UNREADABLE, Importer, Source, spoilt
from fine_tuning.json_values import JsonObject

# in lower case and without "_", "-" and spaces
_NAMES = (
    *("sendername", "senderfullname", "imdisplayname", "displayname", "author", "sender", "from", "user", "username"),
    *("creator", "u", "nickname", "speaker", "speakername", "commenter", "name", "senderid", "发送人", "发送者"),
)
_TEXTS = ("text", "content", "message", "msg", "body", "strcontent", "messagetext", "sentence", "内容")
_TIMES = (
    *("timestamp", "ts", "date", "time", "datetime", "createdat", "createat", "createddate", "createddatetime"),
    *("originalarrivaltime", "originserverts", "sentat", "messagedate", "strtime", "created", "createdutc"),
    *("creationdate", "postedat", "时间"),
)
_KNOWN_AS = ("senderemail", "senderid", "sender", "from", "nickname", "remark", "username", "id")
_CHATS = (
    *("conversationid", "roomid", "rid", "channel", "channelid", "chatid", "chatsession", "topicid", "talkerid"),
    *("streamid",),
)
_NOTES = frozenset(("systemmessage", "m.room.member", "m.reaction", "notice", "system", "event"))
# Mattermost: {"type": "post", "post": {"user": ..., "message": ...}}; X: {"messageCreate": {"senderId": ...}}
_WITHIN = ("post", "message", "msg", "messageCreate")
_SENDERS = {"user", "sender", "senderId"}
_LISTS = ("MessageList", "messages", "value", "replies", "comments")
_QUOTED = re.compile(r"\A> <@[^>\n]+>.*\n(?:>.*\n)*\n", re.MULTILINE)  # Matrix: the message that is replied to
# WeChatMsg, Threema, and others: whether the owner of the account sent a message
_MINE = ("issender", "isoutbox", "ismine")
_ME, _OTHER = "Me", "Other"
_NO_SIGNS = dict.fromkeys(map(ord, "_- "))
_FEW = 4  # keys of a record that may have no time
_DATES = (
    *("%A, %B %d, %Y at %I:%M:%S %p %Z", "%Y-%m-%d %H:%M:%S %Z", "%Y-%m-%d %H:%M:%S %z"),
    *("%a %b %d %H:%M:%S %z %Y", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M"),
)
_MONTH_FIRST = ("%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p")
_DAY_FIRST = ("%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %I:%M:%S %p")
_CLOCK = re.compile(r"\d{1,2}:\d\d(?::\d\d)?(?: ?[AaPp][Mm])?")


def lowered(record: object) -> dict[str, Any]:
    """Return a record with its keys in lower case and without "_", "-" and spaces; {} if it is not an object."""
    if not isinstance(record, dict):
        return {}
    for key in _WITHIN:
        if isinstance(inner := record.get(key), dict) and inner.keys() & _SENDERS:
            record = inner
    return {key_of(str(key)): value for key, value in record.items()}


@lru_cache(maxsize=1000)
def key_of(name: str) -> str:
    """Return a name in lower case and without "_", "-" and spaces."""
    return name.lower().translate(_NO_SIGNS)


def _sender(found: Mapping[str, Any]) -> str:
    """Return the name of a message's sender; "Me" if none is named and the message is outgoing, as in iMazing."""
    name, is_mine = _named(first_in(found, _NAMES)), _is_mine(found)
    if is_mine is not None:
        return _ME if is_mine else name or _OTHER
    was_sent = str(found.get("type")).lower() in ("outgoing", "sent") or bool(found.get("to"))  # iMazing; Snapchat
    return name or (_ME if was_sent else "")


def _is_mine(found: Mapping[str, Any]) -> bool | None:
    """Return whether a message says that the owner of the account sent it; None if it does not tell."""
    told = str(next((found[key] for key in _MINE if key in found), "")).lower()
    return told in ("true", "1") if told in ("true", "1", "false", "0") else None


def first_in(record: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((record[key] for key in keys if record.get(key) not in (None, "", [], {})), None)


def _is_message(record: object) -> bool:
    found = lowered(record)
    if not _sender(found) or not any(key in found for key in _TEXTS):
        return False
    if time_in(found) or time_in(found, True):
        return True
    is_short = len(found) <= _FEW or "starttime" in found  # Fireflies: the time since the meeting began
    return is_short and any(key in found for key in ("sender", "speaker", "speakername"))


def has_text(record: object) -> bool:
    """Return whether a record has a field for the text of a message."""
    return any(key in lowered(record) for key in _TEXTS)


def _lists_in(record: object) -> list[list[Any]]:
    """Return the lists of messages in a record, such as the one of a Skype conversation."""
    found = [record[key] for key in _LISTS if isinstance(record.get(key), list)] if isinstance(record, dict) else []
    return [each for each in found if any(map(_is_message, each[:20]))]


def _fits(record: object) -> bool:
    return _is_message(record) or bool(_lists_in(record))


def _read(source: Source) -> Iterator[Chat | Fault]:
    lines: list[tuple[str, Line]] = []
    places: dict[str, int] = {}  # in `lines`, of the messages that have an id by which Matrix names them in an edit
    day_first = _is_day_first([*source.found.sample, *(each for some in source.found.lists.values() for each in some)])
    for record in source.records():
        if isinstance(record, Fault):
            yield record
            continue
        for message, chat in _messages(record):
            try:
                if edit := _edit(message.value):
                    if (at := places.get(edit[0])) is not None:
                        lines[at] = lines[at][0], replace(lines[at][1], text=edit[1])
                    continue
                if isinstance(message.value, dict) and "event_id" in message.value:
                    places[str(message.value["event_id"])] = len(lines)
                lines += _lines(message, day_first, chat)
            except UNREADABLE as error:
                yield spoilt(error, record.place, "a message with a sender, a text and a time", message.value)
    if len(lines) > 1 and lines[0][1].time > lines[-1][1].time:  # the newest first
        lines.reverse()
    begun: dict[str, str] = {}
    for chat, line in lines:
        begun[chat] = min(begun.get(chat, line.time), line.time)
    lines.sort(key=lambda line: (begun[line[0]], line[0], line[1].time))
    chats = [(chat, [line for _, line in some]) for chat, some in groupby(lines, key=lambda line: line[0])]
    tells = bool(source.found.sample) and all(_is_mine(lowered(each)) is not None for each in source.found.sample)
    yield from conversations_in(chats, source.me or (_ME if tells else ""), source.member.name)


def _edit(message: object) -> tuple[str, str] | None:
    """Return (id of the edited message, its new text) for an edit in Matrix; None for any other record."""
    content = message.get("content") if isinstance(message, dict) else None
    edited = content.get("m.new_content") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(edited, dict):
        return None
    return str(object_in(content, "m.relates_to").get("event_id")), text_of(edited.get("body"), "a text")


def _chat_of(record: JsonObject, messages: Sequence[object]) -> str:
    """Return an id for a list of messages in a record: the record's, or one made from the first message."""
    if id := first_in(record, ("id", "_id", "displayName", "name")):
        return str(id)
    first = lowered(messages[0])
    return f"{_sender(first)} {time_in(first)} {str(first_in(first, _TEXTS))[:200]}"


def _messages(record: Record) -> Iterator[tuple[Record, str]]:
    """Yield (message, id of its chat) for each message in the record's lists.

    A record without such lists is yielded as a message itself, with the id "".
    """
    several = [] if _is_message(record.value) else _lists_in(record.value)
    if not several:
        yield record, ""
    for messages in several:
        chat = _chat_of(record.value, messages)
        for each in messages:
            yield Record(record.place, each), chat


def _lines(record: Record, day_first: bool, within: str = "") -> list[tuple[str, Line]]:
    """Return (id of the chat, line) for a message and each of its replies; [] for a notice.

    `within` is the id to use for a message that names no chat.
    """
    found = lowered(record.value)
    name = _sender(found)
    text = first_in(found, _TEXTS)
    if not name or str(found.get("messagetype") or found.get("type") or "").lower().replace("_", "") in _NOTES:
        return []
    while isinstance(text, dict):
        text = first_in(lowered(text), ("body", "content", "text"))
    shown = _QUOTED.sub("", text_of(text, "a text"))
    if shown.lstrip().startswith("<") or found.get("messagetype") == "RichText":
        shown = text_of_html(shown)
    chat = str(first_in(found, _CHATS) or within)
    known = [str(found[key]) for key in _KNOWN_AS if isinstance(found.get(key), str)]
    replies = found.get("replies")
    more = (
        [line for each in replies for line in _lines(Record(record.place, each), day_first)]
        if isinstance(replies, list)
        else []
    )
    return [
        (chat, Line(name, shown, time_in(found, day_first), known_as=known, place=record.place)),
        *((chat, line) for _, line in more),
    ]


def _named(sender: object) -> str:
    """Return the name of a sender, which is a text, or an object that contains the name at any depth."""
    if isinstance(sender, dict):
        found = lowered(sender)
        return _named(first_in(found, ("displayname", "name", "username", "user", "email", "id")))
    return sender.strip() if isinstance(sender, str) else ""


def time_in(found: Mapping[str, Any], day_first: bool = False) -> str:
    """Return the time of a message, as `moment` returns it. `day_first`: whether "3/4/2024" is in April."""
    time = first_in(found, _TIMES)
    while isinstance(time, dict) and len(time) == 1:  # MongoDB: {"$date": "2024-01-15T10:00:00Z"}
        time = next(iter(time.values()))
    if isinstance(time, str):
        clock = found.get("time")
        if time is found.get("date") and isinstance(clock, str) and _CLOCK.fullmatch(clock.strip()):  # two columns
            time = f"{time} {clock.strip()}"
        time = time.replace("\u202f", " ")
    return moment(time) or moment(time, *_DATES, *(_DAY_FIRST if day_first else _MONTH_FIRST))


def _is_day_first(sample: Sequence[object]) -> bool:
    """Return whether dates begin with the day: one of the first records has a date such as "15/1/2024"."""
    founds = [lowered(record) for record in sample]
    return any(time_in(found, True) and not time_in(found) for found in founds)


PEOPLE = Importer("messages of people, with a sender, a text and a time", _fits, _read)
