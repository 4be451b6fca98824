"""`byoai train` and `byoai evaluate`: trainings that are jobs, in the embedded engine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_training import SMALL

from fine_tuning.cli.main import main
from fine_tuning.cli.training import _format_of
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.jobs.queue import Queue
from fine_tuning.model_management.model_registry import Registry

TUNED = "fine_tuned_plants"
SETTINGS = SMALL | {"deployment.model_name": "plants", "training.num_epochs": 1}
SET = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.csv"
    rows = [
        f"Where does plant number {number} stand?,Plant {number} stands on shelf {number + 3}." for number in range(8)
    ]
    file.write_text("\n".join(["question,answer", *rows]), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("dataset", "format"),
    [
        ("x.csv", "csv"),
        ("x.TSV", "csv"),
        ("x.txt", "text"),
        ("x.jsonl", "jsonl"),
        ("x.json", "jsonl"),
        ("x", "jsonl"),
        ("x.parquet", "huggingface"),
        ("folder/", "huggingface"),
    ],
)
def test_a_datasets_format_is_told_by_its_looks(tmp_path: Path, dataset: str, format: str) -> None:
    path = tmp_path / dataset
    path.mkdir() if dataset.endswith("/") else path.touch()
    assert _format_of(str(path)) == format


@pytest.mark.parametrize(
    ("dataset", "format"), [("owner/name", "huggingface"), ("module:function", "custom"), ("gone.jsonl", "jsonl")]
)
def test_what_is_no_file_is_a_name(dataset: str, format: str) -> None:
    assert _format_of(dataset) == format


@pytest.mark.parametrize(
    ("dataset", "content", "more", "code", "said"),
    [
        ("gone.csv", None, [], 3, "gone.csv"),
        ("bad.jsonl", "{", [], 3, "line 1"),
        ("empty.csv", "question,answer\n", [], 3, "nothing is left"),
        ("bad.jsonl", "\xff", [], 3, "bad.jsonl"),
        ("fine_tuning:nosuch", None, [], 2, "nosuch"),
        (
            "ok.csv",
            "question,answer\nWhere is the key to it?,Under the mat by the door.\n",
            ["--set", "training.num_epochs=0"],
            2,
            "num_epochs",
        ),
    ],
)
def test_what_cannot_be_learned_is_said_before_a_job_begins(
    home: Path, tmp_path: Path, capsys: Any, dataset: str, content: str | None, more: list[str], code: int, said: str
) -> None:
    if content is not None:
        (tmp_path / dataset).write_text(content, encoding="latin-1")
    name = dataset if ":" in dataset else str(tmp_path / dataset)
    assert main(["train", name, *more]) == code
    assert said in capsys.readouterr().err and Queue().jobs() == []


@pytest.mark.slow
def test_a_dataset_becomes_a_version_that_is_measured_again(
    small_engine: EmbeddedEngine, pairs: Path, capfd: Any
) -> None:
    assert main(["train", str(pairs), *SET]) == 0
    said = capfd.readouterr().out
    assert f"{TUNED}:v1 is live" in said and "▸ Training" in said and "step " in said
    assert Registry().live(TUNED) is not None and Queue().jobs()[0].kind == "train"

    assert main(["evaluate", "v1", *SET]) == 0
    said = capfd.readouterr().out
    assert f"{TUNED}:v1 against its base" in said and "perplexity" in said
    assert main(["evaluate", *SET, "--json"]) == 0
    (found,) = map(json.loads, capfd.readouterr().out.splitlines())
    assert found["state"] == "completed" and {score["metric"] for score in found["result"]["scores"]} >= {"perplexity"}


@pytest.mark.slow
def test_ctrl_c_stops_the_job_and_detach_only_begins_it(small_engine: EmbeddedEngine, pairs: Path, capfd: Any) -> None:
    command = [sys.executable, "-m", "fine_tuning", "train", str(pairs), *SET, "--set", "training.num_epochs=200"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if "step " in line:
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        said = process.stderr.read()
    assert process.returncode == 130 and "jobs resume" in said and "Traceback" not in said
    (job,) = Queue().jobs()
    assert job.state == "cancelled"

    assert main(["train", str(pairs), *SET, "--detach", "--json"]) == 0
    begun = json.loads(capfd.readouterr().out)
    assert begun["state"] in ("queued", "running")
    assert main(["jobs", "cancel", begun["id"]]) == 0 and Queue().get(begun["id"]).over
