"""The list of chats: what each is called, where it is kept, how it is searched, exported and
forgotten. No Streamlit here.

What is asked of the log is asked of its index, a page at a time: nothing here takes longer when more was said.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from fine_tuning.conversation import Turn, conversations_of
from fine_tuning.data_collection import chat_labels, data_export
from fine_tuning.data_collection.chat_labels import Label, one_line
from fine_tuning.data_collection.log_follower import fold
from fine_tuning.data_collection.log_index import LogIndex, Session
from fine_tuning.errors import NoConversations, TurnNotFound
from fine_tuning.integration.service import Service
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import ACTIVE, Job, State
from fine_tuning.model_management.model_registry import Registry

TITLE = 60  # characters of a title made from the first question
_AROUND = 60  # characters before and after what was found
_SEARCHED = 100_000  # characters of a text in which the words are looked for
_FOUND = 200  # turns that a search looks at
UNTITLED = "Untitled chat"


@dataclass(frozen=True)
class Chat:
    """A chat as a list shows it."""

    id: str
    title: str
    turns: int
    begun: str  # ISO 8601; "" where that is unknown
    last: str
    last_turn: str  # its id
    label: Label

    @property
    def named(self) -> bool:
        """Whether a person gave it its title."""
        return bool(self.label.title)


@dataclass(frozen=True)
class Hit:
    """A chat in which all words were said in one turn, and a piece of that turn; `marks` are
    (start, end) of the words in it.
    """

    chat: Chat
    excerpt: str
    marks: tuple[tuple[int, int], ...]


def title_of(question: str, most: int = TITLE) -> str:
    """Return a title made from a question: its beginning in one line, cut at a word where there is one."""
    text = one_line(question[: 8 * most])
    if len(text) <= most:
        return text or UNTITLED
    head, space, _ = text[: most + 1].rpartition(" ")
    if not space or len(head) < most // 2:
        head = text[:most]
        while head and (
            unicodedata.combining(text[len(head)]) or text[len(head)] in "\u200d\ufe0f" or head[-1] == "\u200d"
        ):
            head = head[:-1]  # a letter or a sign that is made of several characters stays whole
    return (head or text[:most]).rstrip(" ,;:.-") + "…"


# Lists


def newest(
    index: LogIndex, limit: int, before: str | None = None, *, hidden: Collection[str] = ()
) -> tuple[list[Chat], str | None]:
    """Return chats that are neither pinned nor in a folder, newest first, and the id with which the
    next page is asked for.

    TurnNotFound if the turn `before` is gone.
    """
    found = index.sessions(limit + 1, before, loose=True)
    page = found[:limit]
    chats = _chats(page, chat_labels.labels_of([session.id for session in page]), hidden)
    return chats, page[-1].last_turn if len(found) > limit else None


def pinned(index: LogIndex, limit: int = -1, *, hidden: Collection[str] = ()) -> list[Chat]:
    """Return the pinned chats, newest first."""
    return _labelled(index, {id: label for id, label in chat_labels.labels().items() if label.pinned}, limit, hidden)


def folders(hidden: Collection[str] = ()) -> dict[str, set[str]]:
    """Return the ids of the chats in each folder, by its name in the order of the alphabet. Pinned
    ones are not among them.
    """
    found: dict[str, set[str]] = {}
    for id, label in chat_labels.labels().items():
        if label.folder and not label.pinned and id not in hidden:
            found.setdefault(label.folder, set()).add(id)
    return dict(sorted(found.items(), key=lambda each: (fold(each[0]), each[0])))


def folder_names() -> list[str]:
    """Return all folders that a chat can be moved to, those of pinned chats included."""
    return sorted({label.folder for label in chat_labels.labels().values() if label.folder}, key=fold)


def among(index: LogIndex, ids: Collection[str], limit: int = -1) -> list[Chat]:
    """Return the newest of these chats; those that are not there are left out."""
    return _labelled(index, {**dict.fromkeys(ids, Label()), **chat_labels.labels_of(list(ids))}, limit, ())


def get(index: LogIndex, id: str) -> Chat:
    """Return one chat. TurnNotFound if there is none of this id."""
    found = among(index, [id])
    if not found:
        raise TurnNotFound(f"there is no conversation {id[:100]!r}: it was deleted, or never recorded")
    return found[0]


def by_day(chats: Iterable[Chat], today: date | None = None) -> dict[str, list[Chat]]:
    """Return chats under Today, Yesterday and Earlier, by this machine's clock; the order within stays."""
    today = today or datetime.now().astimezone().date()
    days = {today: "Today", today - timedelta(days=1): "Yesterday"}
    found: dict[str, list[Chat]] = {"Today": [], "Yesterday": [], "Earlier": []}
    for chat in chats:
        day = _day(chat.last)
        found["Today" if day and day > today else days.get(day, "Earlier") if day else "Earlier"].append(chat)
    return {title: those for title, those in found.items() if those}


