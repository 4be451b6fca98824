"""Recognise texts that are certainly in none of the languages that a model should learn.

py3langid detects the language, with the model that it contains (BSD licence; Lui and Baldwin,
"langid.py", ACL 2012). The model is loaded when the first text is examined.
"""

from collections.abc import Collection
from functools import cache
from typing import TYPE_CHECKING

from fine_tuning.data_collection.cleaning.plain_text import Layout
from fine_tuning.data_collection.placeholders import PLACEHOLDER

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_LONGEST = 600  # characters examined: more take time and add no certainty
_SURE = 0.5  # least probability of another language for a text to be foreign
_UNLIKELY = 0.05  # below this probability of all wanted languages together, it may be foreign
# Languages that the model of py3langid easily mistakes for another one, so that they count as that one.
_KIN = {
    "ar": ("ary", "arz"),
    "bs": ("hr", "sr"),
    "cs": ("sk",),
    "da": ("no", "nn"),
    "de": ("lb",),
    "en": ("pcm",),
    "es": ("ext",),
    "fr": ("wa", "gcf", "gcr", "oc"),
    "hr": ("bs", "sr"),
    "id": ("ms",),
    "it": ("vec", "lij"),
    "ms": ("id",),
    "no": ("nn", "da"),
    "pt": ("gl",),
    "sk": ("cs",),
    "sr": ("hr", "bs"),
    "uz": ("uzs",),
    "zh": ("yue", "wuu"),
}


def is_foreign(text: str | Layout, wanted: Collection[str]) -> bool:
    """Return whether the prose of a text is certainly in none of the `wanted` languages (ISO 639-1 codes).

    A text without prose, or too short to tell its language, is not foreign.
    """
    prose = " ".join(piece for is_prose, piece in Layout.of(text).pieces if is_prose)
    said = PLACEHOLDER.sub(" ", prose)[:_LONGEST].strip()
    if not any(map(str.isalpha, said)):
        return False
    chances = dict(_identifier().rank(said))
    likeliest = max(chances, key=chances.__getitem__)
    own = {*wanted, *(kin for language in wanted for kin in _KIN.get(language, ()))}
    surely = likeliest not in own and likeliest != "zxx" and chances[likeliest] >= _SURE
    return surely and sum(chances.get(language, 0.0) for language in own) < _UNLIKELY


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
