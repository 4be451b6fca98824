"""What becomes of one turn: decided from its texts and the settings alone, whatever stands around it.

A decision can be made in whatever process, written down, and carried out later; it holds nothing of
the texts. `clean_turn` is the way in for a single turn, data_cleaner.py that for conversations.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import phonenumbers

from fine_tuning.conversation import Turn
from fine_tuning.data_collection.dedupe import fingerprint
from fine_tuning.data_collection.empty_answers import is_gibberish, is_polite_only, refuses
from fine_tuning.data_collection.inappropriate import is_inappropriate
from fine_tuning.data_collection.languages import is_foreign
from fine_tuning.data_collection.placeholders import Placeholders
from fine_tuning.data_collection.plain_text import Layout, normalise, normalised
from fine_tuning.data_collection.privacy import PII, Find, Scrubbed, scrub, without
from fine_tuning.data_collection.text_quality import is_repetitive, says_little
from fine_tuning.data_collection.wording import wording


class Reason(StrEnum):
    """Why a turn is not learned. The first that applies counts, in this order."""

    EMPTY = "empty"  # a side says nothing
    INCOMPLETE = "incomplete"  # the answer was stopped, or cut by the engine's limit
    REJECTED = "rejected"  # thumbs down, and not edited since
    OWN_ANSWER = "own_answer_not_approved"  # of a fine-tuned model: it would learn from itself
    REGENERATED = "regenerated"  # another answer to the same question stands, or the chat went on in another branch
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    INAPPROPRIATE = "inappropriate"
    REPETITIVE = "repetitive"  # a side goes round in circles
    REFUSAL = "refusal"  # the model speaks of being one ("As an AI ..."), or only says that it cannot help
    POLITE_ONLY = "polite_only"  # the answer is greetings and offers of help alone
    GIBBERISH = "gibberish"  # a side is keys hit at random
    LANGUAGE = "other_language"  # a side is surely in none of the languages that are to be learned
    LOW_QUALITY = "low_quality"  # hardly any words, broken characters, or an answer that echoes the question
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"  # the same question has a newer answer, or one that its owner approved


_ORDER = {reason: number for number, reason in enumerate(Reason)}


@dataclass(frozen=True)
class CleanSettings:
    """What `clean_turn` depends on beside the turn."""

    min_length: int = 10  # characters of the shorter side, placeholders not yet put in
    max_length: int = 1000  # of the longer side
    scrub_pii: bool = True
    own_words: Sequence[str] = ()  # replaced like private details, where those are
    names_by: str = ""  # what finds names and postal addresses (`names.recogniser`); "": nothing does
    drop_refusals: bool = True
    drop_polite_only: bool = False
    drop_gibberish: bool = True
    languages: Sequence[str] = ()  # that are learned (ISO 639-1); none: all


class CleanTurn(NamedTuple):
    """A turn of which every text is fit to be learned."""

    turn: Turn
    found: Mapping[PII, int]  # private details in what was said
    original: str | None = None  # the model's own answer, where an edit replaced it and it is fit as well


def clean_turn(turn: Turn, settings: CleanSettings) -> CleanTurn | Reason:
    """Return the turn with clean text, or why its text is not learned.

    Depends on nothing but the turn's texts and the settings. Whether its owner wants it learned is another question.
    """
    return carried_out(turn, decide(texts_to_clean(turn), settings))


def clean_text(text: str, settings: CleanSettings, names: Placeholders | None = None) -> Scrubbed:
    """Return one text as it would be learned, in a conversation with these names for its private details."""
    text = normalise(text)
    if not settings.scrub_pii:
        return Scrubbed(text, {})
    found = _scrub(text, settings)
    return replace(found, text=without(text, found.finds, names.name)) if names and found.finds else found


def _scrub(text: str | Layout, settings: CleanSettings) -> Scrubbed:
    return scrub(text, settings.own_words, names=bool(settings.names_by))


# What is to be done with a turn: decided from its texts alone, in whatever process, and without
# holding anything of them

Texts = tuple[str, str, str | None, str | None]  # question, answer, the answer before an edit, what was thought
_FIELDS = ("user_message", "bot_response", "original_response", "thoughts")
SAID = _FIELDS[:2]
_OF_METADATA = _FIELDS[2:]


class Change(NamedTuple):
    """How one text is made clean."""

    normalise: bool  # whether that changes it
    finds: Sequence[Find]  # the private details, in the normalised text
    leave_out: bool = False  # all of it: it is too long

    def of(self, text: str, names: Placeholders | None = None) -> str:
        """Return the clean text."""
        return "" if self.leave_out else without(self.searched(text), self.finds, names.name if names else None)

    def searched(self, text: str) -> str:
        """Return the text in which the finds stand."""
        return normalise(text) if self.normalise else text


class Decision(NamedTuple):
    """What becomes of a turn."""

    unfit: Reason | None
    changes: Mapping[str, Change] = {}  # by field; the others are clean as they are
    original_fits: bool = False
    wording: bytes = b""  # `fingerprint` of the clean question and answer

    def written(self) -> str:
        """Return it as JSON."""
        changes = {
            name: [*change[:1], [list(find) for find in change.finds], *change[2:]]
            for name, change in self.changes.items()
        }
        return json.dumps([self.unfit, changes, self.original_fits, self.wording.hex()])

    @staticmethod
    def read(text: str) -> "Decision":
        """Return what `written` wrote."""
        unfit, changes, fits, words = json.loads(text)
        for name, (tidy, finds, leave_out) in changes.items():
            changes[name] = Change(tidy, [Find(PII(kind), start, end) for kind, start, end in finds], leave_out)
        return Decision(unfit and Reason(unfit), changes, fits, bytes.fromhex(words))


@cache
def rules() -> list[str]:
    """Return what is another when a text might be decided upon otherwise: this folder's code, and
    the data that it takes from others.
    """
    code = blake2b(digest_size=16)
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(file.read_bytes())
    return [code.hexdigest(), phonenumbers.__version__, version("py3langid"), unicodedata.unidata_version]


def decide_line(line: bytes) -> bytes:
    """Decide on many turns: from JSON of the settings and their `Texts` to JSON of the decisions,
    each as it is `written`.
    """
    settings, turns = json.loads(line)
    limits = CleanSettings(**settings)
    return json.dumps([decide(texts, limits).written() for texts in turns]).encode()


def texts_to_clean(turn: Turn) -> Texts:
    """Return the texts that decide what becomes of a turn."""
    original, thoughts = map(turn.metadata.get, _OF_METADATA)
    return (
        turn.user_message,
        turn.bot_response,
        original if isinstance(original, str) else None,
        thoughts if isinstance(thoughts, str) else None,
    )


def decide(texts: Texts, settings: CleanSettings) -> Decision:
    """Decide what becomes of a turn with these texts."""
    question, answer = (_clean_side(text, settings) for text in texts[:2])
    if reasons := [side.unfit for side in (question, answer) if side.unfit]:
        return Decision(first_reason(reasons))
    if empty := _teaches_nothing(question.layout, answer.layout, settings):
        return Decision(empty)
    said, fits = (wording(side.layout) for side in (question, answer)), False
    asked, answered = said
    if asked.words == answered.words:  # an echo
        return Decision(Reason.LOW_QUALITY)
    sides = {"user_message": question, "bot_response": answer}
    if texts[2] is not None:
        sides["original_response"] = before = _clean_side(texts[2], settings)
        fits = (
            not before.unfit
            and not _teaches_nothing(question.layout, before.layout, settings)
            and wording(before.layout).words != asked.words
        )
    if texts[3] is not None:
        sides["thoughts"] = _scrubbed_side(texts[3], normalised(texts[3]), settings)
    changes = {name: side.change for name, side in sides.items() if side.change}
    return Decision(None, changes, fits, fingerprint(asked, answered))


def carried_out(turn: Turn, decision: Decision, names: Placeholders | None = None) -> CleanTurn | Reason:
    """Return the turn as was decided on its texts; `names`: of its conversation's private details."""
    if decision.unfit:
        return decision.unfit
    changes = decision.changes
    original = turn.metadata.get("original_response") if decision.original_fits else None
    if not changes:
        return CleanTurn(turn, {}, original)
    texts = {name: text for name, text in zip(_FIELDS, texts_to_clean(turn), strict=True) if text is not None}
    clean = {name: changes[name].of(text, names) if name in changes else text for name, text in texts.items()}
    facts = {**turn.metadata, **{name: clean[name] for name in _OF_METADATA if name in clean}}
    said = turn.model_copy(
        update={"user_message": clean["user_message"], "bot_response": clean["bot_response"], "metadata": facts}
    )
    kinds = [find.kind for name in SAID if name in changes for find in changes[name].finds]
    return CleanTurn(
        said, Counter(kinds) if kinds else {}, clean["original_response"] if decision.original_fits else None
    )


