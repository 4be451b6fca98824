"""Parse the lines of a log into rows for the tables of its index, many lines at a time."""

import unicodedata
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from fine_tuning.conversation import Turn, approved, only_context
from fine_tuning.data_collection.log.lines import decode, texts_of

# a value of the column `partial`: the answer is only context; 1: it was stopped or cut; 0: complete, or approved
CONTEXT = 2

# columns of log_turns that later events change
STATE = ("answered", "rating", "excluded", "edited", "state_hash", "partial")
# columns of log_turns and of log_events that a line alone determines
TURN = ("start", "length", "id", "session", "time", "model", "asked", "imported", *STATE)
EVENT = ("start", "length", "turn", "kind")

_SIZE = 1 << 20  # bytes of the log that are parsed at once


class Parsed(NamedTuple):
    """The row of a turn or an event: its values for the columns TURN or EVENT, and the text to search."""

    values: tuple[Any, ...]
    text: str


class Batch:
    """The rows of successive lines of a log."""

    def __init__(self, start: int) -> None:
        """Begin with the line at the offset `start`."""
        self.turns: list[Parsed] = []
        self.events: list[Parsed] = []
        self.damaged = 0  # complete lines that are not records
        self.torn = False  # whether the last line is incomplete: it is being written, or its writer was killed
        self.end = start  # offset after the lines that were read, without an incomplete one

    def take(self, line: bytes) -> None:
        """Add the next line. Only the last line of the log may lack a line end."""
        ended = line.endswith(b"\n")
        place = (self.end, len(line) - ended)
        try:
            record = decode(line) if line.strip() else None
        except ValueError:
            if not ended:
                self.torn = True
                return
            self.damaged += 1
        else:
            if isinstance(record, Turn):
                facts = record.metadata
                model, imported = (str(facts[key]) if key in facts else None for key in ("model", "import"))
                said = (record.id, record.session_id, record.timestamp, model, len(record.user_message), imported)
                self.turns.append(Parsed((*place, *said, *state_of(record)), _text_of(record)))
            elif record is not None:
                self.events.append(Parsed((*place, record["turn_id"], record["event"]), _text_of(record)))
        self.end += len(line)


def batches(content: BinaryIO, start: int) -> Iterator[Batch]:
    """Yield the rows of the lines from the offset `start` on."""
    content.seek(start)
    while lines := content.readlines(_SIZE):
        batch = Batch(start)
        for line in lines:
            batch.take(line)
        yield batch
        if not lines[-1].endswith(b"\n"):  # what is appended to this line now belongs to the next update
            return
        start = batch.end


def state_of(turn: Turn) -> tuple[object, ...]:
    """Return the values of a turn for the columns STATE."""
    facts = turn.metadata
    rating = facts.get("rating")
    return (
        len(turn.bot_response),
        str(rating) if rating else None,
        bool(facts.get("excluded")),
        "original_response" in facts,
        turn.state_hash,
        CONTEXT if only_context(turn) else int(bool(facts.get("incomplete")) and not approved(turn)),
    )


def _text_of(record: Turn | dict[str, object]) -> str:
    """Return the text of a turn or an event, as it is searched; "" if it has none."""
    return fold("\n".join(texts_of(record)))


def fold(text: str) -> str:
    """Return `text` in the form that is searched: NFC, case folded, with single spaces.

    NUL is replaced, since FTS5 would take it for the end of the text.
    """
    return " ".join(unicodedata.normalize("NFC", text).casefold().replace("\0", "\ufffd").split())
