"""Turns worth learning from, and their text made clean. The log keeps what was said."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fine_tuning.conversation import Conversation, Turn, approved, parse_conversations, standing
from fine_tuning.data_collection.dedupe import RepeatedTurns, fold
from fine_tuning.data_collection.inappropriate import is_inappropriate
from fine_tuning.data_collection.privacy import PII, Scrubbed, scrub


class Reason(StrEnum):
    """Why a turn is not learned. The first that applies counts."""

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


@dataclass(frozen=True)
class Cleaned:
    conversations: list[Conversation]
    dropped: dict[str, int]  # turns by Reason
    drops: list[tuple[str, str]]  # (turn id, Reason); duplicates last
    scrubbed: dict[str, int]  # finds by PII kind, in what was kept


class DataCleaner:
    """`min_length` and `max_length` are characters of a turn's shorter and of its longer side, placeholders not yet put in.

    What a model whose tag begins with `own_prefix` answered is learned only if its owner approved it: thumbs up, or an edit. A model that
    learns its own answers unseen loses what it knew (arXiv 2305.17493).
    """

    def __init__(self, min_length: int = 10, max_length: int = 1000, scrub_pii: bool = True, own_prefix: str = "") -> None:
        self.min_length, self.max_length, self.scrub_pii, self.own_prefix = min_length, max_length, scrub_pii, own_prefix

    def filter_conversations(self, conversations: Sequence[Conversation | dict[str, Any]]) -> Cleaned:
        """The conversations, cleaned, without the turns that are dropped. One in the middle cuts its conversation into two of the same id.

        Raises DataError naming every record that is no conversation.
        """
        drops: list[tuple[str, str]] = []
        parts = [part for conversation in parse_conversations(conversations) for part in self._parts(conversation, drops)]
        _cut_repeats(parts, drops)
        kept = [part for part in parts if part.turns]
        scrubbed = sum((part.scrubbed() for part in kept), Counter[str]())
        return Cleaned([part.conversation() for part in kept], dict(Counter(reason for _, reason in drops)), drops, dict(scrubbed))

    def clean_text(self, text: str) -> Scrubbed:
        """One text as it would be learned."""
        return self._scrub(normalise(text))

    def _parts(self, conversation: Conversation, drops: list[tuple[str, str]]) -> Iterator["_Part"]:
        system = self.clean_text(conversation.system) if conversation.system else None
        part = _Part(conversation.id, system)
        stands = {turn.id for turn in standing(conversation.turns)}
        drops += [(turn.id, str(Reason.REGENERATED)) for turn in conversation.turns if turn.id not in stands]
        for turn in (turn for turn in conversation.turns if turn.id in stands):
            sides = normalise(turn.user_message), normalise(turn.bot_response)
            reason = self._unfit(sides, turn)
            if not reason:  # only now, for scrubbing takes its time, most of all with very long texts
                question, answer = map(self._scrub, sides)
                reason = _worthless(question.text, answer.text)
            if reason:
                drops.append((turn.id, str(reason)))
                yield part
                part = _Part(conversation.id, system)
            else:
                part.turns.append(self._cleaned(turn, question.text, answer.text))
                part.found.append(Counter(question.counts) + Counter(answer.counts))
        yield part

    def _scrub(self, text: str) -> Scrubbed:
        return scrub(text) if self.scrub_pii else Scrubbed(text, {})

    def _unfit(self, sides: tuple[str, str], turn: Turn) -> Reason | None:
        facts = turn.metadata
        if not all(sides):
            return Reason.EMPTY
        if facts.get("incomplete"):
            return Reason.INCOMPLETE
        if facts.get("rating") == "down":
            return Reason.REJECTED
        if self.own_prefix and str(facts.get("model", "")).startswith(self.own_prefix) and not approved(turn):
            return Reason.OWN_ANSWER
        if min(map(_fullness, sides)) < self.min_length:
            return Reason.TOO_SHORT
        if max(map(len, sides)) > self.max_length:
            return Reason.TOO_LONG
        return None

    def _cleaned(self, turn: Turn, question: str, answer: str) -> Turn:
        facts = dict(turn.metadata)
        for key in ("original_response", "thoughts"):
            if isinstance(text := facts.get(key), str):
                facts[key] = self.clean_text(text).text
        return turn.model_copy(update={"user_message": question, "bot_response": answer, "metadata": facts})


def _worthless(question: str, answer: str) -> Reason | None:
    sides = question, answer
    if any(map(is_inappropriate, sides)):
        return Reason.INAPPROPRIATE
    if any(map(is_repetitive, sides)):
        return Reason.REPETITIVE
    if any(map(_says_little, sides)) or fold(question) == fold(answer):
        return Reason.LOW_QUALITY
    return None


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


# Text

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
# Controls, half characters, and what nobody sees: soft hyphens, zero-width spaces, reversed directions, tags. Joiners stay: they spell.
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060-\u2064\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def normalise(text: str) -> str:
    """Unicode NFC, plain line ends and spaces, nothing invisible, at most one empty line. Indentation stays: it may be code."""
    text = unicodedata.normalize("NFC", _UNSEEN.sub("", _LINE_ENDS.sub("\n", text)))
    text = re.sub(r"(?<=\S)(?:[ \t]{2,}|\t)", " ", _SPACES.sub(" ", text))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip()


_WIDE = re.compile("[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\U00020000-\U0003fffd]")


def _fullness(text: str) -> int:
    """Characters; the wide ones of Chinese, Japanese and Korean count twice, for they say as much as two or more of an alphabet."""
    return len(text) if text.isascii() else len(text) + len(_WIDE.findall(text))


_RUN = re.compile(r"(\S)\1{7,}")


def is_repetitive(text: str) -> bool:
    """Whether the text, or its second half, repeats itself in more than half of its sequences of four words.

    As small models do when they are stuck (duplicate n-grams: Rae et al., arXiv 2112.11446). Where words have no spaces, characters count.
    """
    if 2 * len(_RUN.sub(r"\1", text)) < len(text):
        return True
    words: Sequence[str] = text.casefold().split()
    units = words if 12 * len(words) > len(text) else "".join(words)
    return _circles(units) or _circles(units[len(units) // 2 :])


def _circles(units: Sequence[str]) -> bool:
    grams = list(zip(units, units[1:], units[2:], units[3:], strict=False))
    return len(grams) >= 3 and 2 * len(set(grams)) < len(grams)


_PLACEHOLDER = re.compile("|".join(re.escape(kind.placeholder) for kind in PII))


def _says_little(text: str) -> bool:
    """Whether less than a quarter of what is seen are letters and digits of any script, or more than 5 % was lost in a wrong decoding."""
    seen = Counter(_PLACEHOLDER.sub("", text))
    visible = sum(count for character, count in seen.items() if not character.isspace())
    words = sum(count for character, count in seen.items() if unicodedata.category(character)[0] in "LMN")
    return 4 * words <= visible or 20 * seen["\ufffd"] > visible
