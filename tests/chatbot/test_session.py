"""A chat turn, with an engine whose every piece the test lets go: only so can "in the middle of the
answer" be a fixed place.
"""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from native_children import Children, wait_until
from scripted import LOG, PATIENCE, TAG, Script, ask

from chatbot.session import Chat, open_chat, stop_all
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ChatOptions, ModelSpec
from fine_tuning.engines.default_base import CHATML
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import Busy, DataError, EngineError, EngineUnavailable
from fine_tuning.integration.chat_settings import ChatSettings


@pytest.fixture
def chat(home: Path) -> Chat:
    return open_chat(LOG)


def test_an_answer_becomes_a_recorded_turn_with_its_model(chat: Chat) -> None:
    ask(chat, Script("Under ", "the mat.").go())
    (turn,) = chat.turns
    assert (turn.user_message, turn.bot_response, turn.session_id) == ("Where is the key?", "Under the mat.", chat.id)
    assert turn.metadata.items() >= {"model": TAG, "digest": "d1", "engine": "scripted", "tokens": 2}.items()
    assert turn.metadata["seconds"] >= 0
    assert "incomplete" not in turn.metadata
    assert [logged.id for logged in ConversationLogger(LOG).turns()] == [turn.id]
    assert chat.answer is None


@pytest.mark.parametrize(
    ("question", "pieces", "logged"),
    [
        ("Where \ud83d?", ("Under it.",), ("Where \ufffd?", "Under it.")),
        ("\ud800", ("x\udfff", "y"), ("\ufffd", "x\ufffdy")),
        ("\ud83d\ude00 \0 \ufeff", ("\ud83d", "\ude00"), ("😀 \0 \ufeff", "😀")),
    ],
)
def test_half_a_character_loses_no_turn(
    chat: Chat, question: str, pieces: tuple[str, ...], logged: tuple[str, str]
) -> None:
    script = Script(*pieces).go()
    ask(chat, script, question)
    (turn,) = ConversationLogger(LOG).turns()
    assert (turn.user_message, turn.bot_response) == logged
    assert [message.content for message in script.asked] == [logged[0]]
    assert chat.turns == [turn]


def test_thoughts_are_kept_beside_the_answer_and_not_fed_again(chat: Chat) -> None:
    ask(chat, Script("<think>\nUnder", " the mat?\n</think>\n\n", "Under the mat.").go())
    (turn,) = ConversationLogger(LOG).turns()
    assert (turn.bot_response, turn.metadata["thoughts"]) == ("Under the mat.", "Under the mat?")
    second = Script("Beside the door.").go()
    ask(chat, second, "Which mat?")
    assert second.asked[1].content == "Under the mat."


def test_who_only_thinks_said_nothing(chat: Chat) -> None:
    ask(chat, Script("<think>\nhm\n</think>\n").go())
    assert chat.turns == []
    assert chat.answer is not None and "gave an empty answer" in str(chat.answer.error)


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
    assert "stopped in the middle" in str(chat.answer.error)
    assert chat.turns == []


def test_an_empty_answer_is_an_error(chat: Chat) -> None:
    ask(chat, Script(" ", "\n").go())
    assert chat.answer is not None
    assert "gave an empty answer" in str(chat.answer.error)
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

    def go_on_when_asked_to_stop() -> None:
        wait_until(lambda: answer.stopping)
        script.go()

    threading.Thread(target=go_on_when_asked_to_stop).start()
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


def test_an_edited_answer_stands_in_the_chat_and_in_the_log(chat: Chat) -> None:
    ask(chat, Script("Under the cat.").go())
    chat.edit(chat.turns[0].id, "Under the mat.")
    assert chat.turns == ConversationLogger(LOG).turns()
    assert (chat.turns[0].bot_response, chat.turns[0].metadata["original_response"]) == (
        "Under the mat.",
        "Under the cat.",
    )
    follow = Script("Yes.").go()
    ask(chat, follow, "Really?")
    assert "Under the mat." in [message.content for message in follow.asked]
    with pytest.raises(DataError):
        chat.edit(chat.turns[0].id, " ")


