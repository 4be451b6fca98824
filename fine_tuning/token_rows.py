"""Conversations in tokens, as the dataset's files hold them: written by data_preparation, read by training and evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.errors import ByoaiError, DataError


@dataclass(frozen=True)
class TokenRow:
    """One training row. `trained[i]` says whether the prediction of `input_ids[i]` (from what is before it) has loss."""

    id: str
    input_ids: list[int]
    trained: list[bool]

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def turns(self) -> int:
        """How many answers are trained. Between two of them lies a prompt, so each is one run of trained tokens."""
        return sum(now and not before for before, now in zip([False, *self.trained], self.trained, strict=False))

    @property
    def targets(self) -> list[int]:
        """The indices of the tokens whose prediction has loss. Nothing predicts the first token."""
        return [index for index, flag in enumerate(self.trained) if flag and index > 0]

    def record(self) -> dict[str, Any]:
        """Return the row as it is stored: `trained` as 0 and 1."""
        return {"id": self.id, "input_ids": self.input_ids, "trained": [int(flag) for flag in self.trained]}


def read_token_rows(file: Path, error: type[ByoaiError] = DataError) -> list[TokenRow]:
    """Return the rows in a JSONL file. `error` names the line of a bad one."""

    def row(record: Any) -> TokenRow:
        found = TokenRow(str(record["id"]), [int(token) for token in record["input_ids"]], [bool(flag) for flag in record["trained"]])
        if len(found.trained) != len(found.input_ids):
            raise ValueError(f"{len(found.input_ids)} tokens, and {len(found.trained)} flags that say which of them are trained")
        return found

    return paths.read_jsonl(file, row, "a token row", error)
