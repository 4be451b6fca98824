"""A chat turn, with an engine whose every piece the test lets go: only so can "in the middle of the answer" be a fixed place."""

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from chatbot.session import Chat, open_chat, stop_all
from fine_tuning.conversation import Message
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ChatChunk, ModelSummary
from fine_tuning.errors import Busy, EngineUnavailable

LOG = "conversations.jsonl"
TAG = "smollm2:135m"
PATIENCE = 10.0  # seconds


class Script:
    """The part of `Engine` that a chat uses. Says `pieces`, each when `go` lets it; an exception among them is raised in its place."""

    name = "scripted"
    where = "test"

    def __init__(self, *pieces: str | Exception, ends: str | None = "stop") -> None:
        self.pieces = pieces
        self.ends = ends
        self.asked: list[Message] = []
        self.closed = threading.Event()
        self._allowed = threading.Semaphore(0)

    def go(self, pieces: int = 1_000) -> "Script":
        self._allowed.release(pieces)
        return self

    def list_models(self) -> list[ModelSummary]:
        return [ModelSummary(tag=TAG, digest="d1", size=1)]

    def chat(self, tag: str, messages: Sequence[Message], options: object = None) -> Iterator[ChatChunk]:
        self.asked = list(messages)
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


@pytest.fixture
def chat(home: Path) -> Chat:
    return open_chat(LOG)


def ask(chat: Chat, script: Script, text: str = "Where is the key?") -> None:
    assert chat.ask(script, TAG, text).wait(PATIENCE)  # type: ignore[arg-type]


def test_an_answer_becomes_a_recorded_turn_with_its_model(chat: Chat) -> None:
    ask(chat, Script("Under ", "the mat.").go())
    (turn,) = chat.turns
    assert (turn.user_message, turn.bot_response, turn.session_id) == ("Where is the key?", "Under the mat.", chat.id)
    assert turn.metadata.items() >= {"model": TAG, "digest": "d1", "engine": "scripted", "tokens": 2}.items()
    assert turn.metadata["seconds"] >= 0
    assert "incomplete" not in turn.metadata
    assert [logged.id for logged in ConversationLogger(LOG).turns()] == [turn.id]
    assert chat.answer is None


def test_the_model_gets_the_whole_conversation(chat: Chat) -> None:
    ask(chat, Script("Under the mat.").go())
    second = Script("Beside the door.").go()
    ask(chat, second, "Which mat?")
    assert [(message.role, message.content) for message in second.asked] == [
        ("user", "Where is the key?"),
        ("assistant", "Under the mat."),
        ("user", "Which mat?"),
    ]


def test_a_stopped_answer_is_kept_and_marked_incomplete(chat: Chat) -> None:
    script = Script("Under ", "the ", "mat.")
    answer = chat.ask(script, TAG, "Where is the key?")  # type: ignore[arg-type]
    script.go(1)
    next(text for text in answer.texts(0) if text)
    chat.stop()
    script.go(1)
    assert answer.wait(PATIENCE)
    assert script.closed.is_set()  # the engine was told
    (turn,) = ConversationLogger(LOG).turns()
    assert (turn.bot_response, turn.metadata["incomplete"]) == ("Under the ", "stopped")


def test_an_answer_cut_by_the_engines_limit_is_marked_incomplete(chat: Chat) -> None:
    ask(chat, Script("Under the", ends="length").go())
    assert chat.turns[0].metadata["incomplete"] == "length"


def test_stopped_before_the_first_word_records_nothing_and_keeps_the_question(chat: Chat) -> None:
    script = Script("", "Under the mat.")
    answer = chat.ask(script, TAG, "Where is the key?")  # type: ignore[arg-type]
    chat.stop()
    script.go(1)
    assert answer.wait(PATIENCE)
    assert chat.turns == ConversationLogger(LOG).turns() == []
    assert chat.answer is answer
    assert (answer.user_message, answer.error, chat.answering) == ("Where is the key?", None, False)


def test_an_engine_that_goes_away_leaves_text_question_and_reason(chat: Chat) -> None:
    gone = EngineUnavailable("Ollama at 127.0.0.1:1 does not answer")
    ask(chat, Script("Under ", gone).go())
    assert chat.answer is not None
    assert (chat.answer.user_message, chat.answer.text, chat.answer.error) == ("Where is the key?", "Under ", gone)
    assert ConversationLogger(LOG).turns() == []
    ask(chat, Script("Under the mat.").go(), chat.answer.user_message)
    assert [turn.bot_response for turn in chat.turns] == ["Under the mat."]


