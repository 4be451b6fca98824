"""Turns worth learning from, and their text made clean. The log keeps what was said.

One way in for all that is learned: `clean_turn` says what becomes of a single turn, whatever stands around it. What only a conversation
can tell (answers given anew, repeats) comes after it, in `DataCleaner`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fine_tuning.conversation import Conversation, Turn, approved, parse_conversations, standing
from fine_tuning.data_collection.dedupe import RepeatedTurns
from fine_tuning.data_collection.inappropriate import is_inappropriate
from fine_tuning.data_collection.plain_text import normalise
from fine_tuning.data_collection.privacy import PII, Scrubbed, scrub
from fine_tuning.data_collection.text_quality import is_repetitive, says_little
from fine_tuning.data_collection.wording import wording


class Reason(StrEnum):
    """Why a turn is not learned. The first that applies counts, in this order."""

    EMPTY = "empty"  # a side says nothing
    INCOMPLETE = "incomplete"  # the answer was stopped, or cut by the engine's limit
    REJECTED = "rejected"  # thumbs down, and not edited since
    OWN_ANSWER = "own_answer_not_approved"  # of a fine-tuned model: it would learn from itself
    REGENERATED = "regenerated"  # another answer to the same question stands
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    INAPPROPRIATE = "inappropriate"
    REPETITIVE = "repetitive"  # a side goes round in circles
    LOW_QUALITY = "low_quality"  # hardly any words, broken characters, or an answer that echoes the question
    DUPLICATE = "duplicate"


_ORDER = {reason: number for number, reason in enumerate(Reason)}


@dataclass(frozen=True)
class CleanSettings:
    """What `clean_turn` depends on beside the turn."""

    min_length: int = 10  # characters of the shorter side, placeholders not yet put in
    max_length: int = 1000  # of the longer side
    scrub_pii: bool = True


@dataclass(frozen=True)
class CleanTurn:
    """A turn of which every text is fit to be learned."""

    turn: Turn
    found: Mapping[PII, int]  # private details in what was said
    original: str | None = None  # the model's own answer, where an edit replaced it and it is fit as well


def clean_turn(turn: Turn, settings: CleanSettings) -> CleanTurn | Reason:
    """Return the turn with clean text, or why its text is not learned.

    Depends on nothing but the turn's texts and the settings. Whether its owner wants it learned is another question.
    """
    question, answer = (_clean_side(text, settings) for text in (turn.user_message, turn.bot_response))
    reasons = [side.unfit for side in (question, answer) if side.unfit]
    if reasons:
        return _first(reasons)
    if _echoes(question, answer):
        return Reason.LOW_QUALITY
    facts, original = dict(turn.metadata), None
    if isinstance(before := facts.get("original_response"), str):
        side = _clean_side(before, settings)
        facts["original_response"] = side.text
        original = None if side.unfit or _echoes(question, side) else side.text
    if isinstance(thoughts := facts.get("thoughts"), str):
        facts["thoughts"] = clean_text(thoughts, settings).text
    said = turn.model_copy(update={"user_message": question.text, "bot_response": answer.text, "metadata": facts})
    return CleanTurn(said, Counter(question.found) + Counter(answer.found), original)


@dataclass(frozen=True)
class _Side:
    """What one said, clean; nothing of it where it is too long."""

    text: str
    found: Mapping[PII, int] = field(default_factory=dict)
    unfit: Reason | None = None


def clean_text(text: str, settings: CleanSettings) -> Scrubbed:
    """Return one text as it would be learned."""
    text = normalise(text)
    return scrub(text) if settings.scrub_pii else Scrubbed(text, {})


def _clean_side(text: str, settings: CleanSettings) -> _Side:
    text = normalise(text)
    if len(text) > settings.max_length:  # before all that takes its time
        return _Side("", unfit=Reason.TOO_LONG)
    said = scrub(text) if settings.scrub_pii else Scrubbed(text, {})
    return _Side(said.text, said.counts, _unfit(text, said.text, settings))


def _unfit(text: str, scrubbed: str, settings: CleanSettings) -> Reason | None:
    if not text:
        return Reason.EMPTY
    if _fullness(text) < settings.min_length:
        return Reason.TOO_SHORT
    if is_inappropriate(scrubbed):
        return Reason.INAPPROPRIATE
    if is_repetitive(text):  # before it is scrubbed: placeholders repeat themselves
        return Reason.REPETITIVE
    return Reason.LOW_QUALITY if says_little(scrubbed) else None


def _echoes(question: _Side, answer: _Side) -> bool:
    return wording(question.text).words == wording(answer.text).words


def _first(reasons: Iterable[Reason]) -> Reason:
    return min(reasons, key=_ORDER.__getitem__)


_WIDE = re.compile("[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\U00020000-\U0003fffd]")


def _fullness(text: str) -> int:
    """Characters; the wide ones of Chinese, Japanese and Korean count twice, for they say as much as two or more of an alphabet."""
    return len(text) if text.isascii() else len(text) + len(_WIDE.findall(text))


@dataclass(frozen=True)
class Cleaned:
    conversations: list[Conversation]
    dropped: dict[str, int]  # turns by Reason
    drops: list[tuple[str, str]]  # (turn id, Reason); duplicates last
    scrubbed: dict[str, int]  # finds by PII kind, in what was kept
    fit: dict[str, CleanTurn] = field(default_factory=dict)  # by id, all turns whose text is fit, also those that no conversation keeps


class DataCleaner:
    """`min_length` and `max_length` are characters of a turn's shorter and of its longer side, placeholders not yet put in.

    What a model whose tag begins with `own_prefix` answered is learned only if its owner approved it: thumbs up, or an edit. A model that
    learns its own answers unseen loses what it knew (arXiv 2305.17493).
    """

    def __init__(self, min_length: int = 10, max_length: int = 1000, scrub_pii: bool = True, own_prefix: str = "") -> None:
        self.settings, self.own_prefix = CleanSettings(min_length, max_length, scrub_pii), own_prefix

    def filter_conversations(self, conversations: Sequence[Conversation | dict[str, Any]]) -> Cleaned:
        """The conversations, cleaned, without the turns that are dropped. One in the middle cuts its conversation into two of the same id.

        Raises DataError naming every record that is no conversation.
        """
        drops: list[tuple[str, str]] = []
        fit: dict[str, CleanTurn] = {}
        parts = [part for conversation in parse_conversations(conversations) for part in self._parts(conversation, drops, fit)]
        _cut_repeats(parts, drops)
        kept = [part for part in parts if part.turns]
        scrubbed = sum((part.scrubbed() for part in kept), Counter[str]())
        dropped = dict(Counter(reason for _, reason in drops))
        return Cleaned([part.conversation() for part in kept], dropped, drops, dict(scrubbed), fit)

    def clean_text(self, text: str) -> Scrubbed:
        """One text as it would be learned."""
        return clean_text(text, self.settings)

    def _parts(self, conversation: Conversation, drops: list[tuple[str, str]], fit: dict[str, CleanTurn]) -> Iterator["_Part"]:
        system = self.clean_text(conversation.system) if conversation.system else None
        part = _Part(conversation.id, system)
        stands = {turn.id for turn in standing(conversation.turns)}
        drops += [(turn.id, str(Reason.REGENERATED)) for turn in conversation.turns if turn.id not in stands]
        for turn in conversation.turns:
            clean = clean_turn(turn, self.settings)
            if isinstance(clean, CleanTurn):
                fit[turn.id] = clean
            if turn.id not in stands:
                continue
            reasons = [reason for reason in (clean, self._unwanted(turn)) if isinstance(reason, Reason)]
            if isinstance(clean, Reason) or reasons:
                drops.append((turn.id, str(_first(reasons))))
                yield part
                part = _Part(conversation.id, system)
            else:
                part.turns.append(clean.turn)
                part.found.append(Counter(clean.found))
        yield part

    def _unwanted(self, turn: Turn) -> Reason | None:
        """Return why the answer must not be learned, whatever it says; None if nothing speaks against it."""
        facts = turn.metadata
        if facts.get("incomplete"):
            return Reason.INCOMPLETE
        if facts.get("rating") == "down":
            return Reason.REJECTED
        own = bool(self.own_prefix) and str(facts.get("model", "")).startswith(self.own_prefix)
        return Reason.OWN_ANSWER if own and not approved(turn) else None


@dataclass
class _Part:
    """A conversation between two turns that were dropped."""

    id: str
    system: Scrubbed | None
    turns: list[Turn] = field(default_factory=list)
    found: list[Counter[PII]] = field(default_factory=list)  # for each turn

    def conversation(self) -> Conversation:
        return Conversation(id=self.id, turns=tuple(self.turns), system=self.system.text if self.system else None)

    def scrubbed(self) -> Counter[str]:
        total = Counter(self.system.counts if self.system else {})
        for found in self.found:
            total += found
        return Counter({str(kind): count for kind, count in total.items()})


def _cut_repeats(parts: Sequence[_Part], drops: list[tuple[str, str]]) -> None:
    """Drop what was said before in the same context. A repeat that other turns follow stays: without it nobody would understand them."""
    known = RepeatedTurns()
    for part in parts:
        number, repeats = -1, []
        for turn in part.turns:
            number, repeated = known.number(turn.user_message, turn.bot_response, after=number)
            repeats.append(repeated)
        while repeats and repeats.pop():
            drops.append((part.turns.pop().id, str(Reason.DUPLICATE)))
            part.found.pop()
