"""Token rows as the dataset's files hold them."""

import json
from pathlib import Path

import pytest

from fine_tuning.errors import DataError, TrainingError
from fine_tuning.token_rows import TokenRow, read_token_rows

ROWS = [TokenRow("a", [1, 5, 6, 7], [True, False, True, True]), TokenRow("a#2", [1], [False]), TokenRow("b/2", [], [])]


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row.record()) + "\n" for row in ROWS))
    assert read_token_rows(tmp_path / "rows.jsonl") == ROWS


def test_nothing_predicts_the_first_token() -> None:
    assert [row.targets for row in ROWS] == [[2, 3], [], []]


@pytest.mark.parametrize(
    "line",
    [
        '{"input_ids": [1], "trained": [0]}',
        '{"id": "a", "input_ids": [1, 2], "trained": [0]}',
        '{"id": "a", "input_ids": ["x"], "trained": [0]}',
        '{"id": "a", "input_ids": 7, "trained": [0]}',
        "[]",
        "nothing",
    ],
)
@pytest.mark.parametrize("error", [DataError, TrainingError])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str, error: type[DataError | TrainingError]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROWS[0].record()) + "\n" + line + "\n")
    with pytest.raises(error, match=r"rows\.jsonl, line 2: not a token row"):
        read_token_rows(file, error)
