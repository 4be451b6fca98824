"""What an epoch computes is counted from the rows as the training computes them."""

import json
from dataclasses import replace

import pytest

from fine_tuning.config import Replay, Training
from fine_tuning.errors import TrainingError
from fine_tuning.training.trainer_utils import read_rows
from fine_tuning.training.workload import ComputedRow, computed_rows, workload

LORA = Training(method="lora", replay=Replay(share=0))


def test_a_workload_has_every_step_and_the_longest_row(tmp_path):
    rows = [ComputedRow(tuple(range(start, start + 20)), 5) for start in range(0, 40_000, 20)] + [
        ComputedRow(tuple(range(-500, 0)), 100)
    ]
    work = workload(rows, LORA)
    assert work.steps == 501
    assert len(work.batches) <= 100
    assert max(batch.tokens for batch in work.batches) >= 500
    assert max(batch.tokens for batch in workload(rows, LORA, max_length=30).batches) <= 110


def test_rows_are_read_as_the_training_computes_them(row_folder):
    theirs = read_rows(row_folder / "train.jsonl")
    assert [(list(row.ids), row.targets) for row in computed_rows(row_folder / "train.jsonl")] == [
        (row.computed(), len(row.targets())) for row in theirs
    ]


def test_logits_are_counted_a_lot_at_a_time_and_those_held_to_the_base_twice():
    rows = [ComputedRow((1, 2, *range(index, index + 100)), 100) for index in range(1000, 1400, 100)]
    (batch,) = workload(rows, LORA).batches
    assert batch.logits == 200 and batch.targets == 400
    (batch,) = workload([replace(rows[0], replayed=True), *rows[1:]], LORA).batches
    assert batch.logits == 300


def test_replay_rows_are_counted_as_such_and_the_longest_is_known(row_folder):
    replay = computed_rows(row_folder / "replay.jsonl", replayed=True)
    chats = computed_rows(row_folder / "train.jsonl")
    assert all(row.replayed for row in replay) and not any(row.replayed for row in chats)
    assert workload([*replay, *chats], LORA).longest_replayed == max(row.targets for row in replay)
    assert workload(chats, LORA).longest_replayed == 0


def test_a_row_gives_the_same_counts_in_whatever_form_it_is_written(tmp_path):
    records = [
        {"id": 'a "quoted" [1] id', "input_ids": [5, 6, 7, 8], "trained": [0, 0, 1, 1]},
        {"id": "first", "input_ids": [5, 6], "trained": [1, 0]},
        {"id": "one", "input_ids": [5], "trained": [1]},
    ]
    written, other = tmp_path / "written.jsonl", tmp_path / "other.jsonl"
    written.write_text("".join(json.dumps(record) + "\n" for record in records))
    other.write_text("".join(json.dumps(record | {"more": 1}, separators=(",", ":")) + "\n" for record in records))
    for file in (written, other):
        found = [(list(row.ids), len(row.ids), row.targets) for row in computed_rows(file)]
        assert found == [([5, 6, 7], 3, 2), ([5], 1, 0), ([5], 1, 0)]


def test_a_line_that_is_no_row_is_named(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text('{"id": "a", "input_ids": [5, 6], "trained": [0, 1]}\n{"id": "a", "input_ids": [5, 6]}\n')
    with pytest.raises(TrainingError, match="line 2"):
        computed_rows(file)
