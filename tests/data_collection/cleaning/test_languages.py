"""Turns in other languages than those that are to be learned are told; what is too short to tell is kept."""

import pytest
from faker import Faker
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from fine_tuning.config import load_config
from fine_tuning.config.types import LANGUAGES
from fine_tuning.data_collection.cleaning.languages import is_foreign
from fine_tuning.data_collection.cleaning.turn_decisions import CleanSettings
from fine_tuning.data_collection.data_cleaner import DataCleaner
from fine_tuning.errors import ConfigError

# Of these Faker has words of their own; its others speak Latin.
LOCALES = {
    "cs": "cs_CZ",
    "da": "da_DK",
    "de": "de_DE",
    "el": "el_GR",
    "en": "en_US",
    "es": "es_ES",
    "fr": "fr_FR",
    "it": "it_IT",
    "nl": "nl_NL",
    "pl": "pl_PL",
    "ru": "ru_RU",
    "zh": "zh_CN",
}
SAID = {
    "en": "Where do I find the key to the back door of the office?",
    "de": "Wo finde ich den Schlüssel für die Hintertür des Büros?",
    "fr": "Où est-ce que je trouve la clé de la porte arrière du bureau ?",
    "es": "¿Dónde encuentro la llave de la puerta trasera de la oficina?",
    "it": "Dove trovo la chiave della porta sul retro dell'ufficio?",
    "pt": "Onde encontro a chave da porta dos fundos do escritório?",
    "pl": "Gdzie znajdę klucz do tylnych drzwi biura?",
    "tr": "Ofisin arka kapısının anahtarını nerede bulabilirim?",
    "ru": "Где мне найти ключ от задней двери офиса?",
    "ja": "オフィスの裏口の鍵はどこにありますか？",
    "zh": "办公室后门的钥匙在哪里可以找到？",
    "ar": "أين أجد مفتاح الباب الخلفي للمكتب؟",
}


@pytest.mark.parametrize("spoken", SAID)
@pytest.mark.parametrize("wanted", SAID)
def test_a_sentence_is_foreign_unless_its_language_is_wanted(spoken: str, wanted: str) -> None:
    assert is_foreign(SAID[spoken], [wanted]) is (spoken != wanted)
    assert not is_foreign(SAID[spoken], [wanted, spoken])


@pytest.mark.parametrize(
    "text",
    [
        "ok",
        "Hello there",
        "Wifi password?",
        "Pizza Margherita",
        "Anna Schmidt-Lopez",
        "2 + 2 = 4",
        "[EMAIL_1], [PHONE]",
        "git commit -m",
        "```python\nfor datei in ordner:\n    print(datei)\n```",
        "🙂🙂🙂",
        "",
    ],
)
def test_what_is_too_short_to_tell_is_kept(text: str) -> None:
    assert not is_foreign(text, ["en"])
    assert not is_foreign(text, ["ko"])


def test_made_up_sentences_in_twelve_languages() -> None:
    kept = dropped = wrongly = missed = 0
    for spoken, locale in LOCALES.items():
        fake = Faker(locale)
        fake.seed_instance(3)
        for text in (fake.sentence(nb_words=12) for _ in range(20)):
            wrongly += is_foreign(text, [spoken])
            kept += 1
            for wanted in LOCALES:
                if wanted != spoken:
                    missed += not is_foreign(text, [wanted])
                    dropped += 1
    assert wrongly / kept < 0.01 and missed / dropped < 0.05


@pytest.mark.parametrize(
    ("languages", "asked", "answered", "dropped"),
    [
        (["en"], "en", "de", {"other_language": 1}),
        (["en"], "fr", "en", {"other_language": 1}),
        (["en", "de"], "en", "de", {}),
        (["de"], "en", "en", {"other_language": 1}),
        ([], "ja", "ru", {}),
    ],
)
def test_the_rule_can_be_switched_and_is_counted(
    languages: list[str], asked: str, answered: str, dropped: dict[str, int]
) -> None:
    turn = {"user_message": SAID[asked], "bot_response": SAID[answered] + " " + SAID[answered][::-1][:3]}
    assert DataCleaner(CleanSettings(languages=languages)).filter_conversations([turn]).dropped == dropped


def test_the_configuration_knows_which_languages_can_be_told() -> None:
    labels = LanguageIdentifier.from_model_file(MODEL_FILE).labels
    assert {label for label in labels if len(label) == 2} == LANGUAGES


@pytest.mark.parametrize("wrong", ["english", "xx", "", 3, True, None, "en_US"])
def test_what_is_no_language_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"languages.*use two-letter codes such as en, de or pt"):
        load_config().changed({"data_collection.languages": ["en", wrong]})


def test_norwegian_may_be_written_as_yaml_reads_it() -> None:
    assert load_config().changed({"data_collection.languages": [False, "EN"]}).data_collection.languages == ("no", "en")
