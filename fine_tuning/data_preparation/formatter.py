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
        """Set the format of the pairs. Raises DataError for an unknown format."""
        self.format = known_format(format_type)

    def create_training_pairs(
        self, conversations: Sequence[Conversation | dict[str, object]], thoughts: bool = False
    ) -> list[dict[str, object]]:
        """Return one pair per conversation, in order; with `thoughts`, each answer begins with its thought.

        Raises DataError naming every conversation that cannot become a pair (an empty answer, ...)."""
        return list(self.stream(parse_conversations(conversations), thoughts))

    def stream(self, conversations: Iterable[Conversation], thoughts: bool = False) -> Iterator[dict[str, object]]:
        """Yield the pairs one by one. The DataError is raised after all valid pairs."""
        chatml = ({"messages": [message.model_dump() for message in each.messages(thoughts)]} for each in conversations)
        return map(FORMATS[self.format].of, parse_pairs(DatasetFormat.CHATML, chatml))

    def validate(self, pairs: Sequence[object]) -> None:
        """Raise DataError with every fault of every pair, by index."""
        for _ in parse_pairs(self.format, pairs):
            pass

    def convert(self, pairs: Sequence[object], to: DatasetFormat | str) -> list[dict[str, object]]:
        """Return `pairs` in the format `to`; converting back gives the same pairs. Raises DataError like `validate`."""
        target = FORMATS[known_format(to)]
        return [target.of(example) for example in parse_pairs(self.format, pairs)]
