"""The command line's promises that need no engine."""

import os
import re
import statistics
import subprocess
import sys
import time

import pytest

from fine_tuning import errors
from fine_tuning.cli import EXIT_CODES, main


def byoai(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fine_tuning", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


def processor_seconds(command: list[str]) -> float:
    """User time, which other programs on the machine hardly touch."""
    before = os.times()
    subprocess.run(command, capture_output=True, check=True)
    after = os.times()
    return after.children_user - before.children_user


def test_help_takes_under_half_a_second():
    times = [processor_seconds([sys.executable, "-m", "fine_tuning", "--help"]) for _ in range(5)]
    assert statistics.median(times) < 0.5


def test_help_names_every_command():
    said = byoai("--help").stdout
    for command in (
        "chat",
        "retrain",
        "ask",
        "compare",
        "review",
        "models",
        "prune",
        "use",
        "rollback",
        "forget",
        "lineage",
        "stats",
        "export",
        "doctor",
        "prepare",
    ):
        assert re.search(rf"^\s+{command}\s", said, re.MULTILINE)


def test_every_error_has_its_own_documented_exit_code():
    classes = [errors.ConfigError, errors.DataError, errors.EngineError, errors.TrainingError, errors.ExportError]
    classes += [errors.PromotionRefused, errors.GateRefused, errors.Busy, errors.Cancelled]
    codes = [each.exit_code for each in classes]
    assert len(set(codes)) == len(codes)
    for code in codes:
        assert re.search(rf"\b{code} +\w", EXIT_CODES)


def test_nothing_to_learn_is_said_with_the_cure(home):
    done = byoai("retrain", BYOAI_HOME=str(home), BYOAI_ENGINE="embedded")
    assert done.returncode == 3
    assert "No conversations to train on" in done.stderr
    assert "--sample" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_configuration_faults_come_at_once(home, capsys):
    code = main(["retrain", "--set", "training.lr=1", "--set", "training.num_epochs=none", "--set", "data_preparation.test_ratio=0.9"])
    said = capsys.readouterr().err
    assert code == 2
    for fault in ("training.lr: unknown key", "training.num_epochs", "must be 1"):
        assert fault in said


@pytest.mark.parametrize("arguments", [["retrain", "--set", "no-value"], ["use", "newest"], ["retrain", "--profile", "../secret"]])
def test_bad_arguments_are_named(arguments, home, capsys):
    assert main(arguments) in {1, 2}
    assert arguments[-1] in capsys.readouterr().err


def test_an_engine_that_does_not_answer_is_named_with_its_url(home, capsys):
    start = time.perf_counter()
    assert main(["models", "--ollama-url", "http://127.0.0.1:9"]) == 4
    assert "127.0.0.1:9" in capsys.readouterr().err
    assert time.perf_counter() - start < 5


def test_an_unknown_base_is_named_with_the_known_ones(home, capsys, monkeypatch):
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    assert main(["retrain", "--sample", "--dry-run", "--set", "training.base_model=nosuch:1b"]) == 4
    assert "nosuch:1b" in capsys.readouterr().err


def test_a_second_retrain_is_refused_while_one_runs(home, capsys, monkeypatch):
    from fine_tuning.pipeline import only_one

    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    with only_one():
        done = byoai("retrain", BYOAI_HOME=str(home), BYOAI_ENGINE="embedded")
    assert done.returncode == 8
    assert "another retrain" in done.stderr
