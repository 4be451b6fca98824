"""Replay rows are the project's own exchanges, whole; those of one base are never fed to another."""

import re
from pathlib import Path
from typing import Any

import pytest

from fine_tuning.data_preparation.replay import build_replay, read_exchanges
from fine_tuning.engines.base import ModelDetails, ModelSpec
from fine_tuning.errors import DataError, EngineError
from fine_tuning.training.trainer_utils import read_rows

EXCHANGES = read_exchanges(2, 0)


def build(served: Any, key: str, exchanges: list[tuple[str, str]] = EXCHANGES) -> Path:
    return build_replay(exchanges, served.render, served.vocabulary, 500, key)


def test_rows_are_made_once_for_each_model_vocabulary_and_choice(home: Path, all_served: Any) -> None:
    one, other = all_served["chatml"], all_served["llama2"]
    first = build(one, "digest")
    made = first.stat().st_mtime_ns
    assert build(one, "digest") == first and first.stat().st_mtime_ns == made
    others = {build(other, "digest"), build(one, "another"), build(one, "digest", EXCHANGES[:1])}
    assert len(others | {first}) == 4


def test_every_answer_of_the_project_is_taught_whole_with_its_end(home: Path, all_served: Any) -> None:
    served, exchanges = all_served["chatml"], read_exchanges(1000, 3)
    assert len(exchanges) == 170 and read_exchanges(16, 3) == exchanges[:16]
    for (_, answer), row in zip(exchanges, read_rows(build(served, "digest", exchanges)), strict=True):
        *taught, end = (row.input_ids[place] for place in row.targets())
        assert served.vocabulary.decode(taught).strip() == answer and served.vocabulary.ends_turn(end)


@pytest.mark.parametrize("line", ['{"prompt": "What?"}', "[]", '"What?"', "{", '{"answer": "That."}'])
def test_a_file_without_answers_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(line)
    with pytest.raises(DataError, match=re.escape('must have one object {"prompt": ..., "answer": ...} a line')):
        read_exchanges(1, 0, file)


@pytest.mark.parametrize("key", ["", "  "])
def test_a_base_without_a_name_is_refused(home: Path, all_served: Any, key: str) -> None:
    with pytest.raises(DataError, match="the replay's key is empty"):
        build(all_served["chatml"], key)


@pytest.mark.parametrize("digests", [("", "abc"), ("abc", ""), ("", "")])
def test_no_engine_shows_a_model_without_a_digest(digests: tuple[str, str]) -> None:
    with pytest.raises(EngineError, match="does not say which model x:latest is"):
        ModelDetails("x:latest", digests[0], Path("x"), digests[1], ModelSpec(Path("x")))
