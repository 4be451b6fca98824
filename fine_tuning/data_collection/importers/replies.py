"""Read messages, one a record and in any order, that name their conversation or the message they reply to.

Tables of customer support have such rows (`in_response_to_tweet_id`, `inbound`), and so have ConvoKit's
utterances (`reply-to`, `speaker`), the comments of Reddit and Hacker News, the posts of Stack Exchange
(`Posts.xml`), and mails. Where no column tells the sides, whoever begins a conversation asks and all
others answer; the option `me` names the speaker whose messages are the answers. Of several replies,
the accepted or best rated one is read.

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
from fine_tuning.data_collection.importers.sides import CONVERSATIONS, side_of, user_type

_IDS = ("tweetid", "messageid", "commentid", "postid", "utteranceid", "id")
_PARENTS = (
    *("inresponsetotweetid", "inresponseto", "inreplyto", "inreplytoid", "inreplytostatusid", "replyto", "replytoid"),
    *("replytomessageid", "parentid", "parentmessageid", "parent"),
)
_REPLIES = ("responsetweetid", "kids", "replies")  # ids of the messages that reply to this one
_SPEAKERS = (
    *("authorid", "authorname", "author", "speaker", "senderid", "sender", "from", "user", "username", "by"),
    *("owneruserid", "ownerdisplayname", "speakeridx", "interlocutor", "actorname"),
)
# of an utterance within its conversation (EmpatheticDialogues, MELD)
_NUMBERS = ("utteranceidx", "utteranceid", "turnid", "turnno", "turnnumber")
_NAMES = ("email", "name", "username", "displayname", "login", "id")  # of a speaker who is an object
_POSTS: dict[object, Role] = {"1": "user", "2": "assistant"}  # Stack Exchange: "PostTypeId"
_SCORES = ("score", "ups", "points", "votes")
_TEXTS = ("text", "body", "content", "message", "utterance", "utterancetext", "selftext", "title")
_PREFIX = re.compile(r"t\d_(?=\w)")  # Reddit: "t1_abc" replies to the comment "abc"
_HTML = re.compile(r"<p>|&#?\w+;")  # Hacker News
_LONGEST = 400  # messages of one conversation
_MOST = 10_000  # paths through the replies to one message
_SCHEMA = """
CREATE TABLE message (number INTEGER PRIMARY KEY, id TEXT UNIQUE, parent TEXT, conversation TEXT, speaker TEXT,
    side TEXT, text TEXT, time TEXT, place TEXT, score REAL, accepted TEXT);
