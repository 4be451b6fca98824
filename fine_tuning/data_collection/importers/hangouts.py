"""Read Google Hangouts from Takeout: `Hangouts.json`, with the events of each conversation."""

from collections.abc import Iterator
from dataclasses import replace

from fine_tuning.data_collection.importers.chats import Chat, Fault, dicts, has, list_in, moment, object_in, text_of
from fine_tuning.data_collection.importers.people import Line, conversations_in
from fine_tuning.data_collection.importers.records import Record
from fine_tuning.data_collection.importers.shape import UNREADABLE, Importer, Source, spoilt
from fine_tuning.json_values import JsonObject, JsonValue


def _fits(record: object) -> bool:
    return has(record, "conversation", "events") and isinstance(record["events"], list)


def _read(source: Source) -> Iterator[Chat | Fault]:
    chats: list[tuple[str, list[Line]]] = []
    names: dict[str, str] = {}  # by id, from all conversations: one may leave out a name that another has
    for record in source.records():
        if isinstance(record, Fault):
            yield record
            continue
        try:
            conversation = object_in(record.value, "conversation")
            inner = object_in(conversation, "conversation") or conversation
            names |= {id: name for id, name in _named(inner) if name}
            id = object_in(conversation, "conversation_id") or object_in(inner, "id")
            chats.append((text_of(id.get("id"), "an id"), sorted(_lines(record), key=lambda line: line.time)))
        except UNREADABLE as error:
            yield spoilt(error, record.place, "a conversation with its events", record.value)
    chats = [
        (id, [replace(line, name=names.get(line.name, line.name), known_as=[line.name]) for line in lines])
        for id, lines in chats
    ]
    yield from conversations_in(chats, source.me, source.member.name)


def _named(conversation: JsonObject) -> Iterator[tuple[str, str]]:
    for each in dicts(list_in(conversation, "participant_data"), "participants"):
        yield _id(each.get("id")), text_of(each.get("fallback_name"), "a name")


def _lines(record: Record) -> Iterator[Line]:
    """Yield the messages of a conversation, with the id of the sender in place of the name."""
    for event in dicts(record.value["events"], "events"):
        if not event.get("chat_message"):  # a call, or that somebody joined
            continue
        content = object_in(object_in(event, "chat_message"), "message_content")
        text = "".join(
            "\n" if each.get("type") == "LINE_BREAK" else text_of(each.get("text"), "a text")
            for each in dicts(list_in(content, "segment"), "segments")
        )
        time, parts = moment(event.get("timestamp")), list_in(content, "attachment")
        yield Line(_id(event.get("sender_id")), text, time, parts, place=record.place)


def _id(person: JsonValue) -> str:
    return text_of(person.get("gaia_id") or person.get("chat_id"), "an id") if isinstance(person, dict) else ""


HANGOUTS = Importer("Google Hangouts from Takeout (Hangouts.json)", _fits, _read)
