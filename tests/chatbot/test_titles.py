"""A chat's title, made by the model: when it is asked for, when it is given up, and that it goes with its turn."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted import LOG, PATIENCE, Script, ask

from chatbot.session import Chat, open_chat
from fine_tuning.data_collection.log import chat_labels
from fine_tuning.integration import chat_titles, chats


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for a title right after the answer."""
    monkeypatch.setattr(chat_titles, "_PAUSE", 0.0)


@pytest.fixture
def chat(home: Path) -> Chat:
    chat = open_chat(LOG)
    chat.titles = True
    return chat


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def title(chat: Chat) -> str:
    return chats.get(chat.logger.index, chat.id).title


def is_quiet() -> bool:
    return not chat_titles._at_work


class Titled(Script):
    """Answers the first question at once, and then says a title, piece by piece, when it is let go."""

    def __init__(self, *pieces: str | Exception) -> None:
        super().__init__(*pieces)
        self.says = Script("Under the mat.").go()

    def chat(self, tag, messages, options=None):  # type: ignore[no-untyped-def]
        if messages[-1].content == chat_titles.ASKED:
            return super().chat(tag, messages, options)
        return self.says.chat(tag, messages, options)


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("The lost key", "The lost key"),
        ('"The Lost Key."', "The Lost Key"),
        ("Title: **The lost key**\n\nI chose it because ...", "The lost key"),
        ("Sure! Here is a title:\n“The lost key”", "The lost key"),
        ("<think>Which one?</think>The lost key", "The lost key"),
        ("# Der verlorene Schlüssel", "Der verlorene Schlüssel"),
        ("The lost key " * 20, "The lost key The lost key The lost key The lost key The lost"),
        ("", ""),
        ("...", ""),
        ("x" * 300, ""),
    ],
)
def test_what_a_model_says_becomes_one_short_line_or_nothing(said: str, title: str) -> None:
    assert chat_titles.clean(said) == title and len(title) <= 60


def test_the_model_names_a_chat_after_its_first_answer_as_if_the_chat_went_on(chat: Chat) -> None:
    engine = Titled('"The Lost ', 'Key"').go()
    ask(chat, engine)
    until(lambda: title(chat) == "The Lost Key")
    assert [message.content for message in engine.asked] == ["Where is the key?", "Under the mat.", chat_titles.ASKED]
    ask(chat, Titled("Another title").go(), "Which mat?")
    until(is_quiet)
    assert title(chat) == "The Lost Key" and len(chat.turns) == 2


def test_a_persons_name_counts_before_and_after_and_taken_back_the_made_one_is_there_again(chat: Chat) -> None:
    engine = Titled("The Lost Key")
    ask(chat, engine)
    chats.change(chat.logger.index, chat.id, title="Mine", pinned=True)
    engine.go()
    until(is_quiet)
    assert title(chat) == "Mine"
    assert chats.change(chat.logger.index, chat.id, title="").title == "The Lost Key"
    assert chats.search(chat.logger.index, "lost key")[0].chat.id == chat.id


def test_a_question_gives_the_title_up_and_is_answered(chat: Chat) -> None:
    engine = Titled("The ", "Lost ", "Key").go(1)
    ask(chat, engine)
    until(lambda: engine.asked)
    chat_titles.interrupt()
    engine.go()
    assert engine.closed.wait(PATIENCE)
    until(is_quiet)
    assert title(chat) == "Where is the key?"
    other = open_chat(LOG)  # in any chat, of any page
    other.titles = True
    engine = Titled("The Lost Key")
    ask(other, engine)
    until(lambda: engine.asked)
    ask(chat, Script("The blue one.").go(), "Which mat?")
    engine.go()
    until(is_quiet)
    assert title(other) == "Where is the key?"


def test_a_title_that_is_of_no_use_or_fails_leaves_the_first_question(chat: Chat) -> None:
    ask(chat, Titled("...").go())
    until(is_quiet)
    assert title(chat) == "Where is the key?"
    other = open_chat(LOG)
    other.titles = True
    ask(other, Titled(OSError("the engine is gone")).go())
    until(is_quiet)
    assert title(other) == "Where is the key?"


def test_nothing_is_asked_where_it_is_off_or_nothing_is_recorded(chat: Chat) -> None:
    chat.recording = False
    engine = Titled("The Lost Key").go()
    ask(chat, engine)
    off = open_chat(LOG)
    ask(off, engine)
    until(is_quiet)
    assert not engine.asked


@pytest.mark.parametrize("by", ["turn", "session", "forget"])
def test_no_byte_of_it_is_left_once_the_turn_is_deleted_that_it_was_made_of(chat: Chat, home: Path, by: str) -> None:
    ask(chat, Titled("zorbexine").go())
    until(lambda: title(chat) == "zorbexine")
    if by == "turn":  # the chat itself stays
        ask(chat, Script("The blue one.").go(), "Which mat?")
        chat.logger.delete(chat.turns[0].id)
        assert title(chat) == "Which mat?"
    elif by == "session":
        chat.logger.delete(session_id=chat.id)
    else:
        chat.logger.forget([turn.id for turn in chat.turns])
    assert not any(b"zorbexine" in file.read_bytes() for file in home.rglob("*") if file.is_file())


def test_a_title_that_comes_after_its_turn_was_deleted_is_not_kept(chat: Chat, home: Path) -> None:
    ask(chat, Script("Under the mat.").go())
    (turn,) = chat.turns
    chat.logger.delete(turn.id)
    chat_titles.keep(chat.logger.index, turn, "zorbexine")
    assert chat_labels.labels() == {}
    assert not any(b"zorbexine" in file.read_bytes() for file in home.rglob("*") if file.is_file())
