"""A chat's title, made by the model that answers in it: asked for in the background once the first answer has ended,
and given up as soon as anybody asks something.

It is asked for as if the person went on in the same chat. So the engine, which keeps what it has read
last, need not read the chat again for the next question.
"""

import re
import threading
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import cast

from fine_tuning.conversation import Message, Turn
from fine_tuning.data_collection import chat_labels
from fine_tuning.data_collection.chat_labels import one_line
from fine_tuning.data_collection.log_index import LogIndex
from fine_tuning.engines.base import ChatChunk, ChatOptions, Engine
from fine_tuning.errors import ByoaiError
from fine_tuning.integration.chats import TITLE
from fine_tuning.thoughts import split_thoughts

ASKED = "Give this conversation a title of two to six words. Answer with the title alone."
_TOKENS = 24
_PAUSE = 1.0  # seconds after the answer: who reads a short one asks on at once
_QUOTED = re.compile(r"[\"“„«*](.{3,}?)[\"”“»*]")
_INTRODUCED = re.compile(r"^(?:(?:sure|here)\b.{0,60}?:|title\s*:)\s*", re.IGNORECASE)

_lock = threading.Lock()
_at_work: dict[threading.Thread, threading.Event] = {}


def begin(engine: Engine, tag: str, said: Sequence[Message], options: ChatOptions, turn: Turn, index: LogIndex) -> None:
    """Ask for a title of the chat whose first turn this is; `said`: all of it, as the model is told it."""
    given_up = threading.Event()
    asked = [*said, Message(role="user", content=ASKED)]
    few = replace(options, temperature=0.0, max_tokens=_TOKENS)
    work = (engine, tag, asked, few, turn, index, given_up)
    thread = threading.Thread(target=_make, args=work, name=f"title-{turn.session_id}", daemon=True)
    with _lock:
        _at_work[thread] = given_up
        thread.start()


def interrupt(patience: float = 0.0) -> None:
    """Give up all titles in the making, and wait so long for each. Called before anything else is asked of a model."""
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
        pass  # the beginning of the first question is the title
    finally:
        with _lock:
            _at_work.pop(threading.current_thread(), None)


def clean(text: str) -> str:
    """Return what a model said as a title: one line without quotes, 60 characters at most; "" if it is of no use."""
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
    """Keep a title that was made from a turn, unless the turn was deleted meanwhile."""
    chat_labels.set_made(turn.session_id, title, turn.id)
    if not index.there([turn.id]):  # looked at last: what is deleted later takes the title with it
        chat_labels.set_made(turn.session_id, "", "")
