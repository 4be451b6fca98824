"""Which turns teach, and what of them: the log keeps what was said, training text is cleaned."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fine_tuning.conversation import Conversation, Turn, parse_conversations
from fine_tuning.data_collection.dedupe import repeated_turns
from fine_tuning.data_collection.privacy import scrub


class Reason(StrEnum):
    """Why a turn was dropped."""

    INCOMPLETE = "incomplete"  # the answer was stopped or cut off
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    REPETITIVE = "repetitive"
    LOW_QUALITY = "low_quality"
    INAPPROPRIATE = "inappropriate"
    DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Cleaned:
    conversations: list[Conversation]
    dropped: dict[str, int]  # turns by reason
    drops: list[tuple[str, str]]  # (turn id, reason), in order
    scrubbed: dict[str, int]  # private details by kind


class DataCleaner:
    """Drops turns with a side under `min_length` or over `max_length` characters, and those that teach nothing good."""

    def __init__(self, min_length: int = 10, max_length: int = 1000, scrub_pii: bool = True) -> None:
        self.min_length, self.max_length, self.scrub_pii = min_length, max_length, scrub_pii

    def filter_conversations(self, conversations: Sequence[Conversation | dict[str, Any]]) -> Cleaned:
        """The cleaned conversations and what was dropped. A turn dropped from the middle cuts its conversation in two."""
        parsed = parse_conversations(conversations)
        scrubbed: Counter[str] = Counter()
        cleaned = [[self._clean(turn, scrubbed) for turn in conversation.turns] for conversation in parsed]
        reasons = {id(turn): self._reason(turn) for turns in cleaned for turn in turns}
        rest = [turn for turns in cleaned for turn in turns if reasons[id(turn)] is None]
        repeats = repeated_turns([(turn.user_message, turn.bot_response) for turn in rest])
        reasons.update({id(turn): Reason.DUPLICATE for turn, earlier in zip(rest, repeats, strict=True) if earlier is not None})
        drops = [(turn.id, reasons[id(turn)]) for turns in cleaned for turn in turns if reasons[id(turn)] is not None]
        kept: list[Conversation] = []
        for conversation, turns in zip(parsed, cleaned, strict=True):
            kept += _pieces(conversation, [turn if reasons[id(turn)] is None else None for turn in turns])
        return Cleaned(kept, dict(Counter(str(reason) for _, reason in drops)), [(i, str(r)) for i, r in drops], dict(scrubbed))

    def _clean(self, turn: Turn, scrubbed: Counter[str]) -> Turn:
        sides = []
        for text in (turn.user_message, turn.bot_response):
            text = tidy(text)
            if self.scrub_pii:
                found = scrub(text)
                text = found.text
                scrubbed.update({str(kind): count for kind, count in found.counts.items() if count})
            sides.append(text)
        return turn.model_copy(update={"user_message": sides[0], "bot_response": sides[1]})

    def _reason(self, turn: Turn) -> Reason | None:
        sides = (turn.user_message, turn.bot_response)
        if turn.metadata.get("incomplete"):
            return Reason.INCOMPLETE
        if min(map(len, sides)) < self.min_length:
            return Reason.TOO_SHORT
        if max(map(len, sides)) > self.max_length:
            return Reason.TOO_LONG
        if any(map(is_repetitive, sides)):
            return Reason.REPETITIVE
        if any(map(is_noise, sides)):
            return Reason.LOW_QUALITY
        return Reason.INAPPROPRIATE if any(_INSULTS.search(side) for side in sides) else None


def tidy(text: str) -> str:
    """NFC, no control characters, no trailing or doubled white space; line breaks stay."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n"))
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in {"Cc", "Cs"})
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[^\S\n]+", " ", re.sub(r"[^\S\n]+\n", "\n", text))).strip()


def is_repetitive(text: str) -> bool:
    """Whether a text says the same again and again: one character, or one phrase of up to eight words."""
    if re.search(r"(\S)\1{15,}", text):
        return True
    words = text.casefold().split()
    for size in range(1, 9):
        phrases = Counter(tuple(words[start : start + size]) for start in range(len(words) - size + 1))
        if phrases and (most := max(phrases.values())) >= 4 and most * size > 0.6 * len(words):
            return True
    return False


def is_noise(text: str) -> bool:
    """Whether hardly any of a text is letters or digits, of whatever script."""
    visible = [character for character in text if not character.isspace()]
    return sum(character.isalnum() for character in visible) < 0.4 * len(visible)


def _pieces(conversation: Conversation, turns: Sequence[Turn | None]) -> list[Conversation]:
    pieces: list[list[Turn]] = [[]]
    for turn in turns:
        if turn is None:
            pieces.append([])
        else:
            pieces[-1].append(turn)
    return [conversation.model_copy(update={"turns": tuple(piece)}) for piece in pieces if piece]


# Whole words that are abuse in any sentence; words with a decent meaning are left to their owners.
_INSULTS = re.compile(r"\b(?:fuck\w*|motherfuck\w*|cunts?|faggots?|niggers?|kikes?|retards?|whores?|sluts?|wankers?)\b", re.IGNORECASE)
