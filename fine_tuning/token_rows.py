"""Define token rows: tokenized conversations, as stored in the files of a dataset.

data_preparation writes token rows; training and evaluation read them.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.errors import ByoaiError, DataError

# Separates the conversation's id and the variant in a row's id (data_preparation/augmentation.py).
VARIANT = "~"
ScoredRow = tuple[list[int], list[int]]
"""Token ids of a conversation, and the indices of the tokens whose likelihood is measured."""


@dataclass(frozen=True)
class TokenRow:
    """A tokenized conversation, or a part of one.

    `trained[i]` tells whether the prediction of `input_ids[i]` contributes to the loss.
    """

    id: str
    input_ids: list[int]
    trained: list[bool]

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def turns(self) -> int:
        """Return the number of trained answers.

        Each answer is one run of trained tokens, as two answers always have a prompt between them.
        """
        return sum(now and not before for before, now in zip([False, *self.trained], self.trained, strict=False))

    @property
    def targets(self) -> list[int]:
        """Return the indices of the tokens whose prediction contributes to the loss; never the first token."""
        return [index for index, flag in enumerate(self.trained) if flag and index > 0]

    def record(self) -> dict[str, object]:
        """Return the row as a dictionary to store as JSON, with `trained` as 0 and 1."""
        return {"id": self.id, "input_ids": self.input_ids, "trained": [int(flag) for flag in self.trained]}


def origin(id: str) -> str:
    """Return the id of the conversation that a row comes from; `id` is the row's id.

    All rows and variants of a conversation have the same origin.
    """
    return re.split(f"[#{VARIANT}]", id)[0]


def read_token_rows(file: Path, error: type[ByoaiError] = DataError) -> list[TokenRow]:
    """Return the token rows in a JSONL file. Raises `error`, whose message names the line of a malformed row."""

    def row(record: Any) -> TokenRow:
        found = TokenRow(
            str(record["id"]), [int(token) for token in record["input_ids"]], [bool(flag) for flag in record["trained"]]
        )
        if len(found.trained) != len(found.input_ids):
            raise ValueError(
                f"there are {len(found.input_ids)} tokens, but {len(found.trained)} flags that say which of them are "
                "trained"
            )
        return found

    return paths.read_jsonl(file, row, "a token row", error)
