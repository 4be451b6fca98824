"""Turns worth learning from, and their text made clean. The log keeps what was said."""

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fine_tuning.conversation import Conversation, Turn, parse_conversations
from fine_tuning.data_collection.dedupe import RepeatedTurns, fold
from fine_tuning.data_collection.inappropriate import is_inappropriate
from fine_tuning.data_collection.privacy import PII, scrub


class Reason(StrEnum):
    """Why a turn is not learned. The first that applies counts."""

    EMPTY = "empty"  # a side says nothing
    INCOMPLETE = "incomplete"  # the answer was stopped, or cut by the engine's limit
    REJECTED = "rejected"  # thumbs down, and not edited since
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    INAPPROPRIATE = "inappropriate"
    REPETITIVE = "repetitive"  # the text goes round in circles
    LOW_QUALITY = "low_quality"  # hardly any words, broken characters, or an answer that echoes the question
    DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Cleaned:
    conversations: list[Conversation]
    dropped: dict[str, int]  # turns by Reason
    drops: list[tuple[str, str]]  # (turn id, Reason), in order
    scrubbed: dict[str, int]  # finds by PII kind, in what is kept


class DataCleaner:
    """`min_length` and `max_length` are characters of a turn's shorter and longer side; of wide (Chinese, Japanese, Korean) ones half count."""

    def __init__(self, min_length: int = 10, max_length: int = 1000, scrub_pii: bool = True) -> None:
        self.min_length, self.max_length, self.scrub_pii = min_length, max_length, scrub_pii

    def filter_conversations(self, conversations: Sequence[Conversation | dict[str, Any]]) -> Cleaned:
        """The conversations without the turns that are dropped. One in the middle cuts its conversation in two, of the same id.

        Raises DataError naming every record that is no conversation.
        """
        drops: list[tuple[str, str]] = []
        parts = [part for conversation in parse_conversations(conversations) for part in self._parts(conversation, drops)]
        kept = list(_without_repeats(parts, drops))
        scrubbed: Counter[str] = Counter()
        for part in kept:
            scrubbed += part.scrubbed()
        dropped = Counter(reason for _, reason in drops)
        return Cleaned([part.conversation() for part in kept], dict(dropped), drops, dict(scrubbed))
