"""Store the title and the folder of each chat, and whether it is pinned, in a table of data/state.db.

A title may contain private words. So the row of a chat is removed when its last turn is deleted
from the log, and a title that a model wrote is removed when the turn that it was made from is
deleted: the log's index calls `drop_orphans`. `byoai forget` redacts the columns in `TEXTS`
(forgetting.py).
"""

import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from sqlite3 import Connection

from fine_tuning import state

TEXTS = {"chat_labels": ("title", "folder", "made")}  # columns that may contain what was said in a chat
ORPHANS = (
    "DELETE FROM chat_labels WHERE NOT EXISTS"
    " (SELECT 1 FROM log_turns WHERE log IN (SELECT id FROM logs) AND log_turns.session = chat_labels.session)"
)
_ORPHANED_TITLES = (
    "UPDATE chat_labels SET made = '', made_of = '' WHERE made_of <> '' AND NOT EXISTS"
    " (SELECT 1 FROM log_turns WHERE log IN (SELECT id FROM logs) AND log_turns.id = chat_labels.made_of)"
)
LONGEST_TITLE, LONGEST_FOLDER = 200, 60  # characters
# characters that set the direction of text: they would reverse the text beside a title
_DIRECTIONS = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


@dataclass(frozen=True)
class Label:
    """The title and the folder of a chat, and whether the chat is pinned."""

    title: str = ""  # given by a person
    pinned: bool = False
    folder: str = ""  # "": in none
    made: str = ""  # title made by a model; without any title, the list shows the beginning of the first question

    @property
    def shown(self) -> str:
        """Return the title to show: the one a person gave, else the one a model made."""
        return self.title or self.made


def one_line(text: str) -> str:
    """Return `text` in one line, with spaces for control characters and for those that set the direction of text."""
    shown = (" " if unicodedata.category(each) in ("Cc", "Cs") or each in _DIRECTIONS else each for each in text)
    return " ".join("".join(shown).split())


def labels() -> dict[str, Label]:
    """Return the labels of all chats that have one, by session id."""
    with state.connect() as database:
        return _labels(database, "1")


def labels_of(sessions: Collection[str]) -> dict[str, Label]:
    """Return the labels of these sessions, by session id; a session without a label has no entry."""
    with state.connect() as database:
        return _labels(database, f"session IN ({','.join('?' * len(sessions))})", *sessions)


def set_label(
    session: str, *, title: str | None = None, pinned: bool | None = None, folder: str | None = None
) -> Label:
    """Change the given values of a chat's label, and return the label.

    Values that are None stay unchanged. A title or folder is put in one line, and cut at LONGEST_TITLE
    or LONGEST_FOLDER characters.
    """
    with state.connect() as database, state.transaction(database):
        before = _labels(database, "session = ?", session).get(session, Label())
        now = Label(
            before.title if title is None else one_line(title)[:LONGEST_TITLE].rstrip(),
            before.pinned if pinned is None else pinned,
            before.folder if folder is None else one_line(folder)[:LONGEST_FOLDER].rstrip(),
            before.made,
        )
        database.execute(
            "INSERT INTO chat_labels (session, title, pinned, folder) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (session) DO UPDATE SET title = excluded.title, pinned = excluded.pinned,"
            " folder = excluded.folder",
            (session, now.title, now.pinned, now.folder),
        )
        _drop_empty(database, session)
    return now


def set_made(session: str, title: str, turn: str) -> None:
    """Store the title that a model made from the turn with the id `turn`.

    An empty title removes the stored one, and all traces of its text in the database file.
    """
    with state.connect() as database:
        with state.transaction(database):
            database.execute(
                "INSERT INTO chat_labels (session, title, pinned, folder, made, made_of) VALUES (?, '', 0, '', ?, ?)"
                " ON CONFLICT (session) DO UPDATE SET made = excluded.made, made_of = excluded.made_of",
                (session, one_line(title)[:LONGEST_TITLE].rstrip(), turn),
            )
            _drop_empty(database, session)
        if not title:
            state.leave_no_trace(database)


def _drop_empty(database: Connection, session: str) -> None:
    database.execute(
        "DELETE FROM chat_labels WHERE session = ? AND title = '' AND NOT pinned AND folder = '' AND made = ''",
        (session,),
    )


def keep_together(sessions: Collection[str], folder: str) -> None:
    """Put chats into one folder, except those that already have a label."""
    name = one_line(folder)[:LONGEST_FOLDER].rstrip()
    with state.connect() as database, state.transaction(database):
        database.executemany(
            "INSERT OR IGNORE INTO chat_labels (session, title, pinned, folder) VALUES (?, '', 0, ?)",
            [(session, name) for session in sessions],
        )


def drop_orphans(database: Connection) -> None:
    """Remove the labels of chats that have no turn in any log, and titles made from a deleted turn."""
    database.execute(ORPHANS)
    database.execute(_ORPHANED_TITLES)


def _labels(database: Connection, condition: str, *values: str) -> dict[str, Label]:
    rows = database.execute(f"SELECT * FROM chat_labels WHERE {condition}", values)
    return {row["session"]: Label(row["title"], bool(row["pinned"]), row["folder"], row["made"]) for row in rows}