def test_an_answer_given_anew_stands_and_the_one_before_stays_in_the_log(chat: Chat) -> None:
    ask(chat, Script("In the garden.").go(), "Where are you?")
    ask(chat, Script("Under the cat.").go())
    again = Script("Under the mat.").go()
    assert chat.regenerate(again, TAG).wait(PATIENCE)  # type: ignore[arg-type]
    assert [message.content for message in again.asked] == ["Where are you?", "In the garden.", "Where is the key?"]
    logged = ConversationLogger(LOG).turns()
    assert [turn.bot_response for turn in logged] == ["In the garden.", "Under the cat.", "Under the mat."]
    assert logged[2].metadata["regenerates"] == logged[1].id
    for seen in (chat, open_chat(LOG, chat.id)):
        assert [turn.bot_response for turn in seen.look()[0]] == ["In the garden.", "Under the mat."]
    follow = Script("Yes.").go()
    ask(chat, follow, "Really?")
    assert "Under the cat." not in [message.content for message in follow.asked]


def test_nothing_asked_is_nothing_to_answer_anew(chat: Chat) -> None:
    with pytest.raises(DataError, match="ask something first"):
        chat.regenerate(Script("?"), TAG)  # type: ignore[arg-type]


def test_while_recording_is_off_nothing_is_written_and_the_chat_goes_on(chat: Chat, home: Path) -> None:
    chat.recording = False
    ask(chat, Script("Under the mat.").go())
    second = Script("The blue one.").go()
    ask(chat, second, "Which mat?")
    assert [turn.bot_response for turn in chat.turns] == ["Under the mat.", "The blue one."]
    assert "Under the mat." in [message.content for message in second.asked]
    assert not [path for path in home.rglob("*") if path.is_file()]
    with pytest.raises(DataError):
        chat.rate(chat.turns[0].id, "up")


def test_what_was_said_while_not_recording_stays_out_of_log_and_context(chat: Chat) -> None:
    ask(chat, Script("Hello.").go(), "Hello!")
    chat.recording = False
    ask(chat, Script("I will keep it.").go(), "My secret is zorbexine.")
    chat.recording = True
    third = Script("Fine.").go()
    ask(chat, third, "How are you?")
    assert [message.content for message in third.asked] == ["Hello!", "Hello.", "How are you?"]
    assert [turn.user_message for turn in ConversationLogger(LOG).turns()] == ["Hello!", "How are you?"]
    assert b"zorbexine" not in ConversationLogger(LOG).path.read_bytes()
    assert len(chat.turns) == 3  # the person still sees all of it


def test_an_answer_is_not_recorded_if_recording_was_switched_off_or_on_meanwhile(chat: Chat) -> None:
    for before, after in ((True, False), (False, True)):
        chat.recording = before
        script = Script("Under the mat.")
        answer = chat.ask(script, TAG, "Where is the key?")  # type: ignore[arg-type]
        chat.recording = after
        script.go()
        assert answer.wait(PATIENCE)
    assert ConversationLogger(LOG).turns() == []
    chat.recording = True
    assert chat.regenerate(Script("Beside it.").go(), TAG).wait(PATIENCE)  # type: ignore[arg-type]
    assert ConversationLogger(LOG).turns() == []  # its question was asked off the record
    assert [turn.bot_response for turn in chat.look()[0]] == ["Under the mat.", "Beside it."]


def test_a_model_is_not_told_what_was_deleted_meanwhile(chat: Chat) -> None:
    ask(chat, Script("I will keep it.").go(), "My secret is 4711.")
    ConversationLogger(LOG).delete(turn_id=chat.turns[0].id)
    second = Script("Fine.").go()
    ask(chat, second, "How are you?")
    assert [message.content for message in second.asked] == ["How are you?"]


def test_what_was_deleted_meanwhile_is_gone_after_a_reload(chat: Chat) -> None:
    ask(chat, Script("Under the mat.").go())
    ConversationLogger(LOG).delete(turn_id=chat.turns[0].id)
    assert open_chat(LOG, chat.id).turns == []


@pytest.mark.parametrize("unknown", ["nobody", "../../etc/passwd", "<script>", ""])
def test_an_unknown_chat_is_a_new_one(home: Path, unknown: str) -> None:
    chat = open_chat(LOG, unknown)
    assert chat.turns == []
    assert chat.id not in ("", unknown)


