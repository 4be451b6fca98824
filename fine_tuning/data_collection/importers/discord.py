"""Read Discord chats in the formats of DiscordChatExporter: JSON, CSV or plain text.

Discord's own export is not read, since it contains only the user's own messages.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from fine_tuning.data_collection.importers.chats import Chat, Fault, dicts, has, moment, text_of
from fine_tuning.data_collection.importers.people import Line, conversations
from fine_tuning.data_collection.importers.records import Record, numbered_lines, within
from fine_tuning.data_collection.importers.shape import UNREADABLE, Importer, Source, spoilt
from fine_tuning.json_values import JsonObject

_SPOKEN = ("Default", "Reply", "0", "19")
_HEAD = re.compile(r"\[(?P<time>[^\]\n]{6,40})\] (?P<name>[^\n]{1,80}?)(?: \(pinned\))?")
_BLOCK = re.compile(r"\{(?:Attachments|Embed|Stickers|Reactions|Inline Emoji)\}")
_TIMES = (
    "%m/%d/%Y %I:%M %p",
    "%d-%b-%y %I:%M %p",
    "%m/%d/%Y %H:%M",
    "%d.%m.%Y %H:%M",
    "%d/%m/%Y %H:%M",
    "%Y-%m-%d %H:%M",
)


def _fits(record: object) -> bool:
    return has(record, "guild", "channel", "messages") or has(record, "AuthorID", "Author", "Date", "Content")


def _read(source: Source) -> Iterator[Chat | Fault]:
    is_table = source.found.layout == "table"
    records = source.records() if is_table else within(source.member, "messages", source.read)
    yield from conversations(
        _lines(records, _row if is_table else _message), source.me, source.member.name, _channel(source)
    )


def _channel(source: Source) -> str:
    channel = source.found.sample[0].get("channel") if source.found.sample else None
    return str(channel.get("id", "")) if isinstance(channel, dict) else ""


def _lines(
    records: Iterable[Record | Fault], convert: Callable[[JsonObject, str], Iterator[Line]]
) -> Iterator[Line | Fault]:
    for record in records:
        if isinstance(record, Fault):
            yield record
            continue
        try:
            yield from convert(record.value, record.place)
        except UNREADABLE as error:
            yield spoilt(error, record.place, "a message", record.value)


def _message(message: JsonObject, place: str) -> Iterator[Line]:
    if str(message.get("type", "Default")) not in _SPOKEN:
        return  # a notice that somebody joined, pinned a message, or called
    author = dicts([message["author"]], "an author")[0]
    names = [text_of(author.get(key), "a name") for key in ("nickname", "name", "id")]
    parts = [*dicts(message.get("attachments") or [], "attachments"), *dicts(message.get("stickers") or [], "stickers")]
    yield Line(
        names[0] or names[1],
        text_of(message.get("content"), "content"),
        moment(message.get("timestamp")),
        parts,
        names[1:],
        place,
    )


def _row(row: JsonObject, place: str) -> Iterator[Line]:
    parts = [{"attachments": row["Attachments"]}] if row.get("Attachments") else []
    author, id, time, content = (text_of(row[key], key) for key in ("Author", "AuthorID", "Date", "Content"))
    yield Line(author.partition("#")[0], content, _time(time), parts, [id, author], place)


def _time(text: str) -> str:
    return moment(re.sub(r"(\.\d{6})\d+", r"\1", text), *_TIMES)


def _fits_text(lines: Sequence[str]) -> bool:
    return any(line.startswith("Guild: ") for line in lines[:5]) and any(
        line.startswith("Channel: ") for line in lines[:6]
    )


def _read_text(source: Source) -> Iterator[Chat | Fault]:
    with source.member.text(source.read) as text:
        yield from conversations(_written(numbered_lines(text)), source.me, source.member.name)


def _written(lines: Iterable[tuple[int, str]]) -> Iterator[Line]:
    now: Line | None = None
    told: list[str] = []
    kept: list[str] = []
    target = told
    for number, raw in lines:
        line = raw.rstrip("\r\n")
        head = _HEAD.fullmatch(line)
        if line.startswith("=====") or (head and _time(head["time"])):
            if now:
                yield Line(now.name, "\n".join(told).strip(), now.time, kept, place=now.place)
            now = Line(head["name"], "", _time(head["time"]), place=f"line {number}") if head else None
            told, kept = [], []
            target = told
        elif _BLOCK.fullmatch(line):
            target = kept
        elif now and len(target) < 10_000 and (line or target is told):
            target.append(line)


DISCORD = Importer("Discord chat (DiscordChatExporter's JSON or CSV)", _fits, _read, frozenset({"object", "table"}))
DISCORD_TEXT = Importer("Discord chat (DiscordChatExporter's text)", _fits_text, _read_text, frozenset({"text"}))
