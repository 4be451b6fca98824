"""What a person calls a chat, whether it is pinned, and its folder: a table in data/state.db, beside the log.

A title may hold private words: its row goes when the last turn of its chat is removed from the log
(`drop_orphans`, which the log's index calls), and what is redacted elsewhere is redacted here
(`TEXTS`, which forgetting.py reads).
"""

import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from sqlite3 import Connection

from fine_tuning import state

TEXTS = {"chat_labels": ("title", "folder")}  # columns in which something may stand that was said in a chat
ORPHANS = (
    "DELETE FROM chat_labels WHERE NOT EXISTS"
    " (SELECT 1 FROM log_turns WHERE log IN (SELECT id FROM logs) AND log_turns.session = chat_labels.session)"
)
LONGEST_TITLE, LONGEST_FOLDER = 200, 60  # characters
# they would turn what stands beside a title
_DIRECTIONS = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


@dataclass(frozen=True)
class Label:
    """What is known of a chat besides what was said in it."""

    title: str = ""  # "": the list shows the beginning of the first question
    pinned: bool = False
    folder: str = ""  # "": in none


def one_line(text: str) -> str:
    """Return `text` in one line, without characters that show nothing or turn what stands beside them."""
    shown = (" " if unicodedata.category(each) in ("Cc", "Cs") or each in _DIRECTIONS else each for each in text)
    return " ".join("".join(shown).split())


def labels() -> dict[str, Label]:
    """Return the chats that have a label, by session."""
    with state.connect() as database:
        return _labels(database, "1")


def labels_of(sessions: Collection[str]) -> dict[str, Label]:
    """Return the labels of these sessions; those without one are left out."""
    with state.connect() as database:
        return _labels(database, f"session IN ({','.join('?' * len(sessions))})", *sessions)


def set_label(
    session: str, *, title: str | None = None, pinned: bool | None = None, folder: str | None = None
) -> Label:
    """Change what is given, and return what stands now. Texts are put in one line and cut to their longest."""
    with state.connect() as database, state.transaction(database):
        before = _labels(database, "session = ?", session).get(session, Label())
        now = Label(
            before.title if title is None else one_line(title)[:LONGEST_TITLE].rstrip(),
            before.pinned if pinned is None else pinned,
            before.folder if folder is None else one_line(folder)[:LONGEST_FOLDER].rstrip(),
        )
        database.execute("DELETE FROM chat_labels WHERE session = ?", (session,))
        if now != Label():
            database.execute(
                "INSERT INTO chat_labels VALUES (?, ?, ?, ?)", (session, now.title, now.pinned, now.folder)
            )
    return now


def keep_together(sessions: Collection[str], folder: str) -> None:
    """Put chats into one folder, but those that have a label of their own."""
    name = one_line(folder)[:LONGEST_FOLDER].rstrip()
    with state.connect() as database, state.transaction(database):
        database.executemany(
            "INSERT OR IGNORE INTO chat_labels VALUES (?, '', 0, ?)", [(session, name) for session in sessions]
        )


def drop_orphans(database: Connection) -> None:
    """Remove the labels of all sessions of which no log has a turn."""
    database.execute(ORPHANS)


def _labels(database: Connection, condition: str, *values: str) -> dict[str, Label]:
    rows = database.execute(f"SELECT * FROM chat_labels WHERE {condition}", values)
    return {row["session"]: Label(row["title"], bool(row["pinned"]), row["folder"]) for row in rows}
