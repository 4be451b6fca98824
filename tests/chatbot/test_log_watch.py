"""What is forgotten elsewhere is gone from every chat of this process, with all copies of it, and
from what is being answered.
"""

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NoReturn

import pytest
from memory import copies
from native_children import wait_until
from scripted import LOG, PATIENCE, TAG, Script, ask

from chatbot.log_watch import all_watches, keep_looking, watch_of
from chatbot.session import Chat, open_chat
from fine_tuning import paths
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log.file import LogFile, Stamp
from fine_tuning.errors import EngineUnavailable, TurnDeleted

ELSEWHERE = (
    "import sys\nfrom fine_tuning.data_collection.conversation_logger import ConversationLogger\nlog "
    "= ConversationLogger(sys.argv[1])\n"
)


@pytest.fixture
def log(home: Path) -> ConversationLogger:
    return ConversationLogger(LOG)


@pytest.fixture
def backwards() -> str:
    """A word that is in no test's source, written from behind: only what was said holds it from before."""
    return uuid.uuid4().hex


def tell(log: ConversationLogger, backwards: str) -> str:
    """Log a turn with the word, as another process would; its id."""
    return log.log_conversation(
        f"My word is {backwards[::-1]}.", f"I keep {backwards[::-1]} for you.", {"note": f"it is {backwards[::-1]}"}
    ).id


def elsewhere(log: ConversationLogger, act: str, *arguments: str) -> None:
    """Run `act` on the log in another process."""
    subprocess.run([sys.executable, "-c", ELSEWHERE + act, str(log.path), *arguments], check=True, cwd=paths.REPOSITORY)


def said(chat: Chat) -> list[str]:
    return [turn.user_message for turn in chat.look()[0]]


@pytest.mark.parametrize(
    "act",
    [
        "log.delete(turn_id=sys.argv[2])",
        "log.delete(session_id=sys.argv[3])",
        "log.forget([sys.argv[2]])",
        "log.log_conversation('another', 'one')\nlog.delete(turn_id=sys.argv[2])\nlog.log_conversation('more', 'of "
        "it')",
        "log.path.unlink()",
        "log.path.write_bytes(b'')",
        "log.path.write_bytes(log.path.read_bytes().replace(b'My word', b'My work'))",  # damaged: no turn any more
    ],
)
def test_what_another_process_removes_is_gone_from_open_chats_and_from_the_memory(
    log: ConversationLogger, backwards: str, act: str
) -> None:
    turn = tell(log, backwards)
    chats = [open_chat(LOG, log.session_id) for _ in range(3)]
    assert all(len(chat.turns) == 1 for chat in chats) and copies(backwards)
    versions = [chat.version for chat in chats]
    elsewhere(log, act, turn, log.session_id)
    for watch in all_watches():
        watch.look()
    assert [chat.turns for chat in chats] == [[], [], []]
    assert all(chat.version != before and chat.forgotten == 1 for chat, before in zip(chats, versions, strict=True))
    assert copies(backwards) == []


def test_other_chats_and_other_turns_stay_and_are_not_drawn_anew(log: ConversationLogger) -> None:
    kept, gone = (log.log_conversation(text, "x") for text in ("kept", "gone"))
    log.new_session()
    log.log_conversation("other", "x")
    chat, other = open_chat(LOG, kept.session_id), open_chat(LOG, log.session_id)
    version = other.version
    log.delete(gone.id)
    watch_of(LOG).look()
    assert (said(chat), said(other), other.version, other.forgotten) == (["kept"], ["other"], version, 0)


def test_edits_and_ratings_from_elsewhere_are_taken_over(log: ConversationLogger) -> None:
    turn = log.log_conversation("Where is the key?", "Under the cat.")
    chat = open_chat(LOG, log.session_id)
    log.edit(turn.id, "Under the mat.")
    log.rate(turn.id, "up")
    version = chat.version
    watch_of(LOG).look()
    assert chat.turns == log.turns() and chat.version != version and chat.forgotten == 0


def test_it_is_soon_gone_from_a_chat_that_nobody_looks_at(log: ConversationLogger, backwards: str) -> None:
    turn = tell(log, backwards)
    chat, ended = open_chat(LOG, log.session_id), threading.Event()
    looking = threading.Thread(target=keep_looking, args=(ended,), daemon=True)
    looking.start()
    try:
        elsewhere(log, "log.delete(sys.argv[2])", turn)
        wait_until(lambda: chat.turns == [])
    finally:
        ended.set()
        looking.join(PATIENCE)
    assert copies(backwards) == []


