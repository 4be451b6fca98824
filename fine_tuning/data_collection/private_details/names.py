"""Find names of people and postal addresses with presidio (the extra byoai[presidio]).

Its analyzer runs this project's patterns (name_patterns.py), and for each language the spaCy model
if one is installed. Without a model, spaCy's blank pipeline only divides the text into words, and
only the patterns find anything. Nothing is downloaded.
"""

import logging
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import TYPE_CHECKING, Literal

from fine_tuning.data_collection.private_details.name_patterns import ADDRESSES, NAMES
from fine_tuning.data_collection.private_details.own_words import own_words
from fine_tuning.data_collection.private_details.reading import Reading, Span
from fine_tuning.errors import ConfigError

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine

Kind = Literal["name", "address"]

_BLANK = "xx"  # spaCy's name for no language in particular
_ENTITIES: dict[str, Kind] = {"PERSON": "name", "ADDRESS": "address"}


def recogniser() -> str:
    """Return a description of the recogniser with all versions.

    It changes whenever the recogniser may find other names. Raises ConfigError if presidio is not
    installed.
    """
    try:
        known = [f"{name} {version(name)}" for name in ("presidio-analyzer", "spacy")]
    except PackageNotFoundError as error:
        raise ConfigError(
            "data_collection.scrub_names needs presidio, which is not installed. "
            "Install it with: pip install 'byoai[presidio]'. Or set data_collection.scrub_names to false"
        ) from error
    models = entry_points(group="spacy_models")
    return ", ".join([*known, *sorted(f"{model.name} {model.dist.version if model.dist else ''}" for model in models)])


def names_and_addresses(reading: Reading) -> Iterator[tuple[Kind, Span]]:
    """Yield (kind, position) of names and postal addresses outside of code.

    All further occurrences of a name are included.
    """
    text = reading.text
    if not any(map(str.isalpha, text)):
        return
    engine, languages = _engine()
    found = [
        (_ENTITIES[result.entity_type], (result.start, result.end))
        for language in _to_try(text, languages)
        for result in engine.analyze(text, language, entities=list(_ENTITIES))
        if not reading.in_code(result.start)
    ]
    said = {text[start:end] for kind, (start, end) in found if kind == "name"}
    yield from found
    yield from (("name", span) for span in own_words(reading, sorted(said)) if not reading.in_code(span[0]))


def _to_try(text: str, languages: tuple[str, ...]) -> list[str]:
    """Return the names of the pipelines to run: the blank one, and those of the languages that the text may be in."""
    from fine_tuning.data_collection.cleaning.languages import is_foreign

    return [_BLANK, *(language for language in languages if not is_foreign(text, (language,)))]


@cache
def _engine() -> "tuple[AnalyzerEngine, tuple[str, ...]]":
    """Return the analyzer, and the languages for which a spaCy model is installed."""
    import regex
    import spacy
    from presidio_analyzer import AnalyzerEngine, EntityRecognizer, RecognizerRegistry, RecognizerResult
    from presidio_analyzer.nlp_engine import NlpArtifacts, SpacyNlpEngine
    from presidio_analyzer.predefined_recognizers import SpacyRecognizer

    patterns = {"PERSON": [*map(regex.compile, NAMES)], "ADDRESS": [*map(regex.compile, ADDRESSES)]}

    class Written(EntityRecognizer):
        """Finds names and addresses by the patterns of name_patterns.py."""

        def load(self) -> None: ...

        def analyze(self, text: str, entities: list[str], nlp_artifacts: NlpArtifacts) -> list[RecognizerResult]:
            return [
                RecognizerResult(entity, *match.span("find"), 1.0)
                for entity in entities
                for pattern in patterns.get(entity, ())
                for match in pattern.finditer(text)
            ]

    class Installed(SpacyNlpEngine):
        """Offers the installed models, and downloads none."""

        def load(self) -> None:
            loaded = map(spacy.load, spacy.util.get_installed_models())
            self.nlp = {_BLANK: spacy.blank(_BLANK), **{str(model.meta["lang"]): model for model in loaded}}

    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)  # it warns of each label that is not requested
    models = Installed()
    models.load()
    languages = tuple(language for language in models.get_supported_languages() if language != _BLANK)
    recognizers: list[EntityRecognizer] = [Written(["PERSON", "ADDRESS"], supported_language=_BLANK)]
    recognizers += [SpacyRecognizer(language, supported_entities=["PERSON"]) for language in languages]
    known = [_BLANK, *languages]
    registry = RecognizerRegistry(recognizers, supported_languages=known)
    return AnalyzerEngine(registry, models, supported_languages=known), languages
