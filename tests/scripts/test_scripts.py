"""The shell scripts, run as a user runs them; nothing here needs a network."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]


def run_library(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a shell that has read scripts/lib.sh."""
    return subprocess.run(
        ["bash", "-c", f". {ROOT}/scripts/lib.sh; {code}"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def ready_venv(tmp_path: Path) -> Path:
    """A virtual environment that counts as set up; its `byoai` prints its arguments and exits with 42.

    It has neither pip nor uv: a script that tried to install anything into it would fail.
    """
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    (venv / "bin" / "python").symlink_to(sys.executable)
    byoai = venv / "bin" / "byoai"
    byoai.write_text("#!/bin/sh\nprintf '<%s>' \"$@\"\nexit 42\n")
    byoai.chmod(0o755)
    stamped = run_library('fingerprint | tee "$VENV/.set-up-base" > "$VENV/.set-up-dev"', BYOAI_VENV=str(venv))
    assert stamped.returncode == 0, stamped.stderr
    return venv


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_valid_shell_and_stops_at_the_first_fault(script: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "set -euo pipefail" in script.read_text()
    assert script.name == "lib.sh" or os.access(script, os.X_OK)


def test_scripts_leave_where_packages_come_from_to_their_clients() -> None:
    hosts = re.compile(
        r"https?://(?!127\.0\.0\.1|localhost)|--index-url|GOPROXY|pypi\.|files\.pythonhosted|proxy\.golang|download\.pytorch", re.I
    )
    assert {script.name: found for script in SCRIPTS if (found := hosts.findall(script.read_text()))} == {}


def test_second_set_up_does_nothing_and_takes_no_time(ready_venv: Path) -> None:
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        done = run_library("set_up base; set_up dev", BYOAI_VENV=str(ready_venv))
        seconds.append(time.monotonic() - started)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert min(seconds) < 0.6  # both together


@pytest.mark.parametrize("damage", ["python", "byoai", "stamp", "requirements"])
def test_set_up_sees_what_is_broken_or_has_changed(ready_venv: Path, damage: str, tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    (root / "scripts").mkdir(parents=True)
    for name in ("scripts/lib.sh", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)

    def is_set_up() -> bool:
        command = f". {root}/scripts/lib.sh; is_set_up base"
        return subprocess.run(["bash", "-c", command], env={**os.environ, "BYOAI_VENV": str(ready_venv)}).returncode == 0

    subprocess.run(
        ["bash", "-c", f'. {root}/scripts/lib.sh; fingerprint > "$VENV/.set-up-base"'], env={**os.environ, "BYOAI_VENV": str(ready_venv)}
    )
    assert is_set_up()
    match damage:
        case "python":
            (ready_venv / "bin" / "python").unlink()
        case "byoai":
            (ready_venv / "bin" / "byoai").unlink()
        case "stamp":
            (ready_venv / ".set-up-base").write_text("1 2\n")
        case "requirements":
            with (root / "requirements.txt").open("a") as file:
                file.write("another-package\n")
    assert not is_set_up()


def test_half_made_environment_is_made_again(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text("home = /nowhere\n")
    (venv / "bin" / "python").symlink_to("/nowhere/python3")
    made = run_library('make_venv "$(find_python)" && "$VENV/bin/python" -m pip --version', BYOAI_VENV=str(venv))
    assert made.returncode == 0, made.stderr
    assert str(venv) in made.stdout


def test_folder_that_is_no_environment_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    made = run_library('make_venv "$(find_python)"', BYOAI_VENV=str(tmp_path))
    assert made.returncode == 9
    assert "BYOAI_VENV" in made.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_two_set_ups_wait_for_each_other(ready_venv: Path) -> None:
    stamp = (ready_venv / ".set-up-base").read_text()
    (ready_venv / ".set-up-base").unlink()
    with (ROOT / "requirements.txt").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = subprocess.Popen(
            ["bash", "-c", f". {ROOT}/scripts/lib.sh; set_up base; echo ready"],
            env={**os.environ, "BYOAI_VENV": str(ready_venv)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stderr is not None
        assert "waiting for another set-up" in waiting.stderr.readline()
        (ready_venv / ".set-up-base").write_text(stamp)  # what the other set-up does last
    said, complained = waiting.communicate(timeout=60)
    assert (waiting.returncode, said, complained) == (0, "ready\n", "")


def test_retrain_passes_on_arguments_and_exit_code(ready_venv: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "scripts" / "retrain.sh"), "--if-new", "20", "two words"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "BYOAI_VENV": str(ready_venv)},  # what cron gives
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (42, "<retrain><--if-new><20><two words>", "")


def test_missing_python_is_named_with_its_cure(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "uname", "cat"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    done = run_library(f'PATH="{tmp_path}"; find_python')
    assert done.returncode == 9
    assert "Python 3.11" in done.stderr
    assert "install" in done.stderr


def test_missing_compiler_is_named_with_its_cure(tmp_path: Path) -> None:
    done = run_library(f'PATH="{tmp_path}"; need_compilers')
    assert done.returncode == 9
    assert "build-essential" in done.stderr


@pytest.mark.parametrize(
    ("version", "minimum", "enough"),
    [
        ("0.17.1", "0.17.1", True),
        ("0.32.15", "0.17.1", True),
        ("0.9.9", "0.17.1", False),
        ("1.26", "1.26", True),
        ("1.26.8", "1.26", True),
        ("0", "0.17.1", False),
    ],
)
def test_versions_compare_by_number(version: str, minimum: str, enough: bool) -> None:
    assert (run_library(f"at_least {version} {minimum}").returncode == 0) == enough


def test_build_progress_is_told_every_ten_percent() -> None:
    done = run_library('for i in $(seq 200); do echo "[$i/200] Building x.cpp"; done | show_percent')
    assert done.stderr.split("\n")[:2] == ["byoai:   10 %", "byoai:   20 %"]
    assert done.stderr.count("%") == 10


def test_cache_folder_is_the_one_that_the_program_uses() -> None:
    from fine_tuning import paths

    assert run_library('printf %s "$CACHE"').stdout == str(paths.cache())
