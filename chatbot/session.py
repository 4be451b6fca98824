"""A chat turn: stream, stop, log. No Streamlit here: pages only watch, so a rerun, a reload or a closed tab never loses an answer."""

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial
from typing import cast
from weakref import WeakValueDictionary

from fine_tuning.conversation import Message, Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger, Rating
from fine_tuning.engines.base import ChatChunk, Engine
from fine_tuning.errors import Busy, ByoaiError, EngineError


class Answer:
    """An answer in the making: one thread feeds it, any number of pages may watch or stop it."""

    def __init__(self, user_message: str, model: str) -> None:
        self.user_message = user_message
        self.model = model
        self.text = ""
        self.tokens: int | None = None  # as the engine counts them; None if it did not say
        self.incomplete: str | None = None  # "stopped" by the person, or "length": cut by the engine's limit
        self.error: Exception | None = None
        self.stopping = False
        self.ended = False
        self._changed = threading.Condition()

    def texts(self, interval: float = 0.05) -> Iterator[str]:
        """The whole text so far, now and whenever it grew (at most every `interval` seconds), until the answer ends."""
        while True:
            with self._changed:
                shown, ended = self.text, self.ended
            yield shown
            if ended:
                return
            time.sleep(interval)
            with self._changed:
                self._changed.wait_for(partial(self._differs, shown), timeout=1.0)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the answer ended; False if it did not within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ended, timeout)

    def stop(self) -> None:
        """End the generation at its next piece. What was said until then is kept."""
        self.stopping = True

    def read(self, chunks: Iterator[ChatChunk]) -> None:
        """Take in the engine's stream until it is done, or `stop` was called. EngineError if it breaks off."""
        for chunk in chunks:
            with self._changed:
                self.text += chunk.text
                self._changed.notify_all()
            if chunk.done:
                self.tokens = chunk.tokens or None
                self.incomplete = "length" if chunk.done_reason == "length" else None
                return
            if self.stopping:
                self.incomplete = "stopped"
                return
        raise EngineError(f"{self.model} broke off in the middle of its answer: ask again, and if it stays so, read the engine's own log")

    def end(self) -> None:
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def _differs(self, shown: str) -> bool:
        return self.ended or self.text != shown


_asked: "WeakValueDictionary[str, Chat]" = WeakValueDictionary()  # a chat lives as long as a page, or the thread that answers, holds it


class Chat:
    """One conversation: its recorded turns, and the answer in the making.

    An answer that ended becomes a turn; one that failed, or was stopped before its first word, stays in `answer` until it is
    asked again or given up, so that nobody has to type a question twice.
    """

    def __init__(self, logger: ConversationLogger, turns: list[Turn] | None = None) -> None:
        self.logger = logger
        self.id = logger.session_id
        self.turns = list(turns or [])
        self.answer: Answer | None = None
        self._lock = threading.Lock()

    @property
    def answering(self) -> bool:
        return self.answer is not None and not self.answer.ended

    def look(self) -> tuple[list[Turn], Answer | None]:
        """The turns and the answer of one moment: an answer is never in both, nor in neither."""
        with self._lock:
            return list(self.turns), self.answer

    def ask(self, engine: Engine, tag: str, user_message: str) -> Answer:
        """Start answering in the background. Busy while another answer is in the making."""
        answer = Answer(user_message, tag)
        with self._lock:
            if self.answering:
                raise Busy("the last question is still being answered: wait for it, or stop it")
            self.answer = answer
        _asked[self.id] = self
        threading.Thread(target=self._answer, args=(engine, answer), name=f"answer-{self.id}", daemon=True).start()
        return answer

    def stop(self) -> None:
        if self.answer:
            self.answer.stop()

    def rate(self, turn_id: str, rating: Rating | None) -> None:
        """Record what a person thinks of an answer; None takes it back."""
        self.logger.rate(turn_id, rating)
        with self._lock:
            self.turns = [_rated(turn, rating) if turn.id == turn_id else turn for turn in self.turns]

    def _answer(self, engine: Engine, answer: Answer) -> None:
        started = time.monotonic()
        try:
            digest = next((model.digest for model in engine.list_models() if model.tag == answer.model), "")
            stream = cast("Generator[ChatChunk]", engine.chat(answer.model, self._history(answer.user_message)))
            with closing(stream):
                answer.read(stream)
            if not answer.text.strip() and not answer.incomplete:
                raise EngineError(f"{answer.model} said nothing: ask again, or in other words")
            if answer.text.strip():
                turn = self._log(engine, answer, digest, time.monotonic() - started)
                with self._lock:
                    self.turns.append(turn)
                    self.answer = None
        except (ByoaiError, OSError) as error:
            answer.error = error
        finally:
            answer.end()

    def _history(self, user_message: str) -> list[Message]:
        said = [message for turn in self.turns for message in turn.messages()]
        return [*said, Message(role="user", content=user_message)]

    def _log(self, engine: Engine, answer: Answer, digest: str, seconds: float) -> Turn:
        """`metadata["incomplete"]` marks an answer that did not end by itself: it is kept, but nothing to learn from."""
        facts = {
            "model": answer.model,
            "digest": digest,
            "engine": engine.name,
            "seconds": round(seconds, 2),
            "tokens": answer.tokens,
            "incomplete": answer.incomplete,
        }
        known = {name: fact for name, fact in facts.items() if fact is not None}
        return self.logger.log_conversation(answer.user_message, answer.text, known)


def _rated(turn: Turn, rating: Rating | None) -> Turn:
    facts = {name: fact for name, fact in turn.metadata.items() if name != "rating"}
    return turn.model_copy(update={"metadata": {**facts, "rating": rating} if rating else facts})


def open_chat(log_file: str, chat_id: str | None = None) -> Chat:
    """The chat `chat_id` as the log has it, or with the answer in the making; a new one if nobody knows it."""
    known = _asked.get(chat_id) if chat_id else None
    if known and known.answer:
        return known
    turns = [turn for turn in ConversationLogger(log_file).turns() if turn.session_id == chat_id] if chat_id else []
    return Chat(ConversationLogger(log_file, session_id=chat_id if turns else None), turns)


def stop_all(patience: float = 10.0) -> None:
    """Stop every answer in the making, and wait up to `patience` seconds for each until it is recorded."""
    answers = [chat.answer for chat in list(_asked.values()) if chat.answer]
    for answer in answers:
        answer.stop()
    for answer in answers:
        answer.wait(patience)
