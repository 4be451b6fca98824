"""Stream, stop and log the turns of a chat, independently of Streamlit.

Pages only watch, so a rerun, a reload or a closed tab never loses an answer.
"""

import threading
import time
import uuid
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from chatbot.log_watch import LogWatch, all_watches, watch_of
from fine_tuning.branches import Tree, system_of
from fine_tuning.conversation import Message, Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger, Rating
from fine_tuning.data_collection.log.file import Stamp
from fine_tuning.engines.base import ChatChunk, Engine, digest_of
from fine_tuning.errors import Busy, ByoaiError, DataError, EngineError, TurnDeleted
from fine_tuning.integration import chat_titles
from fine_tuning.integration.chat_settings import ChatSettings, settings_of
from fine_tuning.thoughts import split_thoughts


class Answer:
    """An answer that is being generated. One thread writes it; any number of pages may watch or stop it."""

    def __init__(
        self,
        user_message: str,
        model: str,
        parent: str,
        settings: ChatSettings,
        recorded: bool = True,
        beside: Turn | None = None,
    ) -> None:
        """Prepare the answer.

        Args:
            parent: Id of the turn that the question follows; "" at the start of a chat.
            beside: The turn whose question is asked again or replaced; None for a new question.
        """
        self.user_message = user_message
        self.model = model
        self.parent = parent
        self.settings = settings
        self.recorded = recorded
        self.beside = beside.id if beside else None
        # the same question, asked again
        self.regenerates = beside.id if beside and beside.user_message == user_message else None
        self.told: frozenset[str] = frozenset()  # ids of the recorded turns that the model was given
        self.text = ""
        self.tokens: int | None = None  # counted by the engine; None if it did not
        self.incomplete: str | None = None  # "stopped" by the person, or "length" if the engine's limit cut it
        self.error: Exception | None = None
        self.stopping = False
        self.forgotten = False  # it may quote what was deleted, so nothing of it is shown, kept or logged
        self.ended = False
        self._changed = threading.Condition()

    def texts(self, interval: float = 0.05) -> Iterator[str]:
        """Yield the whole text so far, again whenever it has grown, until the answer ends.

        `interval` is the minimum time in seconds between two texts.
        """
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
        """Wait until the answer ends. Return False if it does not within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ended, timeout)

    def stop(self) -> None:
        """Stop the generation at its next piece, and keep the text so far."""
        self.stopping = True

    def forget(self) -> None:
        """Stop the generation at its next piece, and drop question and answer."""
        with self._changed:
            self.stopping = self.forgotten = True
            self.user_message = self.text = ""
            self.error = None
            self._changed.notify_all()

    def read(self, chunks: Iterator[ChatChunk]) -> None:
        """Read the engine's stream until the answer ends, or `stop` or `forget` is called.

        Raises EngineError if the stream ends before the answer.
        """
        for chunk in chunks:
            with self._changed:
                if self.forgotten:
                    return
                self.text += chunk.text
                self._changed.notify_all()
            if chunk.done:
                self.tokens = chunk.tokens or None
                self.incomplete = "length" if chunk.done_reason == "length" else None
                return
            if self.stopping:
                self.incomplete = "stopped"
                return
        raise EngineError(
            f"{self.model} stopped in the middle of its answer: ask again. If it happens again, read the engine's log"
        )

    def end(self) -> None:
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def _differs(self, shown: str) -> bool:
        return self.ended or self.text != shown


class Chat:
    """A conversation: its turns, and the answer that is being generated.

    An answer that ended becomes a turn. One that failed, or was stopped before its first word, stays in
    `answer` until it is asked again or dismissed, so that nobody has to type a question twice.

    While `recording` is off, nothing is logged, and the turns exist only in this object. A recorded turn
    is answered from recorded turns only; otherwise its answer might repeat, in the log, what was meant
    to stay out of it.

    Turns that are deleted from the log elsewhere are dropped here too (`LogWatch`). Texts that may
    quote them, and that `forget` cannot find in the log, are also dropped: the answer that is being
    generated, with its question, and later turns that were not recorded.
    """

    def __init__(
        self, logger: ConversationLogger, watch: LogWatch, new: bool = False, limit: int | None = None
    ) -> None:
        """Open a chat.

        `new`: the chat is not in the log yet, which need not be read. `limit`: as in `ChatSettings.options`.
        """
        self.logger = logger
        self.id = logger.session_id
        self.turns: list[Turn] = []  # of all branches
        self.answer: Answer | None = None
        self.recording = True
        self.titles = False  # whether the model is asked for a title after the first answer
        self.settings = ChatSettings()  # for the next questions
        self.limit = limit
        self.version = 0  # grows with each change from elsewhere
        self.forgotten = 0  # how often something was deleted elsewhere
        self._behind: dict[str, str] = {}  # id of the turn before, for recorded turns after an unrecorded one
        self._shown: str | None = None  # a turn on the shown path; None for the chosen path
        self._watch = watch
        self._as_of = Stamp() if new else None  # the log's state that `turns` reflect; None before it was read
        self._lock = threading.Lock()
        watch.join(self, tell=not new)

    def take_over(self, logged: Sequence[Turn], as_of: Stamp) -> None:
        """Apply changes by other pages and programs (see `log_watch.Holder`): new, rated, edited and deleted turns."""
        with self._lock:
            first, self._as_of = self._as_of is None, as_of
            if first:
                self.turns = list(logged)
                if path := self._tree().chosen_path():
                    self.settings = settings_of(path[-1])
                return
            known = {turn.id: turn for turn in logged}
            gone = {turn.id for turn in self.turns if recorded(turn) and turn.id not in known}
            before, self.turns = self.turns, [known.get(turn.id, turn) for turn in _without(self.turns, gone)]
            here = {turn.id for turn in before}
            self._add([turn for turn in logged if turn.id not in here])
            if self.answer and not gone.isdisjoint({*self.answer.told, self.answer.beside or ""}):
                self.answer.forget()
                self.answer = None
            self.forgotten += bool(gone)
            if gone and self.settings.system not in {system_of(turn) for turn in self.turns}:
                self.settings = self.settings.model_copy(update={"system": ""})  # it is only in deleted turns
            self.version += self.turns != before or bool(gone)

    def _add(self, turns: Sequence[Turn]) -> None:
        """Add turns that another tab or program has logged; a turn that follows the last shown turn is shown too."""
        self.turns += turns
        tree = self._tree()
        for turn in turns:
            if self._shown == tree.parent(turn.id):
                self._shown = turn.id

    @property
    def answering(self) -> bool:
        return self.answer is not None and not self.answer.ended

    def look(self) -> tuple[list[Turn], Answer | None]:
        """Return the turns of the shown path, and the answer that is being generated; None if none is.

        Both are read at the same moment, so that an answer that ends is in exactly one of them. The
        path is the one that the answer continues.
        """
        with self._lock:
            return self._path(), self.answer

    def others(self) -> dict[str, "Others"]:
        """Return for each shown turn, by id, the alternative questions and answers at its place in the chat."""
        with self._lock:
            tree = self._tree()
            return {turn.id: _others(tree, turn.id) for turn in self._path(tree)}

    def show(self, turn_id: str) -> None:
        """Show the branch through a turn; the next question continues it. Raises TurnNotFound if the turn is gone."""
        with self._lock:
            self._shown = self._tree().through(turn_id)[-1].id

    def _tree(self) -> Tree:
        return Tree(self.turns, self._behind)

    def _path(self, tree: Tree | None = None) -> list[Turn]:
        tree = tree or self._tree()
        if self.answer and (not self.answer.parent or self.answer.parent in tree):
            return tree.path(self.answer.parent)
        return tree.path(self._shown) if self._shown and self._shown in tree else tree.chosen_path()

    def ask(self, engine: Engine, tag: str, user_message: str) -> Answer:
        """Begin to answer a question in the background, after the shown path. Raises Busy during another answer."""
        return self._start(engine, lambda: self._next(tag, user_message))

    def _next(self, tag: str, user_message: str) -> Answer:
        before = self.answer  # a failed one: asked again, it stays in its place
        path = self._path()
        beside = next((turn for turn in self.turns if before and turn.id == before.beside), None)
        recording = self.recording and (before is None or before.recorded or beside is None)
        return Answer(user_message, tag, path[-1].id if path else "", self.settings, recording, beside)

    def ask_instead(self, engine: Engine, tag: str, turn_id: str, user_message: str) -> Answer:
        """Ask `user_message` in place of a turn's question, in a new branch of the chat.

        Raises TurnNotFound if the turn is gone.
        """

        def made() -> Answer:
            tree = self._tree()
            parent, turn = tree.parent(turn_id), tree.path(turn_id)[-1]
            # the replacement of an unrecorded question may say the same, so it is not recorded either
            return Answer(user_message, tag, parent, self.settings, self.recording and recorded(turn), turn)

        return self._start(engine, made)

    def regenerate(self, engine: Engine, tag: str, turn_id: str | None = None) -> Answer:
        """Answer a question again, by default the last one shown. Both answers are kept.

        Raises DataError if nothing was asked yet, and TurnNotFound if the turn is gone.
        """
        with self._lock:
            path = self._tree().path(turn_id) if turn_id else self._path()
        if not path:
            raise DataError("there is no answer to regenerate yet: ask something first")
        return self.ask_instead(engine, tag, path[-1].id, path[-1].user_message)

    def dismiss(self) -> None:
        """Drop a question that was not answered, and show the path as it was before."""
        with self._lock:
            if not self.answering:
                self.answer = None

    def _start(self, engine: Engine, made: Callable[[], Answer]) -> Answer:
        with self._lock:
            if self.answering:
                raise Busy("the last question is still being answered: wait for it, or stop it")
            self.answer = answer = made()
        chat_titles.interrupt()
        threading.Thread(target=self._answer, args=(engine, answer), name=f"answer-{self.id}", daemon=True).start()
        return answer

    def stop(self) -> None:
        if self.answer:
            self.answer.stop()

    def rate(self, turn_id: str, rating: Rating | None, reason: str = "") -> None:
        """Record the user's rating of an answer, with the reason; None removes the rating.

        Raises DataError for a turn that was not recorded.
        """
        self.logger.rate(turn_id, rating, reason=reason)
        self._watch.look()

    def edit(self, turn_id: str, bot_response: str) -> None:
        """Record what the answer should have been. Raises DataError for an unrecorded turn, or an empty answer."""
        self.logger.edit(turn_id, bot_response)
        self._watch.look()

    def _answer(self, engine: Engine, answer: Answer) -> None:
        started, turn = time.monotonic(), None
        try:
            digest = digest_of(engine, answer.model)
            if any(map(recorded, self.turns)):
                self._watch.look()  # a model must not be given what was deleted in the meantime
            stream = cast(
                "Generator[ChatChunk]",
                engine.chat(answer.model, self._tell(answer), answer.settings.options(self.limit)),
            )
            with closing(stream):
                answer.read(stream)
            if not split_thoughts(answer.text).answer.strip() and not answer.incomplete and not answer.forgotten:
                raise EngineError(f"{answer.model} gave an empty answer: ask again, or in other words")
            if answer.text.strip():
                turn = self._keep(engine, answer, digest, time.monotonic() - started)
        except (ByoaiError, OSError) as error:
            answer.error = None if answer.forgotten else error
        finally:
            answer.end()
        if turn and self.titles and recorded(turn) and not answer.parent and not answer.beside:
            self._name(engine, answer, turn)

    def _name(self, engine: Engine, answer: Answer, turn: Turn) -> None:
        """Let the model write a title from the first turn, in the background."""
        system = answer.settings.system
        head = [Message(role="system", content=system)] if system.strip() else []
        options = answer.settings.options(self.limit)
        chat_titles.begin(engine, answer.model, [*head, *turn.messages()], options, turn, self.logger.index)

    def _tell(self, answer: Answer) -> list[Message]:
        """Return the messages for the model: the system prompt, the conversation so far, and the question."""
        with self._lock:
            told = [turn for turn in self._behind_answer(answer) if recorded(turn) or not answer.recorded]
            answer.told = frozenset(turn.id for turn in told if recorded(turn))
            said = [message for turn in told for message in turn.messages()]
            system = answer.settings.system
            head = [Message(role="system", content=system)] if system.strip() else []
            return [*head, *said, Message(role="user", content=answer.user_message)]

    def _behind_answer(self, answer: Answer) -> list[Turn]:
        """Return the path that an answer continues; empty if its parent was deleted elsewhere."""
        tree = self._tree()
        return tree.path(answer.parent) if not answer.parent or answer.parent in tree else []

    def _keep(self, engine: Engine, answer: Answer, digest: str, seconds: float) -> Turn | None:
        """Add the answer to the chat as a turn, and return the turn; None if the answer was forgotten.

        Raises TurnDeleted if a turn from which the model answered has been deleted from the log.
        """
        with self._watch.lock:
            if answer.forgotten:
                return None
            try:
                turn = self._log(engine, answer, digest, seconds)
            except TurnDeleted:
                self._watch.look()  # makes this chat forget it
                raise
            with self._lock:
                self.turns.append(turn)
                if turn.metadata["parent"] != answer.parent:
                    self._behind[turn.id] = answer.parent
                self._shown, self.answer = turn.id, None
            return turn

    def _log(self, engine: Engine, answer: Answer, digest: str, seconds: float) -> Turn:
        """Log the answer if recording was on from the question to the end; return its turn.

        `metadata["incomplete"]` marks an answer that did not end by itself: it is kept, but not learned.
        """
        facts = {
            "model": answer.model,
            "digest": digest,
            "engine": engine.name,
            "seconds": round(seconds, 2),
            "tokens": answer.tokens,
            "incomplete": answer.incomplete,
            "regenerates": answer.regenerates,
            **answer.settings.facts(),
        }
        known = {name: fact for name, fact in facts.items() if fact is not None}
        if answer.recorded and self.recording:
            told = {*answer.told, *([answer.beside] if answer.beside else [])}
            with self._lock:
                known["parent"] = next(
                    (turn.id for turn in reversed(self._behind_answer(answer)) if recorded(turn)), ""
                )
            return self.logger.log_conversation(
                answer.user_message, answer.text, known, answered_from=told, as_of=self._as_of
            )
        return Turn(
            id=uuid.uuid4().hex,
            session_id=self.id,
            timestamp="",
            user_message=answer.user_message,
            bot_response=answer.text,
            metadata={**known, "parent": answer.parent, "recorded": False},
        )


@dataclass(frozen=True)
class Others:
    """The alternative questions and answers at one place in a chat, as ids of turns, oldest first."""

    questions: tuple[str, ...]  # one turn of each question
    answers: tuple[str, ...]  # all answers to the question that is shown


def _others(tree: Tree, turn_id: str) -> Others:
    answers = tuple(turn.id for turn in tree.same_question(turn_id))
    newest = dict.fromkeys(tree.same_question(turn.id)[-1].id for turn in tree.siblings(turn_id))
    return Others(tuple(turn_id if each == answers[-1] else each for each in newest), answers)


def recorded(turn: Turn) -> bool:
    """Return whether a turn is in the log, and not only in memory."""
    return turn.metadata.get("recorded") is not False


def _without(turns: Sequence[Turn], gone: Collection[str]) -> list[Turn]:
    """Return the turns without those in `gone`, and without later unrecorded turns, which may quote them."""
    first = next((place for place, turn in enumerate(turns) if turn.id in gone), len(turns))
    return [*turns[:first], *(turn for turn in turns[first:] if recorded(turn) and turn.id not in gone)]


def open_chat(
    log_file: str | Path, chat_id: str | None = None, export_every: int | None = None, limit: int | None = None
) -> Chat:
    """Return a chat as it is in the log, with its answer if one is being generated; a new chat for an unknown id."""
    watch = watch_of(log_file)
    if chat_id:
        known = next((chat for chat in _chats(watch) if chat.id == chat_id and chat.answer), None)
        known = known or Chat(ConversationLogger(log_file, chat_id, export_every), watch, limit=limit)
        if known.turns or known.answer:
            return known
    return Chat(ConversationLogger(log_file, None, export_every), watch, new=True, limit=limit)


def stop_all(patience: float = 10.0) -> None:
    """Stop every answer that is being generated, and wait up to `patience` seconds for each to be recorded."""
    answers = [chat.answer for watch in all_watches() for chat in _chats(watch) if chat.answer]
    for answer in answers:
        answer.stop()
    for answer in answers:
        answer.wait(patience)
    chat_titles.interrupt(patience)


def _chats(watch: LogWatch) -> list[Chat]:
    """Return the open chats. A chat exists as long as a page, or the thread that answers, refers to it."""
    return [holder for holder in watch.holders() if isinstance(holder, Chat)]