def test_the_watch_goes_on_when_the_log_could_not_be_read(log: ConversationLogger) -> None:
    turn = log.log_conversation("a", "b")
    chat, ended = open_chat(LOG, log.session_id), threading.Event()
    looking = threading.Thread(target=keep_looking, args=(ended,), daemon=True)
    content = log.path.read_bytes()
    log.path.write_bytes(b"somebody else's\n")
    looking.start()
    time.sleep(1.0)
    assert chat.turns == [turn]  # nobody knows
    log.path.write_bytes(content)
    log.delete(turn.id)
    wait_until(lambda: chat.turns == [])
    ended.set()
    looking.join(PATIENCE)


def test_a_log_that_stays_the_same_is_not_read(log: ConversationLogger, monkeypatch: pytest.MonkeyPatch) -> None:
    log.log_conversation("a", "b")
    chats = [open_chat(LOG, log.session_id) for _ in range(3)]
    opened, readings = LogFile.opened, []

    def counted(file: LogFile) -> AbstractContextManager[tuple[BinaryIO, Stamp]]:
        readings.append(file)
        return opened(file)

    def never(file: LogFile) -> NoReturn:
        raise AssertionError("the whole log was read")

    monkeypatch.setattr(LogFile, "opened", counted)
    monkeypatch.setattr(LogFile, "read", never)
    for _ in range(100):
        watch_of(LOG).look()
    assert not readings
    ConversationLogger(LOG).log_conversation("c", "d")
    for _ in range(100):
        watch_of(LOG).look()
    assert len(readings) == 1 + len(chats)  # what was appended, and each chat's own turns
    assert all(len(chat.turns) == 1 for chat in chats)


# What is being answered


def ask_about_it(chat: Chat, script: Script, backwards: str, pieces: int) -> None:
    """A question with the word; `pieces` of its answer have come in when this returns."""
    answer = chat.ask(script, TAG, f"What about {backwards[::-1]}?")  # type: ignore[arg-type]
    script.go(pieces)
    next(text for text in answer.texts(0) if len(text.split()) >= pieces)


class Echo(Script):
    """Says again what it was told, a piece at a time."""

    def chat(self, tag: str, messages: object, options: object = None) -> Iterator[object]:  # type: ignore[override]
        text = messages[0].content.split()[-1]  # type: ignore[index]
        del messages
        self.pieces = ("You ", "said ", text, "!")
        return super().chat(tag, [], options)


def test_an_answer_in_the_making_that_would_tell_of_it_ends_and_is_never_logged(
    log: ConversationLogger, backwards: str
) -> None:
    turn = tell(log, backwards)
    chat, script = open_chat(LOG, log.session_id), Echo()
    ask_about_it(chat, script, backwards, 3)
    assert chat.answer and backwards[::-1] in chat.answer.text
    elsewhere(log, "log.delete(sys.argv[2])", turn)
    watch_of(LOG).look()
    assert (chat.turns, chat.answer, chat.answering) == ([], None, False)
    script.go()
    assert script.closed.wait(PATIENCE)
    time.sleep(0.2)
    del script
    assert log.turns() == [] and backwards[::-1].encode() not in log.path.read_bytes()
    assert copies(backwards) == []


def test_an_answer_that_ends_before_anybody_looks_is_not_logged_either(log: ConversationLogger, backwards: str) -> None:
    turn = tell(log, backwards)
    chat, script = open_chat(LOG, log.session_id), Echo()
    ask_about_it(chat, script, backwards, 3)
    answer = chat.answer
    assert answer
    elsewhere(log, "log.delete(sys.argv[2])", turn)
    script.go()
    assert answer.wait(PATIENCE)
    assert (chat.turns, chat.answer, answer.text, answer.user_message, answer.error) == ([], None, "", "", None)
    assert log.turns() == [] and backwards[::-1].encode() not in log.path.read_bytes()
    del answer, script
    assert copies(backwards) == []


def test_an_answer_given_anew_ends_with_the_turn_whose_question_it_answers(
    log: ConversationLogger, backwards: str
) -> None:
    turn = tell(log, backwards)
    chat, script = open_chat(LOG, log.session_id), Script("You ", "said ", "so.")
    answer = chat.regenerate(script, TAG)  # type: ignore[arg-type]
    script.go(1)
    next(text for text in answer.texts(0) if text)
    elsewhere(log, "log.delete(sys.argv[2])", turn)
    script.go()
    assert answer.wait(PATIENCE)
    assert log.turns() == chat.turns == [] and chat.answer is None
    del answer, script
    assert copies(backwards) == []