@pytest.mark.parametrize("name", ["SIGILL", "SIGSEGV", "SIGKILL"])
def test_native_code_that_dies_in_mid_answer_is_an_error_and_the_chat_goes_on(
    chat: Chat, base_gguf: Path, name: str, children: Children
) -> None:
    engine = EmbeddedEngine()
    engine.create(TAG, ModelSpec(base_gguf, template=CHATML, parameters={"temperature": 0, "num_predict": 3000}))
    answer = chat.ask(engine, TAG, "Write a very long story about the sea.")
    wait_until(lambda: answer.text)
    (child,) = children()
    child.send_signal(getattr(signal, name))
    assert answer.wait(PATIENCE)
    assert isinstance(answer.error, EngineError) and f"({name})" in str(answer.error)
    assert ConversationLogger(LOG).turns() == []
    engine.create(TAG, ModelSpec(TAG, parameters={"num_predict": 12}))
    assert chat.ask(engine, TAG, "What is the capital of France?").wait(60)
    (turn,) = ConversationLogger(LOG).turns()
    assert "Paris" in turn.bot_response
    engine.unload()


def test_loads_neither_streamlit_nor_torch() -> None:
    code = (
        "import sys, chatbot.session; print([name for name in ('torch', 'streamlit', 'transformers', "
        "'llama_cpp') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def logged_parents() -> dict[str, str]:
    """By answer: the answer before it in its path, as the log says."""
    turns = ConversationLogger(LOG).turns()
    said = {turn.id: turn.bot_response for turn in turns} | {"": ""}
    return {turn.bot_response: said[turn.metadata["parent"]] for turn in turns}


def shown(chat: Chat) -> list[str]:
    return [turn.bot_response for turn in chat.look()[0]]


def id_of(chat: Chat, answer: str) -> str:
    return next(turn.id for turn in chat.turns if turn.bot_response == answer)


def test_a_question_can_be_asked_in_other_words_and_the_chat_goes_on_from_any_branch(chat: Chat) -> None:
    ask(chat, Script("Under the mat.").go())
    ask(chat, Script("The red one.").go(), "Which mat?")
    ask(chat, Script("Yes.").go(), "Really?")
    instead = Script("The brass one.").go()
    assert chat.ask_instead(instead, TAG, id_of(chat, "The red one."), "Which key?").wait(PATIENCE)  # type: ignore[arg-type]
    assert [message.content for message in instead.asked] == ["Where is the key?", "Under the mat.", "Which key?"]
    assert shown(chat) == ["Under the mat.", "The brass one."]
    others = chat.others()[chat.look()[0][1].id]
    assert others.questions == (id_of(chat, "The red one."), id_of(chat, "The brass one.")) and len(others.answers) == 1
    chat.show(others.questions[0])
    assert shown(chat) == ["Under the mat.", "The red one.", "Yes."]
    follow = Script("It is old.").go()
    ask(chat, follow, "How old?")
    assert "The brass one." not in [message.content for message in follow.asked]
    assert shown(chat) == ["Under the mat.", "The red one.", "Yes.", "It is old."] == shown(open_chat(LOG, chat.id))
    assert logged_parents() == {
        "Under the mat.": "",
        "The red one.": "Under the mat.",
        "Yes.": "The red one.",
        "The brass one.": "Under the mat.",
        "It is old.": "Yes.",
    }
    assert "regenerates" not in next(turn for turn in chat.turns if turn.bot_response == "The brass one.").metadata


def test_an_answer_in_the_middle_can_be_given_anew(chat: Chat) -> None:
    ask(chat, Script("Under the mat.").go())
    first = chat.turns[0].id
    ask(chat, Script("The red one.").go(), "Which mat?")
    again = Script("In the garden.").go()
    assert chat.regenerate(again, TAG, first).wait(PATIENCE)  # type: ignore[arg-type]
    assert [message.content for message in again.asked] == ["Where is the key?"]
    assert shown(chat) == ["In the garden."]
    assert chat.others()[chat.look()[0][0].id].answers == (first, chat.turns[-1].id)
    chat.rate(first, "up")
    assert shown(chat) == ["In the garden."]  # what a person looks at stays
    assert shown(open_chat(LOG, chat.id)) == ["Under the mat.", "The red one."]


@pytest.mark.parametrize(
    "what", ["rate", "edit", "show", "settings", "open", "recorded elsewhere", "excluded elsewhere"]
)
def test_nothing_but_stop_ends_an_answer_in_the_making(chat: Chat, what: str) -> None:
    ask(chat, Script("Under the mat.").go())
    first = chat.turns[0].id
    script = Script("The ", "red ", "one.").go(1)
    answer = chat.ask(script, TAG, "Which mat?")  # type: ignore[arg-type]
    next(text for text in answer.texts(0) if text)
    match what:
        case "rate":
            chat.rate(first, "up", "It is there.")
        case "edit":
            chat.edit(first, "Under the blue mat.")
        case "show":
            chat.show(first)
        case "settings":
            chat.settings = ChatSettings(system="Be brief.")
        case "open":
            open_chat(LOG, chat.id)
        case "recorded elsewhere":
            ConversationLogger(LOG).log_conversation("Another chat?", "Yes.")
        case _:
            ConversationLogger(LOG).exclude(first)
    script.go()
    assert answer.wait(PATIENCE) and not answer.error
    assert shown(chat)[-1] == "The red one." and "incomplete" not in chat.turns[-1].metadata


def test_a_branch_that_failed_can_be_asked_again_in_its_place_or_given_up(chat: Chat) -> None:
    ask(chat, Script("Under the mat.").go())
    ask(chat, Script("The red one.").go(), "Which mat?")
    gone = EngineUnavailable("gone")
    for _ in range(2):
        assert chat.ask_instead(Script(gone).go(), TAG, id_of(chat, "The red one."), "Which key?").wait(PATIENCE)  # type: ignore[arg-type]
        assert shown(chat) == ["Under the mat."]
        chat.dismiss()
        assert shown(chat) == ["Under the mat.", "The red one."]
    assert chat.ask_instead(Script(gone).go(), TAG, id_of(chat, "The red one."), "Which key?").wait(PATIENCE)  # type: ignore[arg-type]
    ask(chat, Script("The brass one.").go(), "Which key?")
    assert logged_parents()["The brass one."] == "Under the mat."


def test_what_follows_an_unrecorded_turn_is_shown_behind_it_and_logged_behind_the_last_recorded_one(chat: Chat) -> None:
    ask(chat, Script("Under the mat.").go())
    chat.recording = False
    ask(chat, Script("The red one.").go(), "Which mat?")
    chat.recording = True
    ask(chat, Script("Yes.").go(), "Really?")
    assert shown(chat) == ["Under the mat.", "The red one.", "Yes."]
    assert logged_parents() == {"Under the mat.": "", "Yes.": "Under the mat."}
    assert shown(open_chat(LOG, chat.id)) == ["Under the mat.", "Yes."]


def test_settings_reach_the_engine_are_logged_and_come_back(chat: Chat) -> None:
    settings = ChatSettings(
        system="Talk like a pirate.", temperature=0.3, top_p=0.9, max_tokens=50, context=4096, seed=7
    )
    chat.settings = settings
    script = Script("Arr.").go()
    ask(chat, script)
    assert [(message.role, message.content) for message in script.asked] == [
        ("system", "Talk like a pirate."),
        ("user", "Where is the key?"),
    ]
    assert script.options == ChatOptions(temperature=0.3, top_p=0.9, max_tokens=50, context=4096, seed=7)
    (turn,) = ConversationLogger(LOG).turns()
    assert turn.metadata["system"] == "Talk like a pirate."
    assert turn.metadata["options"] == {"temperature": 0.3, "top_p": 0.9, "max_tokens": 50, "context": 4096, "seed": 7}
    again = open_chat(LOG, chat.id, limit=9)
    assert again.settings == settings
    again.settings = ChatSettings()
    ask(again, script := Script("Hello.").go(), "Hello?")
    assert script.options == ChatOptions(default_max_tokens=9) and script.asked[0].role == "user"
    assert "system" not in again.turns[-1].metadata and open_chat(LOG, chat.id).settings == ChatSettings()


def test_a_system_prompt_is_forgotten_with_the_turns_that_it_was_said_in(chat: Chat) -> None:
    chat.settings = ChatSettings(system="The word is Bramble.", temperature=0.5)
    ask(chat, Script("Yes.").go())
    ConversationLogger(LOG).delete(turn_id=chat.turns[0].id)
    chat._watch.look()
    assert chat.settings == ChatSettings(temperature=0.5)


def test_what_replaces_a_question_that_is_deleted_meanwhile_is_forgotten_with_it(chat: Chat) -> None:
    ask(chat, Script("Under the mat.").go())
    script = Script("Beside ", "the door.").go(1)
    answer = chat.ask_instead(script, TAG, chat.turns[0].id, "Where is the key now?")  # type: ignore[arg-type]
    next(text for text in answer.texts(0) if text)
    ConversationLogger(LOG).delete(turn_id=chat.turns[0].id)
    script.go()
    assert answer.wait(PATIENCE)
    assert answer.forgotten and answer.user_message == "" and ConversationLogger(LOG).turns() == chat.turns == []


def two_tabs(home: Path) -> tuple[Chat, Chat]:
    """One chat, open in two tabs, with a question and its answer."""
    one = open_chat(LOG)
    ask(one, Script("Under the mat.").go())
    return one, open_chat(LOG, one.id)


def test_what_is_asked_in_one_tab_appears_in_the_other(home: Path) -> None:
    one, other = two_tabs(home)
    version = other.version
    ask(one, Script("Beside the door.").go(), "Which mat?")
    one._watch.look()
    assert shown(other) == shown(one) == ["Under the mat.", "Beside the door."] and other.version > version
    ask(other, Script("The left one.").go(), "Which door?")
    other._watch.look()
    assert shown(one) == shown(other) == ["Under the mat.", "Beside the door.", "The left one."]
    assert len(ConversationLogger(LOG).turns()) == 3


@pytest.mark.parametrize("pause", [1, 2])
def test_what_both_tabs_ask_at_once_is_kept_in_both(home: Path, pause: int) -> None:
    one, other = two_tabs(home)
    slow = Script("Beside ", "the ", "door.")
    answer = other.ask(slow, TAG, "Which mat?")  # type: ignore[arg-type]
    slow.go(pause)
    ask(one, Script("At nine.").go(), "When is it locked?")
    one._watch.look()
    assert other.answering and shown(other) == ["Under the mat."]
    slow.go()
    assert answer.wait(PATIENCE)
    one._watch.look()
    assert shown(other)[-1] == "Beside the door." and shown(one)[-1] == "At nine."
    assert {turn.id for turn in one.turns} == {turn.id for turn in other.turns} and len(one.turns) == 3


def test_a_branch_that_is_shown_stays_while_another_tab_goes_on_elsewhere(home: Path) -> None:
    one, other = two_tabs(home)
    ask(one, Script("Beside the door.").go(), "Which mat?")
    one._watch.look()
    other.show(id_of(other, "Beside the door."))
    first = id_of(one, "Under the mat.")
    answer = one.ask_instead(Script("Nowhere.").go(), TAG, first, "Is there a key?")  # type: ignore[arg-type]
    assert answer.wait(PATIENCE)
    one._watch.look()
    assert shown(one) == ["Nowhere."] and shown(other) == ["Under the mat.", "Beside the door."]
    assert [len(each.questions) for each in other.others().values()] == [2, 1]


def test_what_a_program_logs_in_a_chat_appears_in_its_page_and_its_deletion_too(home: Path) -> None:
    one, other = two_tabs(home)
    log = ConversationLogger(LOG, one.id)
    added = log.log_conversation("Which mat?", "The red one.", {"model": TAG})
    one._watch.look()
    assert shown(one) == shown(other) == ["Under the mat.", "The red one."]
    log.delete(added.id)
    one._watch.look()
    assert shown(one) == shown(other) == ["Under the mat."]


def test_what_one_tab_does_not_record_stays_there(home: Path) -> None:
    one, other = two_tabs(home)
    one.recording = False
    ask(one, Script("A secret.").go(), "What is it?")
    ask(other, Script("Beside the door.").go(), "Which mat?")
    one._watch.look()
    assert shown(one) == ["Under the mat.", "A secret."] and len(one.turns) == 3
    assert shown(other) == ["Under the mat.", "Beside the door."]
