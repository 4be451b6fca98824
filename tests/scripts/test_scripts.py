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
from timing import seconds

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
        r"https?://(?!127\.0\.0\.1|localhost)|--index-url|GOPROXY|pypi\.|files\.pythonhosted|proxy\.golang|download\.pytorch",
        re.I,
    )
    assert {script.name: found for script in SCRIPTS if (found := hosts.findall(script.read_text()))} == {}


def test_second_set_up_only_compares_what_the_environment_depends_on(ready_venv: Path) -> None:
    def set_up() -> None:
        done = run_library("set_up base; set_up dev", BYOAI_VENV=str(ready_venv))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def compare() -> None:
        run_library("fingerprint; fingerprint", BYOAI_VENV=str(ready_venv))

    times = [(seconds(set_up, time.monotonic), seconds(compare, time.monotonic)) for _ in range(3)]
    assert min(done for done, _ in times) < 3 * min(compared for _, compared in times)


@pytest.mark.parametrize("damage", ["python", "byoai", "stamp", "requirements"])
def test_set_up_sees_what_is_broken_or_has_changed(ready_venv: Path, damage: str, tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    (root / "scripts").mkdir(parents=True)
    for name in ("scripts/lib.sh", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)

    def is_set_up() -> bool:
        command = f". {root}/scripts/lib.sh; is_set_up base"
        return (
            subprocess.run(["bash", "-c", command], env={**os.environ, "BYOAI_VENV": str(ready_venv)}).returncode == 0
        )

    subprocess.run(
        ["bash", "-c", f'. {root}/scripts/lib.sh; fingerprint > "$VENV/.set-up-base"'],
        env={**os.environ, "BYOAI_VENV": str(ready_venv)},
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


# How llama.cpp is compiled

NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
STAND_INS = """
    uname() { if [ "$1" = -m ]; then echo x86_64; else command uname "$@"; fi; }
    install_packages() { echo "install $*"; }
    requirement() { echo "$1==1"; }
"""
PYTHON = """#!/bin/sh
if [ "$2 $3" = "pip wheel" ]; then  # python -m pip wheel ... --wheel-dir FOLDER REQUIREMENT
    echo "compile CMAKE_ARGS=<$CMAKE_ARGS> CFLAGS=<$CFLAGS> CXXFLAGS=<$CXXFLAGS>" >>"$WORK/compiled"
    while [ "$1" != --wheel-dir ]; do shift; done
    touch "$2/llama_cpp_python-1-py3-none-any.whl"
elif [ "$3" = fine_tuning.engines.smoke ]; then  # python -P -m fine_tuning.engines.smoke
    echo smoke >>"$WORK/compiled"
    tail -n 2 "$WORK/compiled" | grep -q "$WORKS" || { echo "byoai: llama.cpp crashed: Illegal instruction (SIGILL)." >&2; exit 1; }
fi
"""  # noqa: E501


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """A folder with an environment whose `python` only notes how it was to compile, and fails over
    the tiny model unless that matches $WORKS.
    """
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def in_workshop(workshop: Path, code: str, works: str = ".", **variables: str) -> subprocess.CompletedProcess[str]:
    unset = "unset CMAKE_ARGS CFLAGS CXXFLAGS CC CXX; " if not variables else ""
    places = {
        "WORK": str(workshop),
        "WORKS": works,
        "BYOAI_VENV": str(workshop / "venv"),
        "XDG_CACHE_HOME": str(workshop / "cache"),
    }
    return run_library(f"{unset}{STAND_INS.strip()}; {code}", **places, **variables)


def compiled(workshop: Path) -> list[str]:
    file = workshop / "compiled"
    return [line for line in file.read_text().splitlines() if line != "smoke"] if file.exists() else []


def test_llama_cpp_is_compiled_without_amx_and_with_the_persons_own_flags(workshop: Path) -> None:
    done = in_workshop(
        workshop, "install_llama_cpp", CMAKE_ARGS="-DGGML_CUDA=ON -DX='a b'", CFLAGS="-O2", CXXFLAGS="-g"
    )
    assert done.returncode == 0, done.stderr
    (line,) = compiled(workshop)
    assert line.startswith("compile CMAKE_ARGS=<-DGGML_CUDA=ON -DX='a b' > ")
    assert f"CFLAGS=<-O2 {NO_AMX}> CXXFLAGS=<-g {NO_AMX}>" in line
    assert "install --force-reinstall --no-deps" in done.stdout


@pytest.mark.parametrize(
    "stand_in",
    [
        "uname() { echo aarch64; }",
        "uname() { echo arm64; }",
        'cc() { case "$*" in *mno-amx*) return 1 ;; esac; }',
        'c++() { case "$*" in *mno-amx-bf16*) return 1 ;; esac; }',
        'old() { case "$*" in *mno-amx*) return 1 ;; esac; }; CC=old',
    ],
)
def test_the_flags_are_left_out_where_they_mean_nothing(workshop: Path, stand_in: str) -> None:
    done = in_workshop(workshop, f"need_compilers() {{ :; }}; {stand_in}; install_llama_cpp")
    assert done.returncode == 0, done.stderr
    (line,) = compiled(workshop)
    assert "amx" not in line


def test_this_machines_compilers_are_asked() -> None:
    done = run_library("build_flags; known_flags")
    assert done.returncode == 0
    assert done.stdout.split("\n")[:-1] == ([NO_AMX] * 2 if os.uname().machine == "x86_64" else [""])


def test_a_build_that_dies_is_made_once_more_with_nothing_special(workshop: Path) -> None:
    done = in_workshop(
        workshop, "install_llama_cpp; try_llama_cpp", works="GGML_NATIVE=OFF", CMAKE_ARGS="-DGGML_CUDA=ON"
    )
    assert done.returncode == 0, done.stderr
    first, second = compiled(workshop)
    assert "GGML_NATIVE" not in first
    assert "CMAKE_ARGS=<-DGGML_CUDA=ON -DGGML_NATIVE=OFF" in second  # the last word counts
    assert "Illegal instruction" in done.stderr and "Compiling it once more" in done.stderr and "slower" in done.stderr
    assert done.stdout.count("install --force-reinstall") == 2


def test_two_builds_that_die_are_a_failure_with_advice(workshop: Path) -> None:
    done = in_workshop(workshop, "install_llama_cpp; try_llama_cpp", works="never")
    assert done.returncode == 9
    assert len(compiled(workshop)) == 2
    assert "compiled in two ways, and neither runs" in done.stderr and "CC=clang" in done.stderr


def test_a_build_that_runs_is_made_once(workshop: Path) -> None:
    for _ in range(2):
        assert in_workshop(workshop, "install_llama_cpp; try_llama_cpp").returncode == 0
    assert len(compiled(workshop)) == 1  # the second took the wheel that was kept


@pytest.mark.parametrize(
    ("change", "variables"),
    [
        ("processor() { echo avx2; }", {}),
        ("build_flags() { echo -mno-avx512f; }", {}),
        ("requirement() { echo llama-cpp-python==2; }", {}),
        ("", {"CMAKE_ARGS": "-DGGML_CUDA=ON"}),
        ("", {"CFLAGS": "-O1"}),
        ("", {"CXXFLAGS": "-O1"}),
        ("need_compilers() { :; }", {"CC": "clang"}),
    ],
)
def test_what_it_is_compiled_for_changes_the_wheel(workshop: Path, change: str, variables: dict[str, str]) -> None:
    assert in_workshop(workshop, "install_llama_cpp").returncode == 0
    assert in_workshop(workshop, f"{change or ':'}; install_llama_cpp", **variables).returncode == 0
    assert len(compiled(workshop)) == 2


@pytest.mark.parametrize(
    ("change", "variables"),
    [
        ("processor() { echo avx2; }", {}),
        ("build_flags() { echo -mno-avx512f; }", {}),
        ("", {"CMAKE_ARGS": "-DGGML_CUDA=ON"}),
        ("", {"CFLAGS": "-O1"}),
        ("", {"CXXFLAGS": "-O1"}),
    ],
)
def test_what_it_was_compiled_for_is_in_the_fingerprint(workshop: Path, change: str, variables: dict[str, str]) -> None:
    before = in_workshop(workshop, "fingerprint").stdout
    assert before == in_workshop(workshop, "fingerprint").stdout
    assert in_workshop(workshop, f"{change or ':'}; fingerprint", **variables).stdout != before


def test_a_shell_without_flags_keeps_those_that_the_environment_was_made_with(workshop: Path) -> None:
    """cron's, after a set-up with CMAKE_ARGS for a GPU; to do without them again, one says so."""
    gpu = {"CMAKE_ARGS": "-DGGML_CUDA=ON", "CFLAGS": "-O2 -g", "CXXFLAGS": ""}
    install = (
        "make_venv() { :; }; install_torch() { :; }; need_compilers() { :; }; known_flags() { :; }; "
        "install_all base /usr/bin/python3"
    )
    assert in_workshop(workshop, install, **gpu).returncode == 0
    made = (workshop / "venv" / ".set-up-base").read_text()
    assert in_workshop(workshop, "fingerprint", **gpu).stdout == made
    assert in_workshop(workshop, "fingerprint").stdout == made
    assert in_workshop(workshop, install).returncode == 0  # made anew, for another reason
    assert len(compiled(workshop)) == 1
    assert (workshop / "venv" / ".set-up-base").read_text() == made
    assert in_workshop(workshop, "fingerprint", CMAKE_ARGS="").stdout != made


@pytest.mark.parametrize(
    ("sets", "off"),
    [
        ("sse4_1 sse4_2 avx avx2 bmi2 fma f16c avx512f amx_tile", ""),
        ("sse4_1 sse4_2 avx f16c", " -DGGML_AVX2=OFF -DGGML_BMI2=OFF -DGGML_FMA=OFF"),
        ("sse4_1", " -DGGML_SSE42=OFF -DGGML_AVX=OFF -DGGML_AVX2=OFF -DGGML_BMI2=OFF -DGGML_FMA=OFF -DGGML_F16C=OFF"),
        ("asimd i8mm sve", ""),
        ("", ""),
    ],
)
def test_a_portable_build_asks_for_no_more_than_the_processor_has(workshop: Path, sets: str, off: str) -> None:
    done = in_workshop(workshop, f"processor() {{ echo '{sets}' | tr ' ' '\\n'; }}; portable_flags")
    assert (done.returncode, done.stdout) == (0, f"-DGGML_NATIVE=OFF{off}")


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
