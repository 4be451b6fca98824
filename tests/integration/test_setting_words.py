"""Every setting has words for people, and no word is left of one that is gone."""

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from chatbot.parts.settings_form import GROUPS
from fine_tuning.api import train_form
from fine_tuning.config import FineTuningConfig
from fine_tuning.integration.setting_fields import fields
from fine_tuning.integration.setting_words import SECTIONS, SETTING_WORDS, Words, said, words_of


def keys_of(model: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from keys_of(info.annotation, f"{before}{name}.")
        else:
            yield before + name


def test_every_key_of_the_configuration_has_words_and_no_word_is_of_another() -> None:
    assert set(SETTING_WORDS) == set(keys_of(FineTuningConfig))
    assert sum(map(len, SECTIONS.values())) == len(SETTING_WORDS)  # none stands in two sections


def test_all_that_pages_show_has_words() -> None:
    shown = {key for keys in GROUPS.values() for key in keys} | {each.key for each in train_form.SETTINGS}
    shown |= {each.key for each in fields(*FineTuningConfig.model_fields)}
    assert shown <= set(SETTING_WORDS)


def test_a_label_is_known_by_itself() -> None:
    labels = [each.label for each in SETTING_WORDS.values()]
    assert len(labels) == len(set(labels))


@pytest.mark.parametrize("key", SETTING_WORDS)
def test_words_are_a_label_and_sentences(key: str) -> None:
    words = words_of(key)
    assert words.label[0].isupper() and not words.label.endswith(".") and len(words.label) <= 60
    assert words.help.endswith(".") and len(words.help) <= 240
    name = key.rpartition(".")[2]
    assert "_" not in name or (name not in words.label and name not in words.help)


def test_an_entry_of_a_mapping_is_named_by_its_own_key() -> None:
    assert words_of("mix.shares.handbook").label == f"{words_of('mix.shares').label}: handbook"
    with pytest.raises(KeyError):
        words_of("training.nonesuch")


def test_what_names_are_replaced_by_is_said() -> None:
    assert words_of("data_collection.scrub_names") == Words(
        "Replace names and postal addresses",
        "They become [NAME] and [ADDRESS]. It needs the extra byoai[presidio], and finds more with a spaCy model.",
        "Privacy",
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [(True, "on"), (False, "off"), (None, "none"), ([], "none"), (["a", 2], "a, 2"), (2e-4, "0.0002"), (3, "3")],
)
def test_a_value_is_said_as_people_say_it(value: object, words: str) -> None:
    assert said(value) == words
