"""Turns worth learning from, and their text made clean. The log keeps what was said.

One way in for all that is learned: `clean_turn` says what becomes of a single turn, whatever stands around it. What only a conversation
can tell (answers given anew, repeats) comes after it, in `DataCleaner`.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cache
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import phonenumbers

from fine_tuning.conversation import Conversation, Turn, approved, parse_conversations, standing
from fine_tuning.data_collection.all_cores import AllCores
from fine_tuning.data_collection.dedupe import RepeatedTurns, fingerprint
from fine_tuning.data_collection.inappropriate import is_inappropriate
from fine_tuning.data_collection.kept_decisions import KeptDecisions
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
    return carried_out(turn, decide(texts_to_clean(turn), settings))


def clean_text(text: str, settings: CleanSettings) -> Scrubbed:
    """Return one text as it would be learned."""
    text = normalise(text)
    return scrub(text) if settings.scrub_pii else Scrubbed(text, {})


# What is to be done with a turn: decided from its texts alone, in whatever process, and without holding anything of them

Texts = tuple[str, str, str | None, str | None]  # question, answer, the answer before an edit, what was thought
_FIELDS = ("user_message", "bot_response", "original_response", "thoughts")
_OF_METADATA = _FIELDS[2:]


class Change(NamedTuple):
    """How one text is made clean."""

    normalise: bool  # whether that changes it
    finds: Sequence[Find]  # the private details, in the normalised text
    leave_out: bool = False  # all of it: it is too long

    def of(self, text: str) -> str:
        """Return the clean text."""
        if self.leave_out:
            return ""
        return without(normalise(text) if self.normalise else text, self.finds)


class Decision(NamedTuple):
    """What becomes of a turn."""

    unfit: Reason | None
    changes: Mapping[str, Change] = {}  # by field; the others are clean as they are
    original_fits: bool = False
    wording: bytes = b""  # `fingerprint` of the clean question and answer

    def written(self) -> str:
        """Return it as JSON."""
        changes = {name: [*change[:1], [list(find) for find in change.finds], *change[2:]] for name, change in self.changes.items()}
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
    """Return what is another when a text might be decided upon otherwise: this folder's code, and the data that it takes from others."""
    code = blake2b(digest_size=16)
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(file.read_bytes())
    return [code.hexdigest(), phonenumbers.__version__, unicodedata.unidata_version]


def decide_line(line: bytes) -> bytes:
    """Decide on many turns: from JSON of the settings and their `Texts` to JSON of the decisions, each as it is `written`."""
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
        return Decision(_first(reasons))
    said, fits = (wording(side.layout) for side in (question, answer)), False
    asked, answered = said
    if asked.words == answered.words:  # an echo
        return Decision(Reason.LOW_QUALITY)
    sides = {"user_message": question, "bot_response": answer}
    if texts[2] is not None:
        sides["original_response"] = before = _clean_side(texts[2], settings)
        fits = not before.unfit and wording(before.layout).words != asked.words
    if texts[3] is not None:
        sides["thoughts"] = _scrubbed_side(texts[3], normalised(texts[3]), settings)
    changes = {name: side.change for name, side in sides.items() if side.change}
    return Decision(None, changes, fits, fingerprint(asked, answered))


def carried_out(turn: Turn, decision: Decision) -> CleanTurn | Reason:
    """Return the turn as was decided on its texts."""
    if decision.unfit:
        return decision.unfit
    changes = decision.changes
    original = turn.metadata.get("original_response") if decision.original_fits else None
    if not changes:
        return CleanTurn(turn, {}, original)
    texts = {name: text for name, text in zip(_FIELDS, texts_to_clean(turn), strict=True) if text is not None}
    clean = {name: changes[name].of(text) if name in changes else text for name, text in texts.items()}
    facts = {**turn.metadata, **{name: clean[name] for name in _OF_METADATA if name in clean}}
    said = turn.model_copy(update={"user_message": clean["user_message"], "bot_response": clean["bot_response"], "metadata": facts})
    kinds = [find.kind for name in _FIELDS[:2] if name in changes for find in changes[name].finds]
    return CleanTurn(said, Counter(kinds) if kinds else {}, clean["original_response"] if decision.original_fits else None)


