import pytest

from fine_tuning.conversation import Conversation, Turn, conversations_of, parse_conversations
from fine_tuning.errors import DataError


def turn(number: int, session: str) -> Turn:
    return Turn(id=f"t{number}", session_id=session, timestamp="", user_message=f"q{number}", bot_response=f"a{number}")


def test_turns_are_grouped_by_session_in_order():
    found = conversations_of([turn(1, "a"), turn(2, "b"), turn(3, "a")])
    assert [[each.id for each in conversation.turns] for conversation in found] == [["t1", "t3"], ["t2"]]
    assert [message.content for message in found[0].messages()] == ["q1", "a1", "q3", "a3"]


def test_a_system_message_comes_first():
    conversation = Conversation(id="x", turns=(turn(1, "x"),), system="Be kind.")
    assert [message.role for message in conversation.messages()] == ["system", "user", "assistant"]


def test_plain_dicts_are_turns_and_every_bad_record_is_named_by_its_index():
    good = {"user_message": "q", "bot_response": "a"}
    assert parse_conversations([good, good])[1].turns[0].user_message == "q"
    with pytest.raises(DataError) as caught:
        parse_conversations([good, {"user_message": "q"}, {"id": "x", "turns": []}])
    assert "record 1" in str(caught.value)
    assert "record 2" in str(caught.value)
    assert "record 0" not in str(caught.value)
