"""Tells whether a text is surely in another language than those that are to be learned.

py3langid tells them by a model that comes with it (BSD licence; Lui and Baldwin,
"langid.py", ACL 2012). It is loaded when a text is first asked about.
"""

from collections.abc import Collection
from functools import cache
from typing import TYPE_CHECKING

from fine_tuning.data_collection.placeholders import PLACEHOLDER
from fine_tuning.data_collection.plain_text import Layout

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_LONGEST = 600  # characters that are looked at: more tell no more, and take time
_SURE = 0.5  # probability of another language from which a text may be in it
_UNLIKELY = 0.05  # and that of all wanted ones together below which it surely is in none of them
# What is taken for a language so easily that it counts as it: the standard's close kin.
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
    """Return whether the prose of a text is surely in none of the `wanted` languages (ISO 639-1).

    A text that is too short to tell, code and numbers are in none, and so not foreign.
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