def _day(time: str) -> date | None:
    try:
        return datetime.fromisoformat(time).astimezone().date()
    except (ValueError, OverflowError, OSError):
        return None


def _labelled(index: LogIndex, labels: dict[str, Label], limit: int, hidden: Collection[str]) -> list[Chat]:
    return _chats(index.sessions_of(labels.keys() - set(hidden), limit), labels, hidden)


def _chats(sessions: Iterable[Session], labels: dict[str, Label], hidden: Collection[str]) -> list[Chat]:
    return [chat_of(session, labels.get(session.id, Label())) for session in sessions if session.id not in hidden]


def chat_of(session: Session, label: Label, most: int = TITLE) -> Chat:
    """Return a session of the log as a chat of the list; `most`: characters of a title that nobody gave it."""
    title = label.shown or title_of(session.question, most)
    return Chat(session.id, title, session.turns, session.begun, session.last, session.last_turn, label)


# What people do


def change(
    index: LogIndex, id: str, *, title: str | None = None, pinned: bool | None = None, folder: str | None = None
) -> Chat:
    """Rename, pin, or move a chat, whatever is given; return it as it stands then. "" takes a title or a folder back.

    TurnNotFound if there is no such chat.
    """
    get(index, id)
    chat_labels.set_label(id, title=title, pinned=pinned, folder=folder)
    return get(index, id)


def search(index: LogIndex, text: str, limit: int = 20, *, hidden: Collection[str] = ()) -> list[Hit]:
    """Return the chats in which every word of `text` was said in one turn, or stands in the title, newest first."""
    words = fold(text).split()
    if not words:
        return []
    turns: dict[str, Turn] = {}
    for turn in index.search(text, _FOUND):
        turns.setdefault(turn.session_id, turn)
    titles = {id for id, label in chat_labels.labels().items() if all(word in fold(label.shown) for word in words)}
    chats = among(index, [id for id in [*turns, *(titles - turns.keys())] if id not in hidden], limit)
    return [Hit(chat, *_excerpt(turns[chat.id], words)) if chat.id in turns else Hit(chat, "", ()) for chat in chats]


