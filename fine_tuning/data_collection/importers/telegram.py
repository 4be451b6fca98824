"""Read Telegram Desktop's JSON export: one chat (`messages` at the top), or all chats of an account (`chats.list`)."""

from collections import Counter
from collections.abc import Iterable, Iterator

from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Fault, dicts, has, kind, moment, text_of
from fine_tuning.data_collection.importers.json_stream import BadJson, JsonReader, Path, events
from fine_tuning.data_collection.importers.people import Line, conversations, listed
from fine_tuning.data_collection.importers.shape import UNREADABLE, Importer, Source, spoilt
from fine_tuning.errors import DataError
from fine_tuning.json_values import JsonValue

_MEDIA = (
    "photo",
    "file",
    "media_type",
    "sticker_emoji",
    "location_information",
    "contact_information",
    "poll",
    "game_title",
)


def _fits(record: object) -> bool:
    messages = record.get("messages") if isinstance(record, dict) else None
    written = isinstance(messages, list) and any(_is_message(each) for each in messages)
    return written or (has(record, "chats") and has(record["chats"], "list"))


def _is_message(each: object) -> bool:
    return has(each, "type", "text") and (has(each, "id", "date") or has(each, "from", "date_unixtime"))


def _read(source: Source) -> Iterator[Chat | Fault]:
    with source.member.text(source.read) as text:
        names = Counter[str]()
        for several, chat, lines in _chats(_events(JsonReader(text))):
            if several and not source.me:
                names.update(line.name for line in lines if isinstance(line, Line))
                continue
            yield from conversations(lines, source.me, source.member.name, chat, apart=several)
        if names:
            people = (
                f"{source.member.name} contains chats between people: name the person whose messages are used as the "
                "answers with --me NAME"
            )
            raise DataError(f"{people}. {listed(names)}")


def _events(reader: JsonReader) -> Iterator[tuple[Path, JsonValue | Fault]]:
    try:
        yield from events(reader)
    except BadJson as error:
        place, _, reason = str(error).partition(": ")
        yield ("messages", "*"), Fault(place, f"expected JSON: {reason}")


def _chats(told: Iterable[tuple[Path, JsonValue | Fault]]) -> Iterator[tuple[bool, str, Iterator[Line | Fault]]]:
    """Yield (whether there are several chats, name and id of the chat, its messages) for each chat.

    The messages must be read before the next chat is requested.
    """
    stream = iter(told)
    number, ahead = 0, next(stream, None)

    def lines() -> Iterator[Line | Fault]:
        nonlocal ahead, number
        while ahead and not (ahead[0][-1] == "{" and len(ahead[0]) > 1):
            path, value = ahead
            ahead = next(stream, None)
            if path[-2:] == ("messages", "*"):
                number += 1
                yield from [value] if isinstance(value, Fault) else _line(value, f"message {number}")

    facts: dict[str, object] = {}
    while ahead:
        path, value = ahead
        if path[-2:] == ("messages", "*"):
            yield path[0] != "messages", f"{facts.get('name')} {facts.get('id')}", lines()
            for _ in lines():
                pass  # skip what the caller did not read
            facts = {}
            continue
        if path[-1] in ("name", "id"):
            facts[path[-1]] = value
        ahead = next(stream, None)


def _line(message: JsonValue, place: str) -> Iterator[Line | Fault]:
    try:
        if not isinstance(message, dict):
            raise BadRecord(f"a message as an object, found {kind(message)}")
        if message.get("type") != "message":
            return  # a notice that somebody joined, called, or pinned a message
        text = _text(message.get("text"))
        parts: list[object] = [{key: message[key] for key in _MEDIA if key in message}]
        if message.get("forwarded_from"):  # written by somebody else
            parts, text = [{"forwarded_from": message["forwarded_from"], "text": text}], ""
        time = moment(message.get("date_unixtime")) or moment(message.get("date"))
        name, id = text_of(message.get("from"), "a name"), text_of(message.get("from_id"), "an id")
        yield Line(name or "Deleted Account", text, time, [part for part in parts if part], [id], place)
    except UNREADABLE as error:
        yield spoilt(error, place, "a message", message)


def _text(text: object) -> str:
    if isinstance(text, list):
        return "".join(
            each if isinstance(each, str) else text_of(dicts([each], "a piece of text")[0].get("text"), "text")
            for each in text
        )
    return text_of(text, "text")


TELEGRAM = Importer("Telegram export (result.json)", _fits, _read, frozenset({"object"}))
