"""Read chats among people: the messages of one person (`me`) are the answers, all others are questions.

A new conversation begins after eight hours without a message.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from fine_tuning.data_collection.importers.chats import ROLES, Chat, Fault, Said
from fine_tuning.errors import DataError

SILENCE = timedelta(hours=8)
_LONGEST = 400  # messages of one conversation
_LOOKED_AT = 200_000  # messages that are searched for names
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Line:
    """A message of a person. `known_as` are the person's other names, such as an id or a nickname."""

    name: str
    text: str
    time: str = ""  # as `moment` returns it
    parts: Sequence[object] = ()
    known_as: Sequence[str] = ()
    place: str = ""


def conversations(
    lines: Iterable[Line | Fault], me: str, file: str, chat: str = "", apart: bool = False, silence: timedelta = SILENCE
) -> Iterator[Chat | Fault]:
    """Yield the conversations in a chat, in order.

    Args:
        lines: The messages of the chat, in order.
        me: The name or id of the person whose messages are the answers; case is ignored.
        file: The file's name, for messages.
        chat: The id of the chat. A conversation's id is made from it and from the conversation's first
            message.
        apart: Whether this is one of several chats, so that `me` may have written nothing in it.
        silence: The time without a message after which another conversation begins.

    Raises DataError, which lists all who wrote, if `me` is missing or wrote nothing.
    """
    if not me:
        raise DataError(
            f"{file} is a chat between people: name with --me NAME the person whose messages are the "
            f"answers. {_who(lines)}"
        )
    wanted, names, found = me.strip().casefold(), Counter[str](), False
    now: list[tuple[Line, bool]] = []
    for line in lines:
        if isinstance(line, Fault):
            yield line
            continue
        mine = wanted in (name.strip().casefold() for name in (line.name, *line.known_as) if name)
        found |= mine
        if len(names) < _SHOWN or line.name in names:
            names[line.name] += 1
        if now and (_is_later(now[-1][0], line, silence) or (len(now) >= _LONGEST and now[-1][1] and not mine)):
            yield _chat(now, chat)
            now = []
        now.append((line, mine))
    if now:
        yield _chat(now, chat)
    if names and not found and not apart:
        raise DataError(f"{file} has no messages by {me!r}: choose another name. {listed(names)}")


def conversations_in(chats: Sequence[tuple[str, Sequence[Line]]], me: str, file: str) -> Iterator[Chat | Fault]:
    """Yield the conversations in several chats, given as (id of the chat, its messages).

    `me` need not have written in each of the chats. The arguments, and DataError, are as for `conversations`.
    """
    everyone = [line for _, lines in chats for line in lines]
    if not me:
        yield from conversations(everyone, "", file)  # raises DataError with the names of all who wrote
    wanted = me.strip().casefold()
    apart = any(wanted in map(str.casefold, (line.name, *line.known_as)) for line in everyone)
    for chat, lines in chats:
        yield from conversations(lines, me, file, chat, apart)


def answering(names: Iterable[str]) -> str:
    """Return the name of the machine in a chat between users and one machine ("Assistant"); "" for any other chat."""
    roles = {name: ROLES.get(name.strip().casefold()) for name in names if name}
    machines = [name for name, role in roles.items() if role == "assistant"]
    return machines[0] if len(machines) == 1 and set(roles.values()) == {"assistant", "user"} else ""


def _chat(lines: Sequence[tuple[Line, bool]], chat: str) -> Chat:
    opening = lines[0][0]
    said = [Said("assistant" if mine else "user", line.text, line.time, parts=line.parts) for line, mine in lines]
    id = "\n".join((chat, opening.time, opening.name, opening.text[:200])) if opening.time else ""
    return Chat(said, id, "\n", opening.place)


def _is_later(before: Line, line: Line, silence: timedelta) -> bool:
    if not before.time or not line.time or before.time[:13] == line.time[:13]:  # both are in the same hour
        return False
    return datetime.fromisoformat(line.time) - datetime.fromisoformat(before.time) > silence


def _who(lines: Iterable[Line | Fault]) -> str:
    return listed(Counter(line.name for line in islice(lines, _LOOKED_AT) if isinstance(line, Line)))


def listed(names: Counter[str]) -> str:
    """Return a sentence with the names of all who wrote, and their numbers of messages."""
    shown = ", ".join(f"{name} ({count})" for name, count in names.most_common(_SHOWN))
    return f"Names and messages: {shown}" if shown else "No message was found in it"
