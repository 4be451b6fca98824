"""List, search, export and forget chats, and change their titles and folders, independently of Streamlit.

The log is read through its index, one page at a time, so nothing here slows down as the log grows.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from fine_tuning.conversation import Turn, conversations_of
from fine_tuning.data_collection import data_export
from fine_tuning.data_collection.log import chat_labels
from fine_tuning.data_collection.log.batches import fold
from fine_tuning.data_collection.log.chat_labels import Label, one_line
from fine_tuning.data_collection.log.index import LogIndex, Session
from fine_tuning.errors import NoConversations, TurnNotFound
from fine_tuning.integration.service import Service
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import ACTIVE, Job, State
from fine_tuning.model_management.model_registry import Registry

TITLE = 60  # characters of a title made from the first question
_AROUND = 60  # characters shown before and after a match
_SEARCHED = 100_000  # characters of a text that are searched for the words
_FOUND = 200  # newest matching turns that a search considers
UNTITLED = "Untitled chat"


@dataclass(frozen=True)
class Chat:
    """A chat as it is shown in lists."""

    id: str
    title: str
    turns: int
    begun: str  # ISO 8601; "" where that is unknown
    last: str
    last_turn: str  # its id
    label: Label

    @property
    def named(self) -> bool:
        """Whether a person gave the chat its title."""
        return bool(self.label.title)


@dataclass(frozen=True)
class Hit:
    """A result of a search: a chat, and an excerpt of a turn in it that contains all words.

    `marks` holds (start, end) of the words in the excerpt.
    """

    chat: Chat
    excerpt: str
    marks: tuple[tuple[int, int], ...]


def title_of(question: str, most: int = TITLE) -> str:
    """Return a title made from a question: its beginning in one line, at most `most` characters.

    It ends between two words if possible.
    """
    text = one_line(question[: 8 * most])
    if len(text) <= most:
        return text or UNTITLED
    head, space, _ = text[: most + 1].rpartition(" ")
    if not space or len(head) < most // 2:
        head = text[:most]
        while head and (
            unicodedata.combining(text[len(head)]) or text[len(head)] in "\u200d\ufe0f" or head[-1] == "\u200d"
        ):
            head = head[:-1]  # do not cut within a character of several code points
    return (head or text[:most]).rstrip(" ,;:.-") + "…"


# Lists


def newest(
    index: LogIndex, limit: int, before: str | None = None, *, hidden: Collection[str] = ()
) -> tuple[list[Chat], str | None]:
    """Return the newest chats that are neither pinned nor in a folder, and the value of `before` for the next page.

    This value is None on the last page. Chats whose ids are in `hidden` are left out. Raises
    TurnNotFound if the turn `before` no longer exists.
    """
    found = index.sessions(limit + 1, before, loose=True)
    page = found[:limit]
    chats = _chats(page, chat_labels.labels_of([session.id for session in page]), hidden)
    return chats, page[-1].last_turn if len(found) > limit else None


def pinned(index: LogIndex, limit: int = -1, *, hidden: Collection[str] = ()) -> list[Chat]:
    """Return at most `limit` pinned chats, newest first, without those in `hidden`."""
    return _labelled(index, {id: label for id, label in chat_labels.labels().items() if label.pinned}, limit, hidden)


def folders(hidden: Collection[str] = ()) -> dict[str, set[str]]:
    """Return the ids of the chats in each folder, by the folder's name, sorted. Pinned chats are left out."""
    found: dict[str, set[str]] = {}
    for id, label in chat_labels.labels().items():
        if label.folder and not label.pinned and id not in hidden:
            found.setdefault(label.folder, set()).add(id)
    return dict(sorted(found.items(), key=lambda each: (fold(each[0]), each[0])))


def folder_names() -> list[str]:
    """Return the names of all folders, including those that contain only pinned chats."""
    return sorted({label.folder for label in chat_labels.labels().values() if label.folder}, key=fold)


def among(index: LogIndex, ids: Collection[str], limit: int = -1) -> list[Chat]:
    """Return at most `limit` of the chats with these ids, the newest first. Unknown ids are skipped."""
    return _labelled(index, {**dict.fromkeys(ids, Label()), **chat_labels.labels_of(list(ids))}, limit, ())


def get(index: LogIndex, id: str) -> Chat:
    """Return a chat. Raises TurnNotFound if there is none with this id."""
    found = among(index, [id])
    if not found:
        raise TurnNotFound(
            f"there is no conversation {id[:100]!r}, because it was deleted or never recorded: choose another one"
        )
    return found[0]


