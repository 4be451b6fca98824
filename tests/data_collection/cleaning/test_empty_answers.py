"""What teaches nothing, and what only looks like it."""

import pytest

from fine_tuning.data_collection.cleaning.empty_answers import is_gibberish, is_polite_only, refuses
from fine_tuning.data_collection.cleaning.turn_decisions import CleanSettings
from fine_tuning.data_collection.data_cleaner import DataCleaner

REFUSALS = [
    "As an AI language model, I don't have personal opinions.",
    "I'm sorry, but as an AI I cannot browse the internet.",
    "I am just an AI, and I do not have feelings.",
    "As an artificial intelligence, I have no body.",
    "I cannot assist with that.",
    "I'm sorry, but I can't help you with that request.",
    "Als KI-Sprachmodell habe ich keine eigene Meinung.",
    "Ich bin nur ein Sprachmodell und kann das nicht wissen.",
    "En tant que modèle de langage, je ne peux pas voir votre écran.",
    "Como modelo de lenguaje, no tengo acceso a internet.",
    "Como um modelo de linguagem, não posso fazer isso.",
    "In quanto modello linguistico, non ho opinioni.",
]
ANSWERS = [
    "We are sorry, but we cannot refund tickets after 30 days.",
    "I can't help with parcels abroad: write to the export desk, which sits in room 3.",
    "As an AI engineer, she trains models. A language model predicts the next word.",
    "You cannot assist with that lift without gloves.",
    "Als Kind habe ich dort gewohnt.",
    "Comme convenu, je ne peux pas venir lundi.",
    "Como siempre, no hay clase el viernes.",
    "An AI, in short, is a program. I am not sure it thinks.",
    "I'm an airline pilot.",
]
POLITE = [
    "Hello! How can I help you today?",
    "Sure!",
    "You're welcome! Is there anything else I can help you with?",
    "Hallo! Wie kann ich Ihnen helfen?",
    "Of course. Let me know if you have any other questions!",
]
TOLD = [
    "Hello! The office opens at nine.",
    "Sure, it hangs behind the door.",
    "Yes.",
    "Thanks to the new key, it opens.",
    "Great Dane",
    "Okay, room 12.",
]
MASHED = ["asdf jkjkj sdfsdf qwer", "sdkfjh skdjfh wkejrh", "qwertz asdfgh yxcvbn", "hjklhjkl fdsafdsa"]
WORDS = [
    "Our rhythms and myths are crypts of strength.",
    "strč prst skrz krk",
    "The HTTPS and XHTML specs, and RFC 9110.",
    "Angstschweiß und Rechtsschreibung, Herbststrauch",
    "crwth cwtch cwm",
    "qwerty is a keyboard layout, so is dvorak",
    "Ключ лежит под ковриком у двери",
    "キーはマットの下にあります",
    "deadbeef cafebabe 0x41",
    "def strlen(s): return sdfgh(s)",
    "Vlkpltk",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_model_that_speaks_of_being_one_is_told(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize("text", [*ANSWERS, *POLITE, *TOLD])
def test_an_answer_that_says_no_is_an_answer(text: str) -> None:
    assert not refuses(text)


@pytest.mark.parametrize("text", POLITE)
def test_polite_phrases_alone_are_told(text: str) -> None:
    assert is_polite_only(text)


@pytest.mark.parametrize("text", [*TOLD, *ANSWERS, ""])
def test_a_polite_answer_that_says_something_is_none_of_them(text: str) -> None:
    assert not is_polite_only(text)


@pytest.mark.parametrize("text", MASHED)
def test_keys_hit_at_random_are_told(text: str) -> None:
    assert is_gibberish(text)


@pytest.mark.parametrize("text", [*WORDS, *ANSWERS, *REFUSALS, *POLITE, ""])
def test_words_of_any_language_are_none(text: str) -> None:
    assert not is_gibberish(text)


@pytest.mark.parametrize(
    ("rule", "answer", "reason"),
    [
        ("drop_refusals", "As an AI language model, I cannot know where it is.", "refusal"),
        ("drop_polite_only", "Hello! How can I help you today?", "polite_only"),
        ("drop_gibberish", "sdkfjh skdjfh wkrjhx qwert", "gibberish"),
    ],
)
def test_each_rule_can_be_switched_and_is_counted(rule: str, answer: str, reason: str) -> None:
    said = [{"user_message": "Where is the blue ladder of the house?", "bot_response": answer}]
    assert DataCleaner(CleanSettings(**{rule: True})).filter_conversations(said).dropped == {reason: 1}
    assert DataCleaner(CleanSettings(**{rule: False})).filter_conversations(said).dropped == {}