def test_a_stream_that_ends_without_its_last_piece_is_an_error_not_an_answer(chat: Chat) -> None:
    ask(chat, Script("Under ", ends=None).go())
    assert chat.answer is not None
    assert "broke off" in str(chat.answer.error)
    assert chat.turns == []


def test_an_empty_answer_is_an_error(chat: Chat) -> None:
    ask(chat, Script(" ", "\n").go())
    assert chat.answer is not None
    assert "said nothing" in str(chat.answer.error)
    assert ConversationLogger(LOG).turns() == []


def test_an_answer_that_cannot_be_recorded_is_shown_with_the_reason(home: Path) -> None:
    chat = open_chat(LOG)
    folder = home / "conversations"
    if folder.exists():
        folder.rmdir()
    folder.write_text("a file where the folder should be")
    ask(chat, Script("Under the mat.").go())
    assert chat.answer is not None
    assert chat.answer.text == "Under the mat."
    assert chat.answer.error is not None


def test_every_watcher_sees_the_text_grow_and_end(chat: Chat) -> None:
    script = Script(*"abcdef")
    answer = chat.ask(script, TAG, "?")  # type: ignore[arg-type]
    seen: list[list[str]] = [[], []]
    watchers = [threading.Thread(target=lambda into=into: into.extend(answer.texts(0))) for into in seen]  # type: ignore[misc]
    for watcher in watchers:
        watcher.start()
    script.go()
    for watcher in watchers:
        watcher.join(PATIENCE)
    for texts in seen:
        assert texts[-1] == "abcdef"
        assert all("abcdef".startswith(text) for text in texts)


def test_a_second_question_has_to_wait(chat: Chat) -> None:
    script = Script("Under the mat.")
    answer = chat.ask(script, TAG, "Where is the key?")  # type: ignore[arg-type]
    with pytest.raises(Busy, match="stop it"):
        chat.ask(script, TAG, "And the door?")  # type: ignore[arg-type]
    script.go()
    assert answer.wait(PATIENCE)


def test_a_reload_finds_the_chat_with_the_answer_in_the_making(chat: Chat) -> None:
    script = Script("Under the mat.")
    answer = chat.ask(script, TAG, "Where is the key?")  # type: ignore[arg-type]
    assert open_chat(LOG, chat.id).answer is answer
    script.go()
    assert answer.wait(PATIENCE)


def test_ending_the_program_stops_and_records_what_is_being_said(chat: Chat) -> None:
    script = Script("Under ", "the ", "mat.").go(1)
    answer = chat.ask(script, TAG, "Where is the key?")  # type: ignore[arg-type]
    next(text for text in answer.texts(0) if text)
    threading.Timer(0.2, script.go).start()
    stop_all(PATIENCE)
    (turn,) = ConversationLogger(LOG).turns()
    assert turn.metadata["incomplete"] == "stopped"


def test_a_chat_is_read_back_from_the_log_and_goes_on_in_its_session(chat: Chat) -> None:
    ask(chat, Script("Under the mat.").go())
    name = chat.id
    ask(open_chat(LOG), Script("Yes.").go(), "Another chat?")
    again = open_chat(LOG, name)
    assert [turn.user_message for turn in again.turns] == ["Where is the key?"]
    ask(again, Script("Beside the door.").go(), "Which mat?")
    assert [turn.session_id for turn in ConversationLogger(LOG).turns()].count(name) == 2


def test_a_rating_is_recorded_and_can_be_taken_back(chat: Chat) -> None:
    ask(chat, Script("Under the mat.").go())
    for rating in ("up", "down", None):
        chat.rate(chat.turns[0].id, rating)  # type: ignore[arg-type]
        assert chat.turns == ConversationLogger(LOG).turns()
        assert chat.turns[0].metadata.get("rating") == rating


def test_what_was_deleted_meanwhile_is_gone_after_a_reload(chat: Chat) -> None:
    ask(chat, Script("Under the mat.").go())
    ConversationLogger(LOG).delete(turn_id=chat.turns[0].id)
    assert open_chat(LOG, chat.id).turns == []


@pytest.mark.parametrize("unknown", ["nobody", "../../etc/passwd", "<script>", ""])
def test_an_unknown_chat_is_a_new_one(home: Path, unknown: str) -> None:
    chat = open_chat(LOG, unknown)
    assert chat.turns == []
    assert chat.id not in ("", unknown)


def test_loads_neither_streamlit_nor_torch() -> None:
    code = (
        "import sys, chatbot.session; print([name for name in ('torch', 'streamlit', 'transformers', 'llama_cpp') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
