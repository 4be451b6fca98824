"""An engine whose every piece the test lets go: only so can "in the middle of the answer" be a fixed place."""

import threading
from collections.abc import Iterator, Sequence

from chatbot.session import Chat
from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatChunk, ModelSummary

LOG = "conversations.jsonl"
TAG = "smollm2:135m"
PATIENCE = 60.0  # seconds


class Script:
    """The part of `Engine` that a chat uses. Says `pieces`, each when `go` lets it; an exception
    among them is raised in its place.
    """

    name = "scripted"
    where = "test"

    def __init__(self, *pieces: str | Exception, ends: str | None = "stop") -> None:
        self.pieces = pieces
        self.ends = ends
        self.asked: list[Message] = []
        self.options: object = None
        self.closed = threading.Event()
        self._allowed = threading.Semaphore(0)

    def go(self, pieces: int = 1_000) -> "Script":
        self._allowed.release(pieces)
        return self

    def list_models(self) -> list[ModelSummary]:
        return [ModelSummary(tag=TAG, digest="d1", size=1)]

    def chat(self, tag: str, messages: Sequence[Message], options: object = None) -> Iterator[ChatChunk]:
        self.asked, self.options = list(messages), options
        try:
            for piece in self.pieces:
                assert self._allowed.acquire(timeout=PATIENCE)
                if isinstance(piece, Exception):
                    raise piece
                yield ChatChunk(piece)
            if self.ends:
                yield ChatChunk("", done=True, done_reason=self.ends, tokens=len(self.pieces))
        finally:
            self.closed.set()


def ask(chat: Chat, script: Script, text: str = "Where is the key?") -> None:
    assert chat.ask(script, TAG, text).wait(PATIENCE)  # type: ignore[arg-type]
