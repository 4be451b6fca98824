"""Read messages, one a record and in any order, that name their conversation or the message they reply to.

Tables of customer support have such rows (`in_response_to_tweet_id`, `inbound`), and so have ConvoKit's
utterances (`reply-to`, `speaker`), the comments of Reddit and Hacker News, and mails. Where no column
tells the sides, whoever begins a conversation asks and all others answer; the option `me` names the
speaker whose messages are the answers.

The records are kept in a temporary database, since a reply may stand far from what it replies to.
"""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import groupby
from typing import NamedTuple

from fine_tuning.data_collection.importers.chats import Chat, Fault, Role, Said, text_of
from fine_tuning.data_collection.importers.html_text import text_of_html
from fine_tuning.data_collection.importers.message_forms import is_message
from fine_tuning.data_collection.importers.people_records import first_in, lowered, time_in
from fine_tuning.data_collection.importers.records import Record
from fine_tuning.data_collection.importers.shape import UNREADABLE, Importer, Source, spoilt
from fine_tuning.data_collection.importers.sides import CONVERSATIONS, side_of

_IDS = ("tweetid", "messageid", "commentid", "postid", "utteranceid", "id")
_PARENTS = (
    *("inresponsetotweetid", "inresponseto", "inreplyto", "inreplytoid", "inreplytostatusid", "replyto", "replytoid"),
    *("replytomessageid", "parentid", "parentmessageid", "parent"),
)
_REPLIES = ("responsetweetid", "kids", "replies")  # ids of the messages that reply to this one
_SPEAKERS = ("authorid", "authorname", "author", "speaker", "senderid", "sender", "from", "user", "username", "by")
_TEXTS = ("text", "body", "content", "message", "utterance", "selftext", "title")
_PREFIX = re.compile(r"t\d_(?=\w)")  # Reddit: "t1_abc" replies to the comment "abc"
_HTML = re.compile(r"<p>|&#?\w+;")  # Hacker News
_LONGEST = 400  # messages of one conversation
_MOST = 10_000  # paths through the replies to one message
_SCHEMA = """
CREATE TABLE message (number INTEGER PRIMARY KEY, id TEXT UNIQUE, parent TEXT, conversation TEXT, speaker TEXT,
    side TEXT, text TEXT, time TEXT, place TEXT);
CREATE INDEX replies ON message (parent);
CREATE INDEX conversations ON message (conversation);
"""
_COLUMNS = "number, id, parent, conversation, speaker, side, text, time, place"


class _Message(NamedTuple):
    number: int
    id: str | None
    parent: str
    conversation: str
    speaker: str
    side: Role | None
    text: str
    time: str
    place: str


def _fits(record: object) -> bool:
    found = lowered(record)
    if is_message(record) or not any(isinstance(found.get(key), str) for key in _TEXTS):
        return False
    conversation = first_in(found, CONVERSATIONS)
    if side_of(found, {}) and conversation and not isinstance(conversation, dict | list):
        return True
    id, is_reply = first_in(found, _IDS), any(key in found for key in _PARENTS)
    if not id or not is_reply or not _name(first_in(found, _SPEAKERS)):
        return False
    return bool(first_in(found, (*_PARENTS, *_REPLIES))) or id == conversation


def _read(source: Source) -> Iterator[Chat | Fault]:
    with closing(sqlite3.connect("")) as database:  # SQLite deletes it; it is on the disk once it is large
        database.executescript(_SCHEMA)
        for number, record in enumerate(source.records()):
            if isinstance(record, Fault):
                yield record
                continue
            try:
                database.execute("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", _message(record, number))
            except sqlite3.IntegrityError:
                yield Fault(record.place, "expected a message with an id of its own, found the id of another one")
            except UnicodeEncodeError:
                yield Fault(record.place, "expected text that can be written as UTF-8")
            except UNREADABLE as error:
                yield spoilt(error, record.place, "a message with an author, a text and an id", record.value)
        yield from _chats(database, source)


