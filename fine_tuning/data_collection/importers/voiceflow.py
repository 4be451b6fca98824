"""Read transcripts of Voiceflow: {"transcript": {"logs": […]}}, or the turns that its former API returns.

What the visitor does is an "action" (formerly a "request"), what the agent says a "trace" of the type
"text" or "speak". Other traces, such as buttons and the path through the flow, are left out.
"""

from collections.abc import Iterable, Iterator

from fine_tuning.data_collection.importers.chats import Chat, Fault, Said, has, list_in, moment, object_in, text_of
from fine_tuning.data_collection.importers.shape import UNREADABLE, Importer, Source, each, spoilt
from fine_tuning.json_values import JsonObject, JsonValue

_ASKS = ("action", "request")
_SAYS = ("text", "speak")


def _log_of(record: object) -> JsonObject | None:
    """Return the object with the "logs" of a transcript; None if there is none."""
    if isinstance(record, dict) and isinstance(record.get("transcript"), dict):
        record = record["transcript"]
    return record if has(record, "logs") and isinstance(record["logs"], list) else None


def _fits(record: object) -> bool:
    log = _log_of(record)
    return log is not None and any(
        has(entry, "type", "data") and entry["type"] in ("action", "trace") for entry in list_in(log, "logs")
    )


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    log = _log_of(record) or {}
    yield Chat([*_said(list_in(log, "logs"))], text_of(log.get("sessionID") or log.get("id"), "an id"))


def _said(entries: Iterable[JsonValue]) -> Iterator[Said]:
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        inner = object_in(entry, "data" if "data" in entry else "payload")
        payload, time = inner.get("payload"), moment(entry.get("createdAt") or entry.get("startTime"))
        if entry.get("type") in _ASKS:
            asked = payload
            if isinstance(payload, dict):
                asked = next((payload[key] for key in ("query", "label") if payload.get(key)), "")
            if isinstance(asked, str) and asked.strip():
                yield Said("user", asked, time)
        elif inner.get("type") in _SAYS and isinstance(payload, dict):
            yield Said("assistant", text_of(payload.get("message"), "a message"), time)


def _fits_turn(record: object) -> bool:
    return has(record, "turnID", "type", "payload", "format") and isinstance(record["payload"], dict)


def _read_turns(source: Source) -> Iterator[Chat | Fault]:
    """Yield the one conversation of a file whose records are its turns, as its former API returns them."""
    said: list[Said] = []
    for record in source.records():
        if isinstance(record, Fault):
            yield record
            continue
        try:
            said += _said([record.value])
        except UNREADABLE as error:
            yield spoilt(error, record.place, "a turn of a visitor or an agent", record.value)
    yield Chat(said)


VOICEFLOW = Importer("Voiceflow transcript", _fits, each(_convert, "logs of actions and traces"))
VOICEFLOW_TURNS = Importer("Voiceflow transcript (its turns)", _fits_turn, _read_turns)
