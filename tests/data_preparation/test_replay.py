"""Rows and answers of one base are never fed to another."""

from pathlib import Path
from typing import Any

import pytest

from fine_tuning.data_preparation.replay import build_replay, read_prompts, unanswered
from fine_tuning.engines.base import ModelDetails, ModelSpec
from fine_tuning.errors import DataError, EngineError

PROMPTS = read_prompts(2, 0)


def build(served: Any, key: str, answer: str = "Yes.") -> tuple[Path, int]:
    """The file, and how many prompts the base was asked."""
    asked: list[str] = []

    def ask(prompt: str) -> tuple[str, bool]:
        asked.append(prompt)
        return answer, True

    left = unanswered(PROMPTS, served.vocabulary, key)
    file, making = build_replay(PROMPTS, ask, served.render, served.vocabulary, 500, key)
    list(making)
    assert len(asked) == left and unanswered(PROMPTS, served.vocabulary, key) == 0
    return file, len(asked)


def test_answers_are_asked_once_for_each_model_and_vocabulary(home: Path, all_served: Any) -> None:
    one, other = all_served["chatml"], all_served["llama2"]
    first, asked = build(one, "digest 64")
    assert asked == 2 and first.exists()
    assert build(one, "digest 64") == (first, 0)
    files = {
        first,
        *(build(served, key)[0] for served, key in [(other, "digest 64"), (one, "another 64"), (one, "digest 32")]),
    }
    assert len(files) == 4
    assert build(other, "digest 64")[1] == 0
    assert build(other, "third 64")[1] == 2


@pytest.mark.parametrize("key", ["", "  "])
def test_a_base_without_a_name_is_refused(home: Path, all_served: Any, key: str) -> None:
    with pytest.raises(DataError, match="the replay's key is empty"):
        build(all_served["chatml"], key)


@pytest.mark.parametrize("digests", [("", "abc"), ("abc", ""), ("", "")])
def test_no_engine_shows_a_model_without_a_digest(digests: tuple[str, str]) -> None:
    with pytest.raises(EngineError, match="does not say which model x:latest is"):
        ModelDetails("x:latest", digests[0], Path("x"), digests[1], ModelSpec(Path("x")))
