"""Let the model that answers a chat write the chat's title, in the background after the first answer.

The request for a title is cancelled as soon as a model is asked anything else. It continues the same
chat: the engine caches the text that it read last, and so need not read the chat again for the next
question.
"""

import re
import threading
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import cast

from fine_tuning.conversation import Message, Turn
from fine_tuning.data_collection.log import chat_labels
from fine_tuning.data_collection.log.chat_labels import one_line
from fine_tuning.data_collection.log.index import LogIndex
from fine_tuning.engines.base import ChatChunk, ChatOptions, Engine
from fine_tuning.errors import ByoaiError
from fine_tuning.integration.chats import TITLE
from fine_tuning.thoughts import split_thoughts

ASKED = "Give this conversation a title of two to six words. Answer with the title alone."
_TOKENS = 24
_PAUSE = 1.0  # seconds after the answer, for people who ask on at once
_QUOTED = re.compile(r"[\"“„«*](.{3,}?)[\"”“»*]")
_INTRODUCED = re.compile(r"^(?:(?:sure|here)\b.{0,60}?:|title\s*:)\s*", re.IGNORECASE)

_lock = threading.Lock()
_at_work: dict[threading.Thread, threading.Event] = {}


def begin(engine: Engine, tag: str, said: Sequence[Message], options: ChatOptions, turn: Turn, index: LogIndex) -> None:
    """Start a thread that lets the model `tag` write the title of a chat.

    `turn` is the chat's first turn, `said` the whole chat as messages.
    """
    given_up = threading.Event()
    asked = [*said, Message(role="user", content=ASKED)]
    few = replace(options, temperature=0.0, max_tokens=_TOKENS)
    work = (engine, tag, asked, few, turn, index, given_up)
    thread = threading.Thread(target=_make, args=work, name=f"title-{turn.session_id}", daemon=True)
    with _lock:
        _at_work[thread] = given_up
        thread.start()


def interrupt(patience: float = 0.0) -> None:
    """Cancel all running requests for titles, and wait up to `patience` seconds for each to end.

    This must be called before a model is asked anything else.
    """
    with _lock:
        found = dict(_at_work)
    for given_up in found.values():
        given_up.set()
    for thread in found:
        thread.join(patience)


def _make(
    engine: Engine,
    tag: str,
    asked: Sequence[Message],
    options: ChatOptions,
    turn: Turn,
    index: LogIndex,
    given_up: threading.Event,
) -> None:
    try:
        if given_up.wait(_PAUSE):
            return
        pieces = []
        with closing(cast("Generator[ChatChunk]", engine.chat(tag, asked, options))) as stream:
            for chunk in stream:
                if given_up.is_set():
                    return
                pieces.append(chunk.text)
        if title := clean("".join(pieces)):
            keep(index, turn, title)
    except (ByoaiError, OSError):
        pass  # without a title, lists show the beginning of the first question
    finally:
        with _lock:
            _at_work.pop(threading.current_thread(), None)


def clean(text: str) -> str:
    """Return a model's reply as a title: one line without quotation marks, at most 60 characters.

    Return "" if the reply cannot be used.
    """
    lines = [line for each in split_thoughts(text).answer.splitlines() if (line := one_line(each))]
    if not lines:
        return ""
    line = lines[1] if lines[0].endswith(":") and len(lines) > 1 else lines[0]
    line = _INTRODUCED.sub("", line.lstrip("#-> "))
    if quoted := _QUOTED.search(line):
        line = quoted[1]
    line = line.strip(" \"'`*_“”„‘’«».:;,-")
    if len(line) > TITLE:
        line = line[: TITLE + 1].rpartition(" ")[0].rstrip(" ,;:.-")
    return line if any(each.isalpha() for each in line) else ""


def keep(index: LogIndex, turn: Turn, title: str) -> None:
    """Store the title that was made from a turn, unless the turn has been deleted meanwhile."""
    chat_labels.set_made(turn.session_id, title, turn.id)
    if not index.there([turn.id]):  # checked after storing: a later deletion removes the title, too
        chat_labels.set_made(turn.session_id, "", "")
