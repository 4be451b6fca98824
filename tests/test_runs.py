"""A run's folder, and the lock that lets one retrain run at a time."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fine_tuning import paths
from fine_tuning.errors import Busy
from fine_tuning.runs import Run, all_runs, called, holder, only_one


def run(folder: Path, *files: str) -> Path:
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text("{}")
    return folder


def test_runs_are_listed_newest_first_and_nothing_else_is(tmp_path: Path) -> None:
    finished, empty = run(tmp_path / "20260101-1", "manifest.json"), run(tmp_path / "20260103-1")
    begun = run(tmp_path / "20260102-1", "inputs.json")
    run(tmp_path / "20260104-notes", "my notes.txt")
    (tmp_path / "20260105-link").symlink_to(finished)
    (tmp_path / "20260106.txt").write_text("x")
    assert [each.folder for each in all_runs(tmp_path)] == [empty, begun, finished]
    assert [each.finished for each in all_runs(tmp_path)] == [False, False, True]


def test_what_serves_a_version_holds_nothing_that_was_said() -> None:
    names = {file.name for file in Run(Path("x")).serving()}
    assert names.isdisjoint({"progress.jsonl", "evaluation.json", "report.html", "checkpoints", "adapter"})
    assert {"adapter.gguf", "model.gguf", "Modelfile", "manifest.json"} <= names


HOLD = """
import sys, time
from fine_tuning.runs import only_one
with only_one("byoai retrain --sample"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_who_comes_second_is_told_who_holds_the_lock_and_since_when(home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env={**os.environ}) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        with pytest.raises(Busy, match=rf"`byoai retrain --sample`, process {other.pid}, since 20"), only_one():
            pytest.fail("two hold it")
        found = holder()
        assert found is not None and (found.pid, found.command) == (other.pid, "byoai retrain --sample")
        other.kill()
    assert holder() is None  # killed: what it wrote is still there, and is nobody's
    with only_one("byoai retrain"):
        assert (mine := holder()) is not None and mine.pid == os.getpid()
    assert holder() is None


def test_a_process_number_that_was_given_again_is_somebody_else(home: Path) -> None:
    with only_one():
        record = paths.home() / "retrain.holder.json"
        facts = paths.read_json(record)
        paths.write_json(record, {**facts, "started": facts["started"] - 100})
        assert holder() is None


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"pid": "x"}', "\x00\xff"])
def test_a_record_that_is_none_names_nobody(content: str, home: Path) -> None:
    paths.home().mkdir(exist_ok=True)
    (paths.home() / "retrain.holder.json").write_text(content)
    assert holder() is None


def test_who_holds_the_lock_is_known_when_the_clock_was_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with only_one("byoai retrain"):
        booted = psutil.boot_time()  # by the clock, as the start times of processes are
        monkeypatch.setattr("psutil._psplatform.boot_time", lambda: booted - 3600)
        assert "`byoai retrain`" in str(holder())


def test_the_lock_is_free_again_after_an_error(home: Path) -> None:
    with pytest.raises(RuntimeError), only_one():
        raise RuntimeError("x")
    with only_one():
        pass


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["byoai", "retrain", "--sample"], "byoai retrain --sample"),
        (["/x/byoai", "forget", "--matching", "Zorbexine lives here", "--yes"], "byoai forget --matching … --yes"),
        (["byoai", "forget", "--matching=Zorbexine"], "byoai forget --matching=…"),
        (["byoai", "ask", "Zorbexine", "-m", "v1"], "byoai ask … -m …"),
        (["byoai", "compare", "--run", "x", "What is Zorbexine?", "And Zorb?"], "byoai compare --run …"),
        (["x/__main__.py", "retrain", "--set", 'evaluation.test_prompts=["Zorbexine?"]'], "byoai retrain --set …"),
        (["worker.py", "20260101-1"], "byoai job 20260101-1"),
        (["my_script.py", "Zorbexine"], "my_script.py …"),
        (["byoai", "forget", "--Zorbexine!"], "byoai forget …"),
        ([""], "python"),
    ],
)
def test_how_a_process_was_called_is_told_without_what_was_typed(
    typed: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", typed)
    assert called() == told
