"""Conversations as training pairs in the three common formats (data_collection/pair_formats.py),
and conversion between them without loss. One conversation is one pair.
"""

from collections.abc import Iterable, Iterator, Sequence

from fine_tuning.config import DatasetFormat
from fine_tuning.conversation import Conversation, parse_conversations
from fine_tuning.data_collection.pair_formats import FORMATS, known_format, parse_pairs


class TrainingDataFormatter:
    """Makes, checks and converts the training pairs of one format."""

    def __init__(self, format_type: DatasetFormat | str = DatasetFormat.CHATML) -> None:
        """Raises DataError for an unknown format."""
        self.format = known_format(format_type)

    def create_training_pairs(
        self, conversations: Sequence[Conversation | dict[str, object]], thoughts: bool = False
    ) -> list[dict[str, object]]:
        """Return one pair a conversation, in order, with the `thoughts` before the answers if they are wanted.

        Raises DataError naming every conversation that cannot be one (an empty answer, ...)."""
        return list(self.stream(parse_conversations(conversations), thoughts))

    def stream(self, conversations: Iterable[Conversation], thoughts: bool = False) -> Iterator[dict[str, object]]:
        """Yield the same pairs one by one. The DataError comes behind all that can be one."""
        chatml = ({"messages": [message.model_dump() for message in each.messages(thoughts)]} for each in conversations)
        return map(FORMATS[self.format].of, parse_pairs(DatasetFormat.CHATML, chatml))

    def validate(self, pairs: Sequence[object]) -> None:
        """Raise DataError with every fault of every pair, by index."""
        for _ in parse_pairs(self.format, pairs):
            pass

    def convert(self, pairs: Sequence[object], to: DatasetFormat | str) -> list[dict[str, object]]:
        """Return `pairs` in the format `to`; converted back they are the same. Raises DataError as `validate` does."""
        target = FORMATS[known_format(to)]
        return [target.of(example) for example in parse_pairs(self.format, pairs)]
