"""Make training pairs from conversations, and convert them between formats without loss.

A training pair is one conversation in one of the formats ChatML, Alpaca and instruction
(data_collection/pair_formats.py).
"""

from collections.abc import Sequence

from fine_tuning.config import DatasetFormat
from fine_tuning.conversation import Conversation, parse_conversations
from fine_tuning.data_collection.pair_formats import FORMATS, examples_of, known_format, parse_pairs


class TrainingDataFormatter:
    """Makes, checks and converts the training pairs of one format."""

    def __init__(self, format_type: DatasetFormat | str = DatasetFormat.CHATML) -> None:
        """Set the format of the pairs, ChatML by default. Raises DataError for an unknown format."""
        self.format = known_format(format_type)

    def create_training_pairs(
        self, conversations: Sequence[Conversation | dict[str, object]], thoughts: bool = False
    ) -> list[dict[str, object]]:
        """Return one pair per conversation, in order.

        `thoughts`: whether each answer begins with the model's thoughts, if they were recorded.
        Raises DataError, which names every conversation that cannot become a pair (for example
        because an answer is empty).
        """
        return [FORMATS[self.format].of(pair) for _, pair in examples_of(parse_conversations(conversations), thoughts)]

    def validate(self, pairs: Sequence[object]) -> None:
        """Check pairs of this format. Raises DataError, which names every fault and the index of its pair."""
        for _ in parse_pairs(self.format, pairs):
            pass

    def convert(self, pairs: Sequence[object], to: DatasetFormat | str) -> list[dict[str, object]]:
        """Return `pairs` of this format in the format `to`; converting them back gives the same pairs.

        Raises DataError for an unknown format, and for invalid pairs as `validate` does.
        """
        target = FORMATS[known_format(to)]
        return [target.of(example) for example in parse_pairs(self.format, pairs)]