class _Side(NamedTuple):
    """What one said, clean."""

    layout: Layout
    change: Change | None = None
    unfit: Reason | None = None


def _clean_side(text: str, settings: CleanSettings) -> _Side:
    layout = normalised(text)
    if len(layout.text) > settings.max_length:  # before all that takes its time
        return _Side(Layout(""), Change(False, [], leave_out=True), Reason.TOO_LONG)
    side = _scrubbed_side(text, layout, settings)
    return side._replace(unfit=_unfit(layout, side.layout, settings))


def _scrubbed_side(text: str, layout: Layout, settings: CleanSettings) -> _Side:
    said = scrub(layout) if settings.scrub_pii else Scrubbed(layout.text, {})
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


@dataclass
class Found:
    """What the cleaning met: turns that were dropped, by Reason, and private details by PII kind in what was kept.

    Where they are wanted, also each (turn id, Reason), and by id all turns whose text is fit.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    scrubbed: Counter[str] = field(default_factory=Counter)
    drops: list[tuple[str, str]] | None = None
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    fit: dict[str, CleanTurn] | None = None

    def drop(self, turn: Turn, reason: Reason) -> None:
        self.dropped[str(reason)] += 1
        if self.drops is not None:
            (self.duplicates if reason is Reason.DUPLICATE else self.drops).append((turn.id, str(reason)))


class DataCleaner:
    """`min_length` and `max_length` are characters of a turn's shorter and of its longer side, placeholders not yet put in.

    What a model whose tag begins with `own_prefix` answered is learned only if its owner approved it: thumbs up, or an edit. A model that
    learns its own answers unseen loses what it knew (arXiv 2305.17493).
    """

    def __init__(
        self, min_length: int = 10, max_length: int = 1000, scrub_pii: bool = True, own_prefix: str = "", kept: KeptDecisions | None = None
    ) -> None:
        """`kept`: where decisions on turns are kept, so that only what is new is computed."""
        self.settings, self.own_prefix, self._kept = CleanSettings(min_length, max_length, scrub_pii), own_prefix, kept

    def filter_conversations(self, conversations: Sequence[Conversation | dict[str, Any]]) -> Cleaned:
        """The conversations, cleaned, without the turns that are dropped. One in the middle cuts its conversation into two of the same id.

        Raises DataError naming every record that is no conversation.
        """
        found = Found(drops=[], fit={})
        cleaned = list(self.stream(parse_conversations(conversations), found))
        drops = [*(found.drops or ()), *found.duplicates]
        return Cleaned(cleaned, dict(Counter(reason for _, reason in drops)), drops, dict(found.scrubbed), found.fit or {})

    def stream(self, conversations: Iterable[Conversation], found: "Found") -> Iterator[Conversation]:
        """Yield the same one by one, holding only a few of the conversations at once. `found` is added to until the last is out."""
        known = RepeatedTurns()
        for conversation, decisions in self._decided(conversations):
            for part in self._parts(conversation, decisions, found):
                part.cut_repeats(known, found)
                if part.turns:
                    part.count(found.scrubbed)
                    yield part.conversation()

    def clean_text(self, text: str) -> Scrubbed:
        """One text as it would be learned."""
        return clean_text(text, self.settings)

    def _decided(self, conversations: Iterable[Conversation]) -> Iterator[tuple[Conversation, list[Decision]]]:
        """Yield each conversation with the decisions on its turns, which are made for many at once."""
        decider = _Decider(self.settings)
        with AllCores(decide_line) as all_cores:
            for batch in _batches(conversations):
                decisions = iter(self._decide([turn for conversation in batch for turn in conversation.turns], decider, all_cores))
                for conversation in batch:
                    yield conversation, list(islice(decisions, len(conversation.turns)))

    def _decide(self, turns: Sequence[Turn], decider: "_Decider", all_cores: AllCores) -> list[Decision]:
        """Return the decisions on turns: those that are kept and still hold, and new ones."""
        texts = [texts_to_clean(turn) for turn in turns]
        if self._kept is None:
            return decider.decide(texts, all_cores)
        made_from = list(map(decider.hash, texts))
        known = self._kept.get([turn.id for turn in turns])
        kept = [known.get(turn.id, (b"", "")) for turn in turns]
        new = [number for number, made in enumerate(made_from) if kept[number][0] != made]
        decided = dict(zip(new, decider.decide([texts[number] for number in new], all_cores), strict=True))
        if new:
            self._kept.put((turns[number].id, made_from[number], decided[number].written()) for number in new)
        return [decided[number] if number in decided else Decision.read(text) for number, (_, text) in enumerate(kept)]

    def _parts(self, conversation: Conversation, decisions: Sequence[Decision], found: "Found") -> Iterator["_Part"]:
        system = self.clean_text(conversation.system) if conversation.system else None
        part = _Part(conversation.id, system)
        stands = {turn.id for turn in standing(conversation.turns)}
        for turn in conversation.turns if len(stands) < len(conversation.turns) else ():
            if turn.id not in stands:
                found.drop(turn, Reason.REGENERATED)
        for turn, decision in zip(conversation.turns, decisions, strict=True):
            clean = carried_out(turn, decision)
            if found.fit is not None and isinstance(clean, CleanTurn):
                found.fit[turn.id] = clean
            if turn.id not in stands:
                continue
            reasons = [reason for reason in (clean, self._unwanted(turn)) if isinstance(reason, Reason)]
            if isinstance(clean, Reason) or reasons:
                found.drop(turn, _first(reasons))
                yield part
                part = _Part(conversation.id, system)
            else:
                part.turns.append(clean)
                part.wordings.append(decision.wording)
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
    turns: list[CleanTurn] = field(default_factory=list)
    wordings: list[bytes] = field(default_factory=list)  # of each turn

    def conversation(self) -> Conversation:
        turns = tuple(clean.turn for clean in self.turns)
        return Conversation(id=self.id, turns=turns, system=self.system.text if self.system else None)

    def count(self, scrubbed: Counter[str]) -> None:
        """Add the private details in what is left."""
        for counts in (self.system.counts if self.system else {}, *(clean.found for clean in self.turns)):
            for kind, count in counts.items():
                scrubbed[str(kind)] += count

    def cut_repeats(self, known: RepeatedTurns, found: Found) -> None:
        """Drop what was said before in the same context. A repeat that other turns follow stays: without it nobody would
        understand them."""
        number, repeats = -1, []
        for clean, said in zip(self.turns, self.wordings, strict=True):
            number, repeated = known.number(clean.turn.user_message, clean.turn.bot_response, number, said)
            repeats.append(repeated)
        while repeats and repeats.pop():
            found.drop(self.turns.pop().turn, Reason.DUPLICATE)


class _Decider:
    """Decides on many turns by the same settings."""

    def __init__(self, settings: CleanSettings) -> None:
        self._settings, self._hash = settings, blake2b(json.dumps([rules(), asdict(settings)]).encode(), digest_size=16)

    def hash(self, texts: Texts) -> bytes:
        """Return what is another for other texts, other settings, and other rules."""
        found = self._hash.copy()
        found.update(json.dumps(texts).encode())
        return found.digest()

    def decide(self, turns: Sequence[Texts], all_cores: AllCores) -> list[Decision]:
        """Decide on turns; if they are many on all cores."""
        if len(turns) < _MANY:
            return [decide(texts, self._settings) for texts in turns]
        pieces = [turns[first : first + _PIECE] for first in range(0, len(turns), _PIECE)]
        done = all_cores.apply([json.dumps([asdict(self._settings), piece]).encode() for piece in pieces])
        return [Decision.read(text) for line in done for text in json.loads(line)]


_MANY = 2000  # turns for which a child, which takes half a second to start, is worth while
_PIECE = 250  # turns that a core takes at once
_BATCH = 10_000  # turns that are decided upon at once


def _batches(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    batch: list[Conversation] = []
    turns = 0
    for conversation in conversations:
        batch.append(conversation)
        turns += len(conversation.turns)
        if turns >= _BATCH:
            yield batch
            batch, turns = [], 0
    if batch:
        yield batch
