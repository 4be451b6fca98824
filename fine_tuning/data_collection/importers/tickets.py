"""Read tickets and conversations of help desks as JSON: the messages of each, with signs of who wrote them.

Zendesk, Intercom, Freshdesk, Help Scout, HubSpot, Front, Gorgias, Drift, Chatwoot, LiveChat, tawk.to,
Amazon Connect, and the issues of Jira and GitHub have such records. The customer (or whoever opened the
issue) asks, and all others answer; an internal note is kept, but not learned.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any

from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Role, Said, text_of
from fine_tuning.data_collection.importers.html_text import text_of_html
from fine_tuning.data_collection.importers.people_records import first_in, lowered, time_in
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.data_collection.importers.sides import CONVERSATIONS, id_of, role_of_type, side_of, user_type
from fine_tuning.json_values import JsonObject

_LISTS = (
    *("comments", "conversation_parts", "conversations", "messages", "threadMessages", "threads", "notes", "events"),
    *("_results", "results", "data", "payload", "Transcript", "phrases"),
)
_HOLDERS = (
    "conversation_parts",
    "comments",
    "_embedded",
    "thread",
    "data",
    "ticket",
    "helpdesk_ticket",
    "conversation",
    "item",
    "fields",
    "comment",
)
_BODIES = ("bodytext", "strippedtext", "plainbody", "text", "content", "body", "htmlbody", "message", "msg", "payload")
_REQUESTERS = (
    *("requesterid", "customerid", "requester", "customer", "contactid", "submitterid", "reporter", "creator"),
)
_AUTHORS = ("author", "user")  # of an issue, which has a text of its own
_OPENINGS = ("descriptiontext", "description", "body")
_TITLES = ("title", "summary")
_PARTS = ("attachments", "files")
_HTML = re.compile(r"</?(?:p|div|br|ul|ol|li|span|a|b|strong|em|table|h\d)\b[^>]*>", re.IGNORECASE)
_DEEPEST, _DEEPEST_NODE = 2, 20

# (a message with its keys as `lowered` returns them, its side)
Told = tuple[dict[str, Any], Role]


def _fits(record: object) -> bool:
    if not isinstance(record, dict):
        return False
    told = _told(record)
    return bool(told) and (any(side == "user" for _, side in told) or bool(_opening(record, [])))


def _told(record: JsonObject, around: Mapping[str, Role] = MappingProxyType({}), depth: int = 0) -> list[Told]:
    """Return the messages of a record, or of an object within it, with their sides; [] if nothing tells the sides.

    `around` holds the roles of people, as `_people` returns them, that the objects around the record name.
    """
    inner = [each for key in _HOLDERS if isinstance(each := record.get(key), dict)] if depth < _DEEPEST else []
    people = {**around, **{id: role for each in (*inner, record) for id, role in _people(lowered(each)).items()}}
    for key in _LISTS:
        found = record.get(key)
        messages = [lowered(_bare(each)) for each in found if isinstance(each, dict)] if isinstance(found, list) else []
        messages = [each for each in messages if any(key in each for key in _BODIES)]
        user = user_type(messages)
        told = [(each, side) for each in messages if (side := side_of(each, people, user))]
        if told and 4 * len(told) >= 3 * len(messages):
            return told
    return next((told for each in inner if (told := _told(each, people, depth + 1))), [])


def _bare(message: JsonObject) -> JsonObject:
    """Return a message without the object around it: Freshdesk wrote {"helpdesk_note": {…}}."""
    inner = next(iter(message.values())) if len(message) == 1 else None
    return inner if isinstance(inner, dict) else message


def _people(record: Mapping[str, Any]) -> dict[str, Role]:
    """Return the roles of people by their ids: the requester asks; under "" the role of people who are not named."""
    found: dict[str, Role] = {}
    for key in ("users", "participants"):
        for person in record[key] if isinstance(record.get(key), list) else ():
            role = role_of_type(person.get("type") or person.get("role")) if isinstance(person, dict) else None
            found |= {str(person.get("id")): role} if role else {}
    id = id_of(first_in(record, (*_REQUESTERS, *_AUTHORS) if record.get("body") else _REQUESTERS))
    return {**found, str(id): "user", "": "assistant"} if id and not found else found


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    told = _told(record)
    if not told:
        raise BadRecord("a ticket with messages that say whether a customer or the company wrote them")
    times = [time_in(message) for message, _ in told]
    if all(times):
        told = [told[at] for at in sorted(range(len(told)), key=lambda at: times[at])]
    id = str(first_in(lowered(record), ("id", "displayid")) or "")
    told.sort(key=_conversation)  # a page of a list has the messages of several
    for conversation, some in groupby(told, key=_conversation):
        said = [_said(message, side) for message, side in some]
        yield Chat([*_opening(record, said), *said], conversation or id)


def _conversation(told: Told) -> str:
    return str(first_in(told[0], CONVERSATIONS) or "")


def _said(message: Mapping[str, Any], side: Role) -> Said:
    parts = [part for key in _PARTS if isinstance(message.get(key), list) for part in message[key]]
    is_note = message.get("private") is True or message.get("public") is False or message.get("internal") is True
    is_note = is_note or "note" in (message.get("type"), message.get("parttype"))
    return Said("tool" if is_note else side, _body(message), time_in(message), parts=parts)


def _body(message: Mapping[str, Any]) -> str:
    body = first_in(message, _BODIES)
    return _plain(_document(body) if isinstance(body, dict) else text_of(body, "a body"))


def _document(node: Any, depth: int = 0) -> str:
    """Return the text of a document in Atlassian's format, which Jira has instead of a text."""
    inner = node.get("content") if isinstance(node, dict) else None
    if not isinstance(inner, list) or depth > _DEEPEST_NODE:
        return text_of(node.get("text") if isinstance(node, dict) else node, "a text")
    joint = "" if node.get("type") in ("paragraph", "heading", "codeBlock") else "\n\n"
    return joint.join(_document(each, depth + 1) for each in inner)


def _plain(text: str) -> str:
    return text_of_html(text) if _HTML.search(text) else text


def _opening(record: JsonObject, said: Sequence[Said]) -> list[Said]:
    """Return the message with which a ticket was opened, where it is not in the list of its messages."""
    for holder in (record, *(record[key] for key in _HOLDERS if isinstance(record.get(key), dict))):
        found = lowered(holder)
        source = lowered(found.get("source") or found.get("conversationmessage"))
        if any(key in source for key in _BODIES):  # Intercom
            return [_said(source, side_of(source, {}) or "user")]
        if (opening := first_in(found, _OPENINGS)) and isinstance(opening, str | dict):
            text = _body({"body": opening})
            title = first_in(found, _TITLES)
            text = f"{title}\n\n{text}" if isinstance(title, str) else text
            is_told = any(" ".join(text.split()) == " ".join(each.text.split()) for each in said)
            return [] if is_told else [Said("user", text, time_in(found))]
    return []


TICKETS = Importer("tickets of a help desk", _fits, each(_convert, "a ticket with its messages"))
