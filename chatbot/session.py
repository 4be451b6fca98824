"""A chat turn: stream, stop, log. No Streamlit here: pages only watch, so a rerun, a reload or a closed tab never loses an answer."""

import threading
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial
from typing import cast
from weakref import WeakValueDictionary

from fine_tuning.conversation import Message, Turn, standing
from fine_tuning.data_collection.conversation_logger import ConversationLogger, Rating
from fine_tuning.engines.base import ChatChunk, Engine, known_tag
from fine_tuning.errors import Busy, ByoaiError, DataError, EngineError
from fine_tuning.thoughts import split_thoughts


class Answer:
    """An answer in the making: one thread feeds it, any number of pages may watch or stop it."""

    def __init__(self, user_message: str, model: str, recorded: bool = True, regenerates: str | None = None) -> None:
        self.user_message = user_message
        self.model = model
        self.recorded = recorded
        self.regenerates = regenerates  # the turn whose answer it replaces
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

    While `recording` is off nothing is logged, and those turns live as long as this object. What is recorded is answered from what was
    recorded: else an answer could say again, in the log, what was meant to stay out of it.
    """

    def __init__(self, logger: ConversationLogger, turns: list[Turn] | None = None) -> None:
        self.logger = logger
        self.id = logger.session_id
        self.turns = list(turns or [])
        self.answer: Answer | None = None
        self.recording = True
        self._lock = threading.Lock()

    @property
    def answering(self) -> bool:
        return self.answer is not None and not self.answer.ended

    def look(self) -> tuple[list[Turn], Answer | None]:
        """The turns and the answer of one moment: an answer is never in both, nor in neither."""
        with self._lock:
            return standing(self.turns), self.answer

    def ask(self, engine: Engine, tag: str, user_message: str) -> Answer:
        """Start answering in the background. Busy while another answer is in the making."""
        return self._start(engine, Answer(user_message, tag, self.recording))

    def _start(self, engine: Engine, answer: Answer) -> Answer:
        with self._lock:
            if self.answering:
                raise Busy("the last question is still being answered: wait for it, or stop it")
            self.answer = answer
        _asked[self.id] = self
        threading.Thread(target=self._answer, args=(engine, answer), name=f"answer-{self.id}", daemon=True).start()
        return answer

    def regenerate(self, engine: Engine, tag: str) -> Answer:
        """Have the last question answered anew. Both answers are kept; the new one stands. DataError if nothing was asked yet."""
        with self._lock:
            last = next(reversed(standing(self.turns)), None)
        if last is None:
            raise DataError("there is no answer yet that could be given anew: ask something first")
        # The question was asked before: it is recorded only if it was so then.
        return self._start(engine, Answer(last.user_message, tag, self.recording and recorded(last), last.id))

    def stop(self) -> None:
        if self.answer:
            self.answer.stop()

    def rate(self, turn_id: str, rating: Rating | None) -> None:
        """Record what the owner thinks of an answer; None takes it back. DataError for what was not recorded."""
        self.logger.rate(turn_id, rating)
        self._read_again()

    def edit(self, turn_id: str, bot_response: str) -> None:
        """Record what the answer should have been. DataError for what was not recorded, or an empty answer."""
        self.logger.edit(turn_id, bot_response)
        self._read_again()

    def _read_again(self) -> None:
        """Take over what the log says of the recorded turns now: ratings, edits, and which of them are gone."""
        logged = {turn.id: turn for turn in self.logger.turns(include_excluded=True)}
        with self._lock:
            self.turns = [logged.get(turn.id, turn) for turn in self.turns if turn.id in logged or not recorded(turn)]

    def _answer(self, engine: Engine, answer: Answer) -> None:
        started = time.monotonic()
        try:
            digests = {model.tag: model.digest for model in engine.list_models()}
            digest = digests.get(known_tag(answer.model, digests) or "", "")
            if any(map(recorded, self.turns)):
                self._read_again()  # a model must not be told what was deleted meanwhile
            stream = cast("Generator[ChatChunk]", engine.chat(answer.model, self._history(answer)))
            with closing(stream):
                answer.read(stream)
            if not split_thoughts(answer.text).answer.strip() and not answer.incomplete:
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

    def _history(self, answer: Answer) -> list[Message]:
        turns = [turn for turn in self.turns if recorded(turn) or not answer.recorded]
        said = [message for turn in standing(turns) if turn.id != answer.regenerates for message in turn.messages()]
        return [*said, Message(role="user", content=answer.user_message)]

    def _log(self, engine: Engine, answer: Answer, digest: str, seconds: float) -> Turn:
        """`metadata["incomplete"]` marks an answer that did not end by itself: it is kept, but nothing to learn from.

        Recorded is what was asked and answered while recording was on, all the time.
        """
        facts = {
            "model": answer.model,
            "digest": digest,
            "engine": engine.name,
            "seconds": round(seconds, 2),
            "tokens": answer.tokens,
            "incomplete": answer.incomplete,
            "regenerates": answer.regenerates,
        }
        known = {name: fact for name, fact in facts.items() if fact is not None}
        if answer.recorded and self.recording:
            return self.logger.log_conversation(answer.user_message, answer.text, known)
        return Turn(
            id=uuid.uuid4().hex,
            session_id=self.id,
            timestamp="",
            user_message=answer.user_message,
            bot_response=answer.text,
            metadata={**known, "recorded": False},
        )


def recorded(turn: Turn) -> bool:
    """Whether a chat's turn is in the log, and not only in memory."""
    return turn.metadata.get("recorded") is not False


def open_chat(log_file: str, chat_id: str | None = None, export_every: int | None = None) -> Chat:
    """The chat `chat_id` as the log has it, or with the answer in the making; a new one if nobody knows it."""
    known = _asked.get(chat_id) if chat_id else None
    if known and known.answer:
        return known
    turns = [turn for turn in ConversationLogger(log_file).turns() if turn.session_id == chat_id] if chat_id else []
    return Chat(ConversationLogger(log_file, chat_id if turns else None, export_every), turns)


def stop_all(patience: float = 10.0) -> None:
    """Stop every answer in the making, and wait up to `patience` seconds for each until it is recorded."""
    answers = [chat.answer for chat in list(_asked.values()) if chat.answer]
    for answer in answers:
        answer.stop()
    for answer in answers:
        answer.wait(patience)