def by_day(chats: Iterable[Chat], today: date | None = None) -> dict[str, list[Chat]]:
    """Group chats by the local day of their last turn: "Today", "Yesterday" and "Earlier".

    Empty groups are left out. The chats in a group are in the given order.
    """
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
    """Return a session of the log as a Chat. `most` is the maximum length of a title made from the question."""
    title = label.shown or title_of(session.question, most)
    return Chat(session.id, title, session.turns, session.begun, session.last, session.last_turn, label)


# What people do


def change(
    index: LogIndex, id: str, *, title: str | None = None, pinned: bool | None = None, folder: str | None = None
) -> Chat:
    """Rename, pin or move a chat; return its new state. None changes nothing; "" removes the title or the folder.

    Raises TurnNotFound if there is no such chat.
    """
    get(index, id)
    chat_labels.set_label(id, title=title, pinned=pinned, folder=folder)
    return get(index, id)


def search(index: LogIndex, text: str, limit: int = 20, *, hidden: Collection[str] = ()) -> list[Hit]:
    """Return at most `limit` chats that have all words of `text` in one turn or in the title, newest first."""
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
    """Return an excerpt of a turn around the first of the words, and (start, end) of the words in it.

    The excerpt is from the question or the answer, whichever contains more of the words. If neither
    contains any, because the words are in the original answer of an edited turn, the excerpt is the
    beginning of the question.
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
    """Return (word, start, end) for each place in `text` where one of `words` occurs, at most 20 for each word.

    The words must be case folded already; `text` need not be.
    """
    folded = "".join(each.casefold() for each in text)
    origin = range(len(text) + 1) if len(folded) == len(text) else _origins(text)
    found = []
    for word in words:
        for match in list(re.finditer(re.escape(word), folded))[:20]:
            found.append((word, origin[match.start()], origin[match.end() - 1] + 1))
    return found


def _origins(text: str) -> list[int]:
    """Return for each character of the case-folded text the index of its original ("ß" becomes two characters)."""
    return [place for place, each in enumerate(text) for _ in each.casefold()]


def _word_start(text: str, at: int) -> int:
    """Return the start of a word at the index `at` or shortly after it."""
    if at <= 0:
        return 0
    space = text.find(" ", at, at + _AROUND // 2)
    return space + 1 if space >= 0 else at


def _apart(marks: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the marks without those that overlap an earlier one."""
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
    """Return the content of a file with a chat, in a format of data_export, without excluded turns.

    Raises NoConversations if no turn is left.
    """
    turns = exportable(index, id)
    if not turns:
        raise NoConversations("there is nothing to export: this chat has no turns, or all of them are excluded")
    return b"".join(data_export.render(conversations_of(turns), format))


def file_name(chat: Chat, format: str) -> str:
    """Return a file name for an export, made from the chat's title, such as `plans-for-rome.md`."""
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
    """Submit a job that permanently removes turns and chats from all files, and the versions trained on them.

    Return the job. If a queued or running job already forgets all of these turns and chats, return
    that job instead, unless `id` is set.
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
    """Return the queued or running job that forgets all of these turns and chats; None if there is none."""
    jobs = queue.jobs([State.QUEUED, *ACTIVE], ["forget"], limit=500)
    return next((job for job in jobs if set(ids) <= set(job.request.get("turns", ()))), None)


def being_forgotten(queue: Queue) -> set[str]:
    """Return the ids of turns and chats that a queued or running job forgets, so that lists can hide them."""
    jobs = queue.jobs([State.QUEUED, *ACTIVE], ["forget"], limit=500)
    return {str(id) for job in jobs for id in job.request.get("turns", ())}


def not_forgotten(queue: Queue, index: LogIndex) -> Job | None:
    """Return the last job of the kind `forget` if it failed and something that it should remove still exists.

    Return None otherwise. An interrupted job counts as failed.
    """
    last = next(iter(queue.jobs(kinds=["forget"], limit=1)), None)
    if last is None or last.state not in (State.FAILED, State.INTERRUPTED):
        return None
    wanted = [str(id) for id in last.request.get("turns", ())]
    return last if index.there(wanted) or index.sessions_of(wanted, 1) else None


def learned_by(index: LogIndex, registry: Registry, id: str) -> list[str]:
    """Return the tags of all versions, except retired versions, that were trained on a chat."""
    versions = registry.versions_of_turns(index.ids_of(id), with_context=True)
    return [version.tag for version in versions if version.state != "retired"]