def test_an_answer_that_failed_goes_with_what_it_was_asked_after(log: ConversationLogger, backwards: str) -> None:
    turn = tell(log, backwards)
    chat = open_chat(LOG, log.session_id)
    ask(chat, Script("You said ", EngineUnavailable("gone")).go(), f"What about {backwards[::-1]}?")
    assert chat.answer and chat.answer.error
    elsewhere(log, "log.delete(sys.argv[2])", turn)
    watch_of(LOG).look()
    assert chat.answer is None
    assert copies(backwards) == []


def test_an_answer_that_was_told_nothing_of_it_goes_on(log: ConversationLogger) -> None:
    gone = log.log_conversation("gone", "x")
    chat = open_chat(LOG, log.session_id)
    log.delete(gone.id)
    script = Script("Fine", ".")
    answer = chat.ask(script, TAG, "How are you?")  # type: ignore[arg-type]
    script.go(1)
    next(text for text in answer.texts(0) if text)
    elsewhere(log, "other = log.log_conversation('other', 'x')\nlog.delete(other.id)")
    watch_of(LOG).look()
    script.go()
    assert answer.wait(PATIENCE)
    assert said(chat) == ["How are you?"] == [turn.user_message for turn in log.turns()]


def test_turns_off_the_record_that_were_answered_from_it_go_and_those_before_stay(
    log: ConversationLogger, backwards: str
) -> None:
    chat = open_chat(LOG)
    chat.recording = False
    ask(chat, Script("Hello.").go(), "Hello!")
    chat.recording = True
    ask(chat, Script("Noted.").go(), f"My word is {backwards[::-1]}.")
    (recorded,) = log.turns()
    chat.recording = False
    ask(chat, Script(f"You said {backwards[::-1]}.").go(), "What was it?")
    chat.recording = True
    ask(chat, Script("Well.").go(), "How are you?")
    assert len(chat.turns) == 4
    elsewhere(log, "log.delete(sys.argv[2])", recorded.id)
    watch_of(LOG).look()
    assert said(chat) == ["Hello!", "How are you?"]
    del recorded
    assert copies(backwards) == []


def test_a_turn_whose_source_was_deleted_is_refused_by_the_log_itself(log: ConversationLogger) -> None:
    turn, other = (log.log_conversation(text, "x") for text in ("turn", "other"))
    as_of = log.stamp()
    log.log_conversation("a", "b", answered_from=[turn.id], as_of=as_of)  # changed since, and it is still there
    elsewhere(log, "log.delete(sys.argv[2])", turn.id)
    before = log.path.read_bytes()
    with pytest.raises(TurnDeleted, match="nothing was logged"):
        log.log_conversation("c", "d", answered_from=[turn.id, other.id], as_of=as_of)
    assert log.path.read_bytes() == before
    log.log_conversation("e", "f", answered_from=[other.id], as_of=as_of)


def test_what_is_logged_while_others_look_is_never_taken_for_deleted(log: ConversationLogger) -> None:
    chat, ended = open_chat(LOG), threading.Event()

    def look() -> None:
        while not ended.is_set():
            watch_of(LOG).look()
            time.sleep(0.001)

    def write() -> None:
        other = ConversationLogger(LOG)
        while not ended.is_set():
            turn = other.log_conversation("other", "x")
            other.delete(turn.id)
            time.sleep(0.01)  # else the others hardly get the log's lock

    threads = [threading.Thread(target=act, daemon=True) for act in (look, look, write)]
    for thread in threads:
        thread.start()
    try:
        for number in range(20):
            ask(chat, Script("Fine.").go(), f"question {number}")
            assert chat.answer is None
    finally:
        ended.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert said(chat) == [f"question {number}" for number in range(20)]
    assert chat.forgotten == 0


@pytest.mark.parametrize(
    "act", [lambda chat, id: chat.rate(id, "up"), lambda chat, id: chat.edit(id, "better")], ids=["rating", "edit"]
)
def test_what_a_page_does_to_a_turn_that_is_gone_is_refused(
    log: ConversationLogger, act: Callable[[Chat, str], None]
) -> None:
    turn = log.log_conversation("a", "b")
    chat = open_chat(LOG, log.session_id)
    elsewhere(log, "log.delete(sys.argv[2])", turn.id)
    with pytest.raises(Exception, match="no turn"):
        act(chat, turn.id)
    watch_of(LOG).look()
    assert chat.turns == log.turns() == []
