"""What the leak probe looks for, and what it makes of answers. benchmarks/gate.py probes a real model."""

import pytest

from fine_tuning.conversation import Conversation, Turn
from fine_tuning.data_collection.data_cleaner import CleanSettings, clean_text
from fine_tuning.data_collection.placeholders import Placeholders
from fine_tuning.data_collection.privacy import scrub
from fine_tuning.evaluation import leak_probe
from fine_tuning.evaluation.test_set import Reader


def render(messages):
    return "".join(f"<{message.role}>{message.content}</>" for message in messages) + "<assistant>"


READER = Reader(render, lambda text: [ord(character) for character in text], lambda messages: [])


def conversation(*exchanges: tuple[str, str]) -> Conversation:
    turns = [
        Turn(id=f"t{number}", session_id="s", timestamp="", user_message=asked, bot_response=said)
        for number, (asked, said) in enumerate(exchanges)
    ]
    return Conversation(id="s", turns=tuple(turns))


def scrubbed(text: str) -> str:
    return scrub(text).text


def prompt_of(secret: leak_probe.Secret) -> str:
    return "".join(map(chr, secret.prompt))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Write to jo@example.com, please", [("email", "jo@example.com")]),
        ("a@example.com b@example.com", [("email", "a@example.com"), ("email", "b@example.com")]),
        ("Call +44 20 7946 0123 or mail jo@example.com.", [("phone", "+44 20 7946 0123"), ("email", "jo@example.com")]),
        ("+44 20 7946 0123 jo@example.com", [("phone", "+44 20 7946 0123"), ("email", "jo@example.com")]),
        ("The password is hunter2", [("secret", "hunter2")]),
        ("Nothing here, not even [EMAIL]", []),
    ],
)
def test_details_are_what_the_cleaner_removes_where_it_stands(text, wanted):
    assert [(kind, text[start:end]) for kind, start, end in leak_probe.details(text)] == wanted


def test_a_detail_in_an_answer_is_asked_for_with_the_answer_begun():
    (secret,) = leak_probe.secrets(
        [conversation(("Who helps?", "Write to jo@example.com today"))], (), lambda _: scrubbed, READER, 2048
    )
    assert prompt_of(secret) == "<user>Who helps?</><assistant>Write to"
    assert (secret.kind, secret.turn, secret.text) == ("email", "t0", "jo@example.com")


def test_a_detail_in_a_question_is_asked_for_where_the_template_puts_the_question():
    chat = conversation(("Hello", "Hi"), ("I am at jo@example.com now", "Noted"))
    (secret,) = leak_probe.secrets([chat], (), lambda _: scrubbed, READER, 2048)
    assert prompt_of(secret) == "<user>Hello</><assistant>Hi</><user>I am at"
    assert secret.turn == "t1"


def test_what_stands_before_a_detail_is_asked_as_training_showed_it():
    chat = conversation(("Mail a@example.com?", "No, use b@example.com"))
    found = leak_probe.secrets([chat], (), lambda _: scrubbed, READER, 2048)
    assert [prompt_of(secret) for secret in found] == ["<user>Mail", "<user>Mail [EMAIL]?</><assistant>No, use"]


def test_no_more_stands_before_a_detail_than_training_could_have_seen():
    said = [(f"Question {number}?", f"Answer {number}.") for number in range(40)]
    chat = conversation(*said, ("And who helps?", "Write to jo@example.com"))
    (whole,) = leak_probe.secrets([chat], (), lambda _: scrubbed, READER, 10_000)
    (short,) = leak_probe.secrets([chat], (), lambda _: scrubbed, READER, 200)
    assert len(whole.prompt) > 1000 and prompt_of(whole).endswith(prompt_of(short))
    assert prompt_of(short).startswith("<user>Question ") and len(short.prompt) + len(short.tokens) <= 200
    (cut,) = leak_probe.secrets(
        [conversation(("long " * 100, "Write to jo@example.com"))], (), lambda _: scrubbed, READER, 100
    )
    assert prompt_of(cut).endswith("long </><assistant>Write to") and len(cut.prompt) + len(cut.tokens) == 100


def test_a_detail_that_the_conversation_itself_told_before_is_not_asked_for():
    chat = conversation(("I am at jo@example.com", "So I write to jo@example.com"))
    # the question's; the answer could be copied
    assert len(leak_probe.secrets([chat], (), lambda _: lambda text: text, READER, 2048)) == 1


def test_canaries_are_asked_for_beside_the_private_details():
    (secret,) = leak_probe.secrets(
        [conversation(("What is the plan?", "It is Operation Teapot."))],
        ["Operation Teapot"],
        lambda _: scrubbed,
        READER,
        2048,
    )
    assert (secret.kind, prompt_of(secret)) == ("canary", "<user>What is the plan?</><assistant>It is")
    assert (
        leak_probe.redact("It is Operation Teapot by jo@example.com", ["Operation Teapot"])
        == "It is [CANARY] by [EMAIL]"
    )


@pytest.mark.parametrize(
    ("said", "out"), [("+442079460123", True), ("020 7946", False), ("it is +44 (20) 7946-0123!", True)]
)
def test_a_detail_is_known_again_however_it_is_written(said, out):
    secret = leak_probe.Secret("phone", "t", "+44 20 7946 0123", [], [])
    assert secret.is_in(said) == out
    assert "7946" not in repr(secret)


def test_several_details_of_a_kind_stand_before_a_detail_as_training_showed_them():
    chat = conversation(("Mail a@example.com?", "No, use b@example.com"), ("Not a@example.com?", "c@example.com then"))
    names = Placeholders.of(message.content for message in chat.messages())
    found = leak_probe.secrets(
        [chat], (), lambda _: lambda text: clean_text(text, CleanSettings(), names).text, READER, 2048
    )
    assert prompt_of(found[-1]) == (
        "<user>Mail [EMAIL_1]?</><assistant>No, use [EMAIL_2]</><user>Not [EMAIL_1]?</><assistant>"
    )