CREATE INDEX replies ON message (parent);
CREATE INDEX conversations ON message (conversation);
"""
_COLUMNS = "number, id, parent, conversation, speaker, side, text, time, place, score, accepted"
_INSERT = f"INSERT INTO message VALUES ({', '.join('?' * 11)})"


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
    score: float
    accepted: str  # id of the reply that the author accepted


def _fits(record: object) -> bool:
    found = lowered(record)
    if is_message(record) or not any(isinstance(found.get(key), str) for key in _TEXTS):
        return False
    conversation = first_in(found, CONVERSATIONS)
    if side_of(found, {}) and conversation and not isinstance(conversation, dict | list):
        return True
    if found.get("posttypeid") in _POSTS:
        return True
    speaker = _names(first_in(found, _SPEAKERS))
    is_reply = any(key in found for key in _PARENTS)
    if conversation is not None and speaker and not is_reply and any(key in found for key in _NUMBERS):
        return True
    id = first_in(found, _IDS)
    if not id or not is_reply or not speaker:
        return False
    return bool(first_in(found, (*_PARENTS, *_REPLIES))) or id == conversation


def _read(source: Source) -> Iterator[Chat | Fault]:
    with closing(sqlite3.connect("")) as database:  # SQLite deletes it; it is on the disk once it is large
        database.executescript(_SCHEMA)
        user = user_type(map(lowered, source.found.sample))
        for number, record in enumerate(source.records()):
            if isinstance(record, Fault):
                yield record
                continue
            try:
                database.execute(_INSERT, _message(record, number, source.me, user))
            except sqlite3.IntegrityError:
                yield Fault(record.place, "expected a message with an id of its own, found the id of another one")
            except UnicodeEncodeError:
                yield Fault(record.place, "expected text that can be written as UTF-8")
            except UNREADABLE as error:
                yield spoilt(error, record.place, "a message with an author, a text and an id", record.value)
        yield from _chats(database, source)


def _message(record: Record, number: int, me: str, user: Role) -> _Message:
    found = lowered(record.value)
    names, wanted = _names(first_in(found, _SPEAKERS)), me.strip().casefold()
    side = side_of(found, {}, user) or _POSTS.get(found.get("posttypeid"))
    if wanted:
        side = "assistant" if wanted in map(str.casefold, names) else "user"
    score = first_in(found, _SCORES)
    text = "\n\n".join(
        told
        for key in dict.fromkeys(("title", next((key for key in _TEXTS if found.get(key)), "text")))
        if (told := text_of(found.get(key), "a text"))
    )
    parent = first_in(found, _PARENTS)
    id = _id(first_in(found, _IDS)) if parent or not any(key in found for key in _NUMBERS) else ""
    return _Message(
        number,
        id or None,
        "" if _id(parent) == id else _id(parent),
        _id(first_in(found, CONVERSATIONS)),
        names[0] if names else "",
        side,
        (text_of_html(text) if _HTML.search(text) else text).replace("_comma_", ","),  # EmpatheticDialogues
        time_in(found),
        record.place,
        float(score) if isinstance(score, str | int | float) else 0,
        _id(found.get("acceptedanswerid")),
    )


def _id(value: object) -> str:
    """Return an id as text. Tables write 3 as "3.0" if the column is empty in other rows."""
    return _PREFIX.sub("", re.sub(r"\.0$", "", text_of(value, "an id")))


def _names(value: object) -> list[str]:
    """Return the names of a speaker, the most distinctive one first."""
    found = [lowered(value).get(key) for key in _NAMES] if isinstance(value, dict) else [value]
    return [str(name) for name in found if isinstance(name, str | int) and str(name).strip()]


def _chats(database: sqlite3.Connection, source: Source) -> Iterator[Chat]:
    if not database.execute("SELECT 1 FROM message WHERE parent != '' LIMIT 1").fetchone():
        ordered = f"SELECT {_COLUMNS} FROM message ORDER BY conversation, time, number"
        for id, some in groupby(map(_Message._make, database.execute(ordered)), key=lambda each: each.conversation):
            yield _chat(list(some), id)
        return
    roots = "parent = '' OR parent NOT IN (SELECT id FROM message WHERE id IS NOT NULL)"
    for row in database.execute(f"SELECT {_COLUMNS} FROM message WHERE {roots} ORDER BY number"):
        root = _Message._make(row)
        for path in _paths(database, root, source.branches == "all"):
            yield _chat(path, root.id or "")


def _paths(database: sqlite3.Connection, root: _Message, all: bool) -> Iterator[list[_Message]]:
    """Yield the best path from a message through its replies; with `all`, then every other path.

    Replies of one speaker to the same message belong together. If several speakers reply, the best path
    continues with one of the other side; among these, with the accepted reply, else with the one that has
    the best score, else with the first.
    """
    waiting = [[root]]
    for _ in range(_MOST):
        if not waiting:
            return
        path = waiting.pop()
        while len(path) < _LONGEST and (replies := _replies(database, path)):
            accepted = {each.accepted for each in path[-1:] if each.accepted}
            first = max(
                replies,
                key=lambda each: (
                    not _is_same_side(each[0], path[-1]),
                    any(one.id in accepted for one in each),
                    max(one.score for one in each),
                ),
            )
            waiting += [[*path, *each] for each in reversed(replies) if all and each is not first]
            path = [*path, *first]
        yield path


def _replies(database: sqlite3.Connection, path: Sequence[_Message]) -> list[list[_Message]]:
    """Return the replies to the last messages of a path, grouped by speaker. These messages are all by one speaker."""
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


def _chat(messages: Sequence[_Message], id: str) -> Chat:
    """Return the messages as a chat. If a side is unknown, whoever wrote the first message asks."""
    opener, are_told = messages[0].speaker, all(each.side for each in messages)
    said = []
    for each in messages:
        side: Role = "user" if each.speaker == opener else "assistant"
        said.append(Said(each.side or "user" if are_told else side, each.text, each.time))
    return Chat(said, id, place=messages[0].place)


REPLIES = Importer("messages that reply to others", _fits, _read)
MAIL = Importer("mails", lambda record: True, _read, frozenset({"mail"}), joins="all")