def _excerpt(turn: Turn, words: Sequence[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Return a piece of what was said around the first of the words, and where the words stand in it.

    Of the question or the answer that with more of them; the beginning of the question where they
    stand only in an answer before its edit.
    """
    said = [one_line(unicodedata.normalize("NFC", text[:_SEARCHED])) for text in (turn.user_message, turn.bot_response)]
    places = [_places(text, words) for text in said]
    best = 0 if len({word for word, _, _ in places[0]}) >= len({word for word, _, _ in places[1]}) else 1
    text, found = said[best], places[best]
    at = min((start for _, start, _ in found), default=0)
    first, last = _word_start(text, at - _AROUND), min(at + 2 * _AROUND, len(text))
    before, after = "… " if first else "", " …" if last < len(text) else ""
    marks = sorted({(start - first + len(before), end - first + len(before)) for _, start, end in found if end <= last})
    return before + text[first:last].rstrip() + after, tuple(_apart(marks))


def _places(text: str, words: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return (word, start, end) of the words in `text`: they are folded, and it is not."""
    folded = "".join(each.casefold() for each in text)
    origin = range(len(text) + 1) if len(folded) == len(text) else _origins(text)
    found = []
    for word in words:
        for match in list(re.finditer(re.escape(word), folded))[:20]:
            found.append((word, origin[match.start()], origin[match.end() - 1] + 1))
    return found


def _origins(text: str) -> list[int]:
    """Return, of each character of the folded text, which one of `text` it came from: "ß" becomes two."""
    return [place for place, each in enumerate(text) for _ in each.casefold()]


def _word_start(text: str, at: int) -> int:
    """Return where a word begins, at or a little after `at`."""
    if at <= 0:
        return 0
    space = text.find(" ", at, at + _AROUND // 2)
    return space + 1 if space >= 0 else at


def _apart(marks: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return marks that do not overlap."""
    found: list[tuple[int, int]] = []
    for start, end in marks:
        if not found or start >= found[-1][1]:
            found.append((start, end))
    return found


# Export and forget


def exportable(index: LogIndex, id: str) -> list[Turn]:
    """Return the turns of a chat that are not excluded."""
    return [turn for turn in index.turns_of(id) if not turn.metadata.get("excluded")]


def export(index: LogIndex, id: str, format: str) -> bytes:
    """Return one chat in a format of data_export, without excluded turns. NoConversations if no other is left."""
    turns = exportable(index, id)
    if not turns:
        raise NoConversations("there is nothing to export: this chat has no turn that is not excluded")
    return b"".join(data_export.render(conversations_of(turns), format))


def file_name(chat: Chat, format: str) -> str:
    """Return a name for the file of an export, made from the title."""
    name = re.sub(r"\W+", "-", chat.title).strip("-").lower()[:40].strip("-") or "chat"
    return f"{name}.{data_export.file_of(format).rpartition('.')[2]}"


def forget(
    service: Service,
    ids: Collection[str],
    *,
    teach_again: bool = True,
    now: bool = False,
    id: str | None = None,
    origin: str,
) -> Job:
    """Ask for a job that forgets turns and chats for good: it removes them from all files, and the
    versions that learned them. Asked again while a job forgets the same, it is that job.
    """
    if id is None and (known := _forgetting(service.queue, ids)):
        return known
    request = {
        "config": service.config.model_dump(mode="json"),
        "ollama_url": service.ollama_url,
        "turns": list(ids),
        "teach_again": teach_again,
        "now": now,
    }
    return service.queue.submit("forget", request, id=id, origin=origin)


def _forgetting(queue: Queue, ids: Collection[str]) -> Job | None:
    """Return the job that forgets all of these now, or will; None if there is none."""
    jobs = queue.jobs([State.QUEUED, *ACTIVE], ["forget"], limit=500)
    return next((job for job in jobs if set(ids) <= set(job.request.get("turns", ()))), None)


def being_forgotten(queue: Queue) -> set[str]:
    """Return the ids of turns and chats that a job forgets now, or will: lists leave them out."""
    jobs = queue.jobs([State.QUEUED, *ACTIVE], ["forget"], limit=500)
    return {str(id) for job in jobs for id in job.request.get("turns", ())}


def not_forgotten(queue: Queue, index: LogIndex) -> Job | None:
    """Return the last job that forgets if it failed, and what it was to forget is still there."""
    last = next(iter(queue.jobs(kinds=["forget"], limit=1)), None)
    if last is None or last.state not in (State.FAILED, State.INTERRUPTED):
        return None
    wanted = [str(id) for id in last.request.get("turns", ())]
    return last if index.there(wanted) or index.sessions_of(wanted, 1) else None


def learned_by(index: LogIndex, registry: Registry, id: str) -> list[str]:
    """Return the tags of the versions that learned something of a chat."""
    return [version.tag for version in registry.versions_of_turns(index.ids_of(id)) if version.state != "retired"]
