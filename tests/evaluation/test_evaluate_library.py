"""Metrics of the `evaluate` library: the shipped one without a network, any other by its id."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fine_tuning.errors import DataError
from fine_tuning.evaluation import metrics


@pytest.fixture(autouse=True, scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No hub, and empty caches: whatever is found is found without a network."""
    import datasets.config
    import evaluate.config
    import huggingface_hub.constants

    caches = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True, raising=False)
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", str(caches / "metrics"))
        yield caches


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("Lunch is at noon.", "lunch is at NOON", 100),
        ("Lunch is at one.", "Lunch is at noon.", 75),
        ("no", "Lunch is at noon.", 0),
        ("Lunch", "Lunch is at noon.", 40),
        ("", "", 100),
        ("", "noon", 0),
        ("昼食は正午です", "昼食は一時です", 5 / 7 * 100),
        ("the the the", "the cat", 40),
    ],
)
def test_token_f1_is_the_share_of_words_that_answer_and_reference_share(
    answer: str, reference: str, expected: float
) -> None:
    assert metrics.library("token_f1", [answer], [reference]) == {"token_f1": pytest.approx(expected)}


def test_nothing_of_what_was_said_is_written_to_a_cache(offline: Path) -> None:
    metrics.library("token_f1", ["my secret answer"], ["my secret reference"])
    files = [file for file in offline.rglob("*") if file.is_file()]
    assert not [file for file in files if b"my secret" in file.read_bytes()]


@pytest.mark.parametrize("name", ["no_such_metric", "../token_f1", "someone/else", "x" * 300, "token_f1/token_f1.py"])
def test_a_metric_that_cannot_be_had_is_a_data_error_that_names_it(name: str) -> None:
    with pytest.raises(DataError, match=r"left out, because the `evaluate` library cannot load or compute it"):
        metrics.library(name, ["a"], ["b"])


def test_a_metric_of_ones_own_is_named_by_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "length"
    folder.mkdir()
    (folder / "length.py").write_text(
        "import datasets\nimport evaluate\n\n\nclass Length(evaluate.Metric):\n"
        "    def _info(self):\n        text = datasets.Value('string')\n"
        "        return evaluate.MetricInfo(description='', citation='', "
        "features=datasets.Features(predictions=text, references=text))\n\n"
        "    def _compute(self, predictions, references):\n        return {'length': len(predictions[0]), 'words': "
        "[1, 2]}\n",
        encoding="utf-8",
    )
    (figure,) = metrics.library(str(folder), ["four"], ["x"]).items()
    assert figure[0].endswith(".length") and figure[1] == 4
