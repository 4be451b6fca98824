"""Decide whether a single turn is learned, and how its texts are cleaned, from its texts and the settings alone.

A decision can be made in any process, written as JSON, and applied later (clean_turns.py); it contains
nothing of the texts.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import phonenumbers

from fine_tuning.data_collection.cleaning.empty_answers import is_gibberish, is_polite_only, refuses
from fine_tuning.data_collection.cleaning.inappropriate import is_inappropriate
from fine_tuning.data_collection.cleaning.languages import is_foreign
from fine_tuning.data_collection.cleaning.plain_text import Layout, normalise, normalised
from fine_tuning.data_collection.cleaning.repeats import fingerprint
from fine_tuning.data_collection.cleaning.text_quality import is_repetitive, says_little
from fine_tuning.data_collection.cleaning.text_signs import PRIVATE
from fine_tuning.data_collection.cleaning.turn_screens import screen
from fine_tuning.data_collection.cleaning.wording import wording
from fine_tuning.data_collection.placeholders import Placeholders
from fine_tuning.data_collection.privacy import PII, Find, Scrubbed, finds, scrub, without


class Reason(StrEnum):
    """Why a turn is not learned. If several apply, the first in this order counts."""

    EMPTY = "empty"  # question or answer is empty
    INCOMPLETE = "incomplete"  # the answer was stopped, or cut by the engine's limit
    CONTEXT = "only_context"  # its source marked the answer as context for those after it: read, and not learned
    REJECTED = "rejected"  # thumbs down, and not edited since
    OWN_ANSWER = "own_answer_not_approved"  # by a fine-tuned model, which would learn from itself
    REGENERATED = "regenerated"  # not on the chosen path: answered again, or the chat went on in another branch
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    INAPPROPRIATE = "inappropriate"
    REPETITIVE = "repetitive"  # question or answer repeats itself
    REFUSAL = "refusal"  # the model talks about itself ("As an AI ..."), or only says that it cannot help
    POLITE_ONLY = "polite_only"  # the answer is nothing but greetings and offers of help
    GIBBERISH = "gibberish"  # question or answer is random keystrokes
    LANGUAGE = "other_language"  # question or answer is certainly in none of the languages to be learned
    LOW_QUALITY = "low_quality"  # hardly any words, broken characters, or an answer that echoes the question
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"  # the same question has a newer or an approved answer


_ORDER = {reason: number for number, reason in enumerate(Reason)}


@dataclass(frozen=True)
class CleanSettings:
    """The settings on which a decision depends."""

    min_length: int = 10  # characters of the shorter of question and answer, before placeholders are put in
    max_length: int = 1000  # of the longer of the two
    scrub_pii: bool = True
    own_words: Sequence[str] = ()  # words that are replaced like private details, if `scrub_pii` is set
    names_by: str = ""  # the recogniser of names and postal addresses (`names.recogniser`); "" for none
    drop_refusals: bool = True
    drop_polite_only: bool = False
    drop_gibberish: bool = True
    languages: Sequence[str] = ()  # languages to be learned (ISO 639-1); empty for all


def clean_text(text: str, settings: CleanSettings, names: Placeholders | None = None) -> Scrubbed:
    """Return a text as it would be learned. `names` are the placeholders of its conversation."""
    text = normalise(text)
    if not settings.scrub_pii:
        return Scrubbed(text, {})
    found = _scrub(text, settings)
    return replace(found, text=without(text, found.finds, names.name)) if names and found.finds else found


def _scrub(text: str | Layout, settings: CleanSettings) -> Scrubbed:
    return scrub(text, settings.own_words, names=bool(settings.names_by))


class Exchange(NamedTuple):
    """What the decision about a turn depends on."""

    question: str
    answer: str
    original: str | None = None  # the answer before an edit
    thoughts: str | None = None
    is_context: bool = False  # whether the answer is only context

    @property
    def texts(self) -> list[str]:
        """The texts that may be learned."""
        return [text for text in (self.question, self.answer, self.original, self.thoughts) if text]


class Change(NamedTuple):
    """How one text is cleaned."""

    normalise: bool  # whether normalising changes the text
    finds: Sequence[Find]  # the private details in the normalised text
    leave_out: bool = False  # whether the text is left out as too long

    def of(self, text: str, names: Placeholders | None = None) -> str:
        """Return the clean text."""
        return "" if self.leave_out else without(self.searched(text), self.finds, names.name if names else None)

    def searched(self, text: str) -> str:
        """Return the text to which the positions in `finds` refer."""
        return normalise(text) if self.normalise else text


_NO_CHANGES: Mapping[str, Change] = {}


class Decision(NamedTuple):
    """Whether a turn is learned, and how its texts are cleaned."""

    unfit: Reason | None
    changes: Mapping[str, Change] = _NO_CHANGES  # by field; the other texts are clean already
    original_fits: bool = False  # whether the answer before an edit may be learned too
    wording: bytes = b""  # `fingerprint` of the clean question and answer

    def written(self) -> str:
        """Return the decision as text, which `read` reads: JSON, or only `wording` if the turn is learned unchanged."""
        if not (self.unfit or self.changes or self.original_fits):
            return self.wording.hex()  # most turns are learned as they are; JSON takes six times as long to read
        changes = {
            name: [*change[:1], [list(find) for find in change.finds], *change[2:]]
            for name, change in self.changes.items()
        }
        unfit = f'"{self.unfit}"' if self.unfit else "null"
        fits = "true" if self.original_fits else "false"
        # json.dumps for all of it takes four times as long
        return f'[{unfit}, {json.dumps(changes) if changes else "{}"}, {fits}, "{self.wording.hex()}"]'

    @staticmethod
    def read(text: str) -> "Decision":
        """Return the decision that `written` wrote."""
        if not text.startswith("["):
            return Decision(None, _NO_CHANGES, False, bytes.fromhex(text))
        unfit, changes, fits, words = json.loads(text)
        for name, (tidy, found, leave_out) in changes.items():
            changes[name] = Change(tidy, [Find(PII(kind), start, end) for kind, start, end in found], leave_out)
        return Decision(unfit and Reason(unfit), changes, fits, bytes.fromhex(words))


def rule_files() -> list[Path]:
    """Return the files with the rules: this folder, and those for private details beside it."""
    here = Path(__file__).parent
    private = [here.parent / "privacy.py", here.parent / "placeholders.py"]
    return sorted([*here.glob("*.py"), *(here.parent / "private_details").glob("*.py"), *private])


@cache
def rules() -> list[str]:
    """Return what identifies the rules: a hash of their code, and the versions of the data that they use.

    It changes whenever a decision might change.
    """
    code = blake2b(digest_size=16)
    for file in rule_files():
        code.update(file.read_bytes())
    return [code.hexdigest(), phonenumbers.__version__, version("py3langid"), unicodedata.unidata_version]


def decide_line(line: bytes) -> bytes:
    """Return the decisions on many turns, each as `Decision.written`, with tabs between them.

    `line` is JSON: [fields of CleanSettings, list of the turns' `Exchange`].
    """
    settings, turns = json.loads(line)
    decisions = decide_all([Exchange(*turn) for turn in turns], CleanSettings(**settings))
    return "\t".join(decision.written() for decision in decisions).encode()


def decide(said: Exchange, settings: CleanSettings) -> Decision:
    """Decide whether a turn is learned, and what is changed in its texts first."""
    question, answer = (_clean_side(text, normalised(text), settings) for text in (said.question, said.answer))
    return _decided(said, question, answer, settings)


def decide_all(turns: Sequence[Exchange], settings: CleanSettings) -> list[Decision]:
    """Return `decide` of each turn, in less time than one by one: the texts are screened together."""
    texts = [text for turn in turns for text in (turn.question, turn.answer)]
    layouts = list(map(normalised, texts))
    screen(layouts)
    sides = [_clean_side(text, layout, settings) for text, layout in zip(texts, layouts, strict=True)]
    screen([side.clean for side in sides if side.clean is not side.layout])
    return [_decided(*each, settings) for each in zip(turns, sides[::2], sides[1::2], strict=True)]


def _decided(said: Exchange, question: "_Side", answer: "_Side", settings: CleanSettings) -> Decision:
    if reasons := [reason for side in (question, answer) if (reason := _unfit(side, settings, said.is_context))]:
        return Decision(first_reason(reasons))
    if not said.is_context and (empty := _teaches_nothing(question.clean, answer.clean, settings)):
        return Decision(empty)
    asked, answered, fits = wording(question.clean), wording(answer.clean), False
    if not said.is_context and asked.words == answered.words:  # the answer only repeats the question
        return Decision(Reason.LOW_QUALITY)
    sides = {"user_message": question, "bot_response": answer}
    if said.original is not None:
        sides["original_response"] = before = _clean_side(said.original, normalised(said.original), settings)
        fits = (
            not _unfit(before, settings)
            and not _teaches_nothing(question.clean, before.clean, settings)
            and wording(before.clean).words != asked.words
        )
    if said.thoughts is not None:
        sides["thoughts"] = _scrubbed_side(said.thoughts, normalised(said.thoughts), settings)
    changes = {name: side.change for name, side in sides.items() if side.change}
    return Decision(None, changes, fits, fingerprint(asked, answered, is_context=said.is_context))


class _Side(NamedTuple):
    """A question or an answer."""

    layout: Layout  # the normalised text
    clean: Layout  # the same with placeholders; empty if the text is too long
    change: Change | None


def _clean_side(text: str, layout: Layout, settings: CleanSettings) -> _Side:
    if len(layout.text) > settings.max_length:  # before the expensive checks
        return _Side(layout, Layout(""), Change(False, [], leave_out=True))
    return _scrubbed_side(text, layout, settings)


def _scrubbed_side(text: str, layout: Layout, settings: CleanSettings) -> _Side:
    found: list[Find] = []
    if settings.scrub_pii and (layout.signs & PRIVATE or settings.own_words or settings.names_by):
        found = finds(layout, settings.own_words, names=bool(settings.names_by))
    if not found:
        return _Side(layout, layout, Change(True, []) if layout.text != text else None)
    clean = Layout(without(layout.text, found))
    return _Side(layout, clean, Change(text != layout.text, found) if clean.text != text else None)


def _unfit(side: _Side, settings: CleanSettings, is_context: bool = False) -> Reason | None:
    """Return why a text is not used; None if it is. What is only context need not teach anything."""
    layout, clean, change = side
    if change and change.leave_out:
        return Reason.TOO_LONG
    if not layout.text:
        return Reason.EMPTY
    if not is_context and _fullness(layout.text) < settings.min_length:
        return Reason.TOO_SHORT
    if is_inappropriate(clean):
        return Reason.INAPPROPRIATE
    if is_context:
        return None
    if is_repetitive(layout):  # in the text before scrubbing: placeholders repeat themselves
        return Reason.REPETITIVE
    return Reason.LOW_QUALITY if says_little(clean) else None


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
    """Return the length of a text in characters. Chinese, Japanese and Korean characters count twice.

    Each of these says more than a letter does.
    """
    return len(text) if text.isascii() else len(text) + len(_WIDE.findall(text))
