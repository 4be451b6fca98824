"""The machine's speed: measured once a day for each way to train, and only then torch is loaded."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fine_tuning.config import Training
from fine_tuning.training import machine
from fine_tuning.training.machine import Machine, this_machine

SETTINGS = Training(dtype="float32", products="blas", threads=1)
DRY_RUN = """
import sys
from fine_tuning.cli.main import main
assert main(["retrain", "--sample", "--dry-run"]) == 0
print("torch" in sys.modules)
"""


@pytest.fixture
def measured(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[Training]:
    """What was measured, one after the other; each is faster than the one before."""
    found: list[Training] = []

    def measure(settings: Training) -> Machine:
        found.append(settings)
        return Machine(1e11 * len(found), 1, 4)

    monkeypatch.setattr(machine, "measure_machine", measure)
    return found


def test_it_is_measured_once_and_its_free_memory_is_looked_up_each_time(measured: list[Training]) -> None:
    first, second = this_machine(SETTINGS), this_machine(SETTINGS)
    assert len(measured) == 1 and first.flops == second.flops == 1e11
    assert second.available > 1 << 20


@pytest.mark.parametrize(
    "other", [{"dtype": "bfloat16"}, {"products": "onednn"}, {"threads": 2}, {"method": "full"}], ids=str
)
def test_another_way_to_train_is_measured_by_itself(measured: list[Training], other: dict[str, object]) -> None:
    changed = Training(**{**SETTINGS.model_dump(), **other})
    assert [this_machine(each).flops for each in (SETTINGS, changed, SETTINGS, changed)] == [1e11, 2e11, 1e11, 2e11]


def test_after_a_day_and_after_a_clock_set_back_it_is_measured_again(
    measured: list[Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    this_machine(SETTINGS)
    for hours in (25, -1):
        now = time.time() + 3600 * hours
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda now=now: now)
            this_machine(SETTINGS)
    assert len(measured) == 3


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"KEY": 1}',
        '{"KEY": {"time": TIME}}',
        '{"KEY": {"time": TIME, "values": {"flops": "x"}}}',
        '{"KEY": {"time": TIME, "values": {"flops": 0, "available": 1}}}',
    ],
)
def test_a_damaged_file_is_measured_anew_and_mended(home: Path, measured: list[Training], damaged: str) -> None:
    file = home / "machine.json"
    file.write_text(damaged.replace("KEY", machine._key(SETTINGS)).replace("TIME", str(time.time())), encoding="utf-8")
    assert this_machine(SETTINGS).flops == this_machine(SETTINGS).flops == 1e11
    assert json.loads(file.read_text(encoding="utf-8"))


def test_no_more_measurements_are_kept_than_are_of_use(home: Path, measured: list[Training]) -> None:
    for threads in range(39, 0, -1):
        this_machine(Training(threads=threads))
    assert len(json.loads((home / "machine.json").read_text(encoding="utf-8"))) == 20
    for threads in range(1, 21):  # the newest ones
        this_machine(Training(threads=threads))
    assert len(measured) == 39


def test_a_second_dry_run_does_without_torch(home: Path, small_engine: object) -> None:
    (home / "machine.json").unlink()
    said = [
        subprocess.run([sys.executable, "-c", DRY_RUN], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert [each.split()[-1] for each in said] == ["True", "False"]