def _message(record: Record, number: int) -> _Message:
    found = lowered(record.value)
    text = "\n\n".join(
        told
        for key in dict.fromkeys(("title", next((key for key in _TEXTS if found.get(key)), "text")))
        if (told := text_of(found.get(key), "a text"))
    )
    parent = first_in(found, _PARENTS)
    id = _id(first_in(found, _IDS))
    return _Message(
        number,
        id or None,
        "" if _id(parent) == id else _id(parent),
        _id(first_in(found, CONVERSATIONS)),
        _name(first_in(found, _SPEAKERS)),
        side_of(found, {}),
        text_of_html(text) if _HTML.search(text) else text,
        time_in(found),
        record.place,
    )


def _id(value: object) -> str:
    """Return an id as text: tables of numbers write 3 as "3.0" where other rows have none."""
    return _PREFIX.sub("", re.sub(r"\.0$", "", text_of(value, "an id")))


def _name(value: object) -> str:
    if isinstance(value, dict):
        value = first_in(lowered(value), ("name", "username", "displayname", "id"))
    return str(value) if isinstance(value, str | int) else ""


def _chats(database: sqlite3.Connection, source: Source) -> Iterator[Chat]:
    if not database.execute("SELECT 1 FROM message WHERE parent != '' LIMIT 1").fetchone():
        ordered = f"SELECT {_COLUMNS} FROM message ORDER BY conversation, time, number"
        for id, some in groupby(map(_Message._make, database.execute(ordered)), key=lambda each: each.conversation):
            yield _chat(list(some), id, source.me)
        return
    roots = "parent = '' OR parent NOT IN (SELECT id FROM message WHERE id IS NOT NULL)"
    for row in database.execute(f"SELECT {_COLUMNS} FROM message WHERE {roots} ORDER BY number"):
        root = _Message._make(row)
        for path in _paths(database, root, source.branches == "all"):
            yield _chat(path, root.id or "", source.me)


def _paths(database: sqlite3.Connection, root: _Message, all: bool) -> Iterator[list[_Message]]:
    """Yield the path from a message through its replies; with `all`, the paths to all other ends after it.

    Replies of one speaker to the same message belong together. Of several speakers, the path goes on
    with the first one who is on the other side than the message.
    """
    waiting = [[root]]
    for _ in range(_MOST):
        if not waiting:
            return
        path = waiting.pop()
        while len(path) < _LONGEST and (replies := _replies(database, path)):
            first = next((each for each in replies if not _is_same_side(each[0], path[-1])), replies[0])
            waiting += [[*path, *each] for each in reversed(replies) if all and each is not first]
            path = [*path, *first]
        yield path


def _replies(database: sqlite3.Connection, path: Sequence[_Message]) -> list[list[_Message]]:
    """Return the replies to the last messages of a path, which are of one speaker, by speaker."""
    last = path[-1]
    ids = [each.id for each in path if each.speaker == last.speaker and each.parent == last.parent]
    wanted = f"SELECT {_COLUMNS} FROM message WHERE parent = ? ORDER BY time, number"
    found: dict[str, list[_Message]] = {}
    for id in ids:
        for row in database.execute(wanted, (id,)):
            message = _Message._make(row)
            found.setdefault(message.speaker, []).append(message)
    return [*found.values()]


def _is_same_side(one: _Message, other: _Message) -> bool:
    return one.side == other.side if one.side and other.side else one.speaker == other.speaker


def _chat(messages: Sequence[_Message], id: str, me: str) -> Chat:
    sides = _sides(messages, me)
    said = [Said(sides[each.number], each.text, each.time) for each in messages]
    return Chat(said, id, place=messages[0].place)


def _sides(messages: Sequence[_Message], me: str) -> dict[int, Role]:
    """Return the roles of messages by their numbers."""
    if not me and all(each.side for each in messages):
        return {each.number: each.side or "user" for each in messages}
    mine, opener = me.strip().casefold(), messages[0].speaker
    return {
        each.number: "assistant" if (each.speaker.casefold() == mine if me else each.speaker != opener) else "user"
        for each in messages
    }


REPLIES = Importer("messages that reply to others", _fits, _read)