class _Side(NamedTuple):
    """What one said, clean."""

    layout: Layout
    change: Change | None = None
    unfit: Reason | None = None


def _clean_side(text: str, settings: CleanSettings) -> _Side:
    layout = normalised(text)
    if len(layout.text) > settings.max_length:  # before all that takes its time
        return _Side(Layout(""), Change(False, [], leave_out=True), Reason.TOO_LONG)
    clean, change, _ = _scrubbed_side(text, layout, settings)
    return _Side(clean, change, _unfit(layout, clean, settings))


def _scrubbed_side(text: str, layout: Layout, settings: CleanSettings) -> _Side:
    said = _scrub(layout, settings) if settings.scrub_pii else Scrubbed(layout.text, {})
    change = Change(text != layout.text, said.finds) if said.text != text else None
    return _Side(Layout(said.text) if said.finds else layout, change)


def _unfit(layout: Layout, scrubbed: Layout, settings: CleanSettings) -> Reason | None:
    if not layout.text:
        return Reason.EMPTY
    if _fullness(layout.text) < settings.min_length:
        return Reason.TOO_SHORT
    if is_inappropriate(scrubbed):
        return Reason.INAPPROPRIATE
    if is_repetitive(layout):  # before it is scrubbed: placeholders repeat themselves
        return Reason.REPETITIVE
    return Reason.LOW_QUALITY if says_little(scrubbed) else None


def _teaches_nothing(question: Layout, answer: Layout, settings: CleanSettings) -> Reason | None:
    if settings.drop_refusals and refuses(answer):
        return Reason.REFUSAL
    if settings.drop_polite_only and is_polite_only(answer):
        return Reason.POLITE_ONLY
    if settings.drop_gibberish and (is_gibberish(question) or is_gibberish(answer)):
        return Reason.GIBBERISH
    wanted = settings.languages
    return Reason.LANGUAGE if wanted and (is_foreign(question, wanted) or is_foreign(answer, wanted)) else None


def first_reason(reasons: Iterable[Reason]) -> Reason:
    return min(reasons, key=_ORDER.__getitem__)


_WIDE = re.compile(
    "[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\U00020000-\U0003fffd]"
)


def _fullness(text: str) -> int:
    """Characters; the wide ones of Chinese, Japanese and Korean count twice, for they say as much
    as two or more of an alphabet.
    """
    return len(text) if text.isascii() else len(text) + len(_WIDE.findall(text))
