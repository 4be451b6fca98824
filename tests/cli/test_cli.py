"""The command line's promises that need no engine."""

import argparse
import contextlib
import functools
import importlib.metadata
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fine_tuning import errors
from fine_tuning.cli.main import main, parser
from fine_tuning.cli.options import EXIT_CODES
from fine_tuning.jobs import store

COMMAND_GROUPS = {
    "chat",
    "talk",
    "serving",
    "training",
    "models",
    "conversations",
    "imports",
    "jobs",
    "tracking",
    "machine",
}
COMMAND_GROUPS |= {"publishing", "completion"}
LIGHT = {"main", "options", *COMMAND_GROUPS}
"""Modules that the parser is made of."""


def byoai(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fine_tuning", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


def test_help_loads_nothing_but_the_parser():
    """So it is there at once. What a command needs is loaded when the command runs."""
    code = (
        "import sys, fine_tuning.cli.main as cli; loaded = set(sys.modules); cli.parser().format_help(); "
        "print(*sorted(loaded))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name.startswith("fine_tuning.")}
    assert ours == {
        "fine_tuning.cli",
        *(f"fine_tuning.{name}" for name in ("errors", "events", "json_values", "units")),
        *(f"fine_tuning.cli.{name}" for name in LIGHT),
    }
    third_parties = {name.split(".")[0] for name in loaded} & set(importlib.metadata.packages_distributions())
    assert third_parties - bare_modules() == {"fine_tuning"}


def bare_modules() -> set[str]:
    """What Python loads by itself here: some packages hook into its start."""
    code = "import sys; print(*{name.split('.')[0] for name in sys.modules})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@functools.cache  # each fuzzed command line looks them up
def commands() -> dict[str, argparse.ArgumentParser]:
    """Every command's parser, by name."""
    (subparsers,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(subparsers.choices)


def actions(command: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """What a command such as `jobs` can do, by name; {} for most commands."""
    found = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


def test_help_names_every_command():
    said = byoai("--help", COLUMNS="80").stdout
    listed = re.findall(r"^ +([a-z][a-z-]+) +\w+ \w+", said.partition("commands:")[2], re.MULTILINE)
    assert [name for name in listed if name in commands()] == list(commands())
    assert re.findall(r"^  (\S.*):$", said, re.MULTILINE)[0] == "Chat"


def test_byoai_alone_explains_itself_and_is_no_success():
    alone = byoai()
    assert (alone.returncode, alone.stdout, alone.stderr) == (2, byoai("--help").stdout, "")


@pytest.mark.parametrize("command", [name for name in commands() if actions(commands()[name])])
def test_the_help_of_a_command_names_every_action(command):
    said = byoai(command, "--help", COLUMNS="80").stdout
    for action in actions(commands()[command]):
        assert re.search(rf"^ +{action} +\w+ \w+", said, re.MULTILINE), f"{action} is not listed with what it does"


def test_messages_and_help_name_only_commands_that_are_there():
    root = Path(__file__).parent.parent.parent
    files = [file for folder in ("fine_tuning", "chatbot") for file in (root / folder).rglob("*.py")]
    named = {
        (file.name, name) for file in files for name in re.findall(r"`byoai ([a-z][a-z-]*)", file.read_text("utf-8"))
    }
    assert len(named) > 20
    assert {each for each in named if each[1] not in commands()} == set()


@pytest.mark.parametrize("command", commands())
def test_the_help_of_a_command_fits_80_columns_and_explains_each_option(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, said, _ = run([command, "--help"])
    assert code == 0
    assert max(map(len, said.splitlines())) <= 80
    assert all(action.help for action in commands()[command]._actions)


OF_ITS_OWN = {
    ("retrain", "--dry-run"),
    ("import", "--dry-run"),
    ("push", "--dry-run"),
    ("sweep", "--name"),
}  # the same word for something else


@pytest.mark.parametrize(
    "option", ["--config", "--profile", "--set", "--ollama-url", "--sample", "--auto", "--name", "--dry-run"]
)
def test_an_option_of_several_commands_means_the_same_in_each(option):
    meant = {
        (action.dest, action.metavar, action.help)
        for name, command in commands().items()
        for action in command._actions
        if option in action.option_strings and (name, option) not in OF_ITS_OWN
    }
    assert len(meant) == 1


def test_the_version_is_that_of_the_installed_package():
    assert byoai("--version").stdout == f"byoai {importlib.metadata.version('byoai')}\n"


def test_a_package_that_is_not_installed_has_no_version(monkeypatch, capsys):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert run(["--version"])[0] == 1


def test_every_error_has_its_own_documented_exit_code():
    classes = [errors.ConfigError, errors.DataError, errors.EngineError, errors.TrainingError, errors.ExportError]
    classes += [errors.PromotionRefused, errors.GateRefused, errors.Busy, errors.Cancelled]
    codes = [each.exit_code for each in classes]
    assert len(set(codes)) == len(codes)
    for code in codes:
        assert re.search(rf"\b{code} +\w", EXIT_CODES)


@pytest.mark.usefixtures("embedded")
def test_signals_are_handled_as_before_when_a_command_has_ended(capsys):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert main(["retrain"]) == 3
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_nothing_to_learn_is_said_with_the_cure(home):
    done = byoai("retrain", BYOAI_HOME=str(home), BYOAI_ENGINE="embedded")
    assert done.returncode == 3
    assert "No conversations to train on" in done.stderr
    assert "--sample" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_configuration_faults_come_at_once(home, capsys):
    code = main(
        [
            "retrain",
            "--set",
            "training.lr=1",
            "--set",
            "training.num_epochs=none",
            "--set",
            "data_preparation.test_ratio=0.9",
        ]
    )
    said = capsys.readouterr().err
    assert code == 2
    for fault in ("training.lr: unknown key", "training.num_epochs", "must be 1"):
        assert fault in said


@pytest.mark.parametrize(
    "arguments", [["retrain", "--set", "no-value"], ["use", "newest"], ["retrain", "--profile", "../secret"]]
)
def test_bad_arguments_are_named(arguments, home, capsys):
    assert main(arguments) in {1, 2}
    assert arguments[-1] in capsys.readouterr().err


def test_an_engine_that_does_not_answer_is_named_with_its_url(home, capsys):
    assert main(["models", "--ollama-url", "http://127.0.0.1:9"]) == 4
    assert "127.0.0.1:9" in capsys.readouterr().err


def test_an_unknown_base_is_named_with_the_known_ones(home, capsys, monkeypatch):
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    assert main(["retrain", "--sample", "--dry-run", "--set", "training.base_model=nosuch:1b"]) == 4
    assert "nosuch:1b" in capsys.readouterr().err


def test_a_second_retrain_is_refused_while_one_runs(home, capsys, monkeypatch):
    from fine_tuning.runs import only_one

    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    with only_one():
        done = byoai("retrain", BYOAI_HOME=str(home), BYOAI_ENGINE="embedded")
    assert done.returncode == 8
    assert "another training" in done.stderr
    (job,) = store.find()
    assert (job.kind, job.state, job.exit_code, job.here) == ("retrain", "failed", 8, True)
    assert "another training is running" in job.reason


@pytest.mark.parametrize("how", ["--set", "--config"])
def test_the_settings_of_the_chat_page_are_those_that_were_named(home, tmp_path, how):
    """Here a log that is a folder: it is refused before anything is served."""
    (home / "conversations" / "mine.jsonl").mkdir(parents=True)
    (tmp_path / "mine.yaml").write_text("data_collection: {log_file: mine.jsonl}\n")
    named = "data_collection.log_file=mine.jsonl" if how == "--set" else str(tmp_path / "mine.yaml")
    command = [sys.executable, "-m", "fine_tuning", "chat", "--no-browser", how, named]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in DOCUMENTED - {0} and "mine.jsonl" in done.stderr and "Traceback" not in done.stderr


# Whatever is typed, a person reads a sentence and a script gets a documented exit code

DOCUMENTED = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130}


def run(arguments: list[str]) -> tuple[int, str, str]:
    """The exit code of `byoai ARGUMENTS` in this process, and what it said."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as end:  # argparse
            code = end.code if isinstance(end.code, int) else 1
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def nowhere(home, monkeypatch):
    """An empty data folder, and an engine that does not answer."""
    monkeypatch.setenv("BYOAI_ENGINE", "ollama")
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    return home


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["chat", "--port", "-1"], 2, "--port"),
        (["chat", "--port", "70000"], 2, "--port"),
        (["chat", "--port", "0"], 2, "--port"),
        (["chat", "--port", "８０８０"], 2, "--port"),
        (["chat", "--port", "9" * 5000], 2, "--port"),
        (["use", "v²"], 2, "is not a version"),
        (["use", "٣"], 2, "is not a version"),
        (["use", "v999999999999999999999"], 2, "is not a version"),
        (["use", "9" * 5000], 2, "is not a version"),
        (["use", "-1"], 2, ""),
        (["use", "a\0b:v1"], 2, "NUL"),
        (["lineage", "--version", "999999999"], 4, "has no version"),
        (["lineage", "--version", "9" * 30], 2, "--version"),
        (["models", "--pin", "99999999999999999999"], 2, "--pin"),
        (["models", "--note", "v²", "x"], 2, "is not a version"),
        (["models", "--label", "1", "Caf\udce9"], 2, "label"),
        (["retrain", "--set", "training.num_epochs=["], 2, "training.num_epochs"),
        (["retrain", "--set", "training.num_epochs=!!python/object:os.system x"], 2, "training.num_epochs"),
        (["retrain", "--set", "deployment.model_name=\0"], 2, "NUL"),
        (["retrain", "--set", "=5"], 2, "KEY=VALUE"),
        (["stats", "--set", "deployment.model_name=@home"], 0, ""),
        (["stats", "--set", "deployment.model_name=2024"], 0, ""),
        (["stats", "--set", "training.preferences.method=off"], 0, ""),
        (["retrain", "--set", "deployment.model_name_prefix=my bot "], 2, "deployment.model_name_prefix"),
        (["retrain", "--set", 'deployment.model_name_prefix=""'], 2, "deployment.model_name_prefix"),
        (["retrain", "--profile", "../secret"], 2, "../secret"),
        (["retrain", "--profile", "nosuch"], 2, "nosuch"),
        (["retrain", "--profile", "a\0b"], 2, "NUL"),
        (["retrain", "--profile", "sample,,"], 2, "cannot be used as a name"),
        (["retrain", "--config", "a\0b"], 2, "NUL"),
        (["retrain", "--config", "/"], 2, "cannot read"),
        (["retrain", "--if-new", "-3"], 2, "--if-new"),
        (["review", "--count", "0"], 2, "--count"),
        (["ask", "Caf\udce9"], 2, "not UTF-8"),
        (["ask", "Café"], 4, "does not answer"),
        (["ask", ""], 2, "empty"),
        (["ask", " \n\u3000"], 2, "empty"),
        (["compare", "ok", "\t"], 2, "empty"),
        (["compare", "ok", "Caf\udce9"], 2, "not UTF-8"),
        (["forget", "--matching", "\udcff\udcfe"], 2, "not UTF-8"),
        (["ask", "hi", "--ollama-url", "http://user:pw@127.0.0.1:9"], 4, "does not answer at http://127.0.0.1:9"),
        (["ask", "hi", "--ollama-url", "http://127.0.0.1:9/v1"], 4, "/v1"),
        (["ask", "hi", "--ollama-url", "http://[::1"], 4, "is not a URL"),
        (["sweep", "--minutes", "nan"], 2, "sweep.minutes"),
        (["sweep", "--trials", "-1"], 2, "--trials"),
    ],
)
def test_a_wrong_argument_is_named_and_ends_with_its_code(nowhere, arguments, code, said):
    found, _, err = run(arguments)
    assert found == code, err
    assert said in err
    assert "Traceback" not in err and "a fault in byoai" not in err and "pw@" not in err
    assert len(err) < 3000


@pytest.mark.parametrize("command", ["retrain", "stats", "prune", "models", "export", "lineage x"])
@pytest.mark.parametrize("home_folder", ["/proc/byoai", "{file}/home"])
def test_a_data_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, command, home_folder):
    """Also for root, whom no permission stops."""
    (tmp_path / "file").write_text("")
    folder = home_folder.format(file=tmp_path / "file")
    monkeypatch.setenv("BYOAI_HOME", folder)
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    code, _, err = run(command.split())
    assert code in DOCUMENTED - {0} or command in ("stats", "models", "export")
    assert "Traceback" not in err and "a fault in byoai" not in err
    assert not code or folder in err


@pytest.mark.skipif(os.geteuid() == 0, reason="no permission stops root")
def test_a_read_only_data_folder_is_named(home):
    home.chmod(0o500)
    try:
        code, _, err = run(["retrain"])
    finally:
        home.chmod(0o700)
    assert code == 1 and str(home) in err and "read-only" in err


def test_what_nobody_foresaw_is_told_in_a_sentence_and_written_down(home, monkeypatch):
    monkeypatch.setattr("fine_tuning.config.load_config", lambda *of: 1 / 0)
    code, _, err = run(["stats"])
    assert code == 1
    assert "a fault in byoai itself" in err and "division by zero" in err and "Traceback" not in err
    log = home / "faults.log"
    assert str(log) in err
    assert log.stat().st_mode & 0o777 == 0o600
    assert "ZeroDivisionError" in log.read_text() and "Traceback" in log.read_text()
    run(["stats"])
    assert log.read_text().count("Traceback") == 2

    monkeypatch.setenv("BYOAI_HOME", "/proc/byoai")
    code, _, err = run(["stats"])
    other = Path(err.split("The details are in ")[1].strip())
    assert code == 1 and "ZeroDivisionError" in other.read_text()
    other.unlink()


def test_a_file_of_the_system_that_fails_is_named_and_not_called_a_fault_of_byoai(home, monkeypatch):
    monkeypatch.setattr("fine_tuning.config.load_config", lambda *of: Path("/proc/nowhere/x").write_text("x"))
    code, _, err = run(["stats"])
    assert code == 1 and "cannot use /proc/nowhere/x" in err and "a fault in byoai" not in err


def test_a_terminal_that_has_no_sign_for_a_character_ends_nothing(home):
    done = byoai("retrain", "--profile", "日本", BYOAI_HOME=str(home), PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 2 and "Traceback" not in done.stderr and "\\u65e5" in done.stderr


CLOSED = """
import os, sys
from fine_tuning.cli.main import main
code, null = main(["find", "x"]), os.stat(os.devnull)
held = [os.path.samestat(os.fstat(int(number)), null) for number in sys.argv[1:]]
[os.write(int(number), b"printed") for number in sys.argv[1:] if number != "0"]
os._exit(code if all(held) else 99)
"""


@pytest.mark.parametrize("closed", ["1", "2", "012"])
def test_no_file_takes_the_place_of_a_closed_stream(home, closed):
    """What a library prints would else be written into the next file that is opened, such as the log."""
    close = " ".join(f"{number}<&-" for number in closed)
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$@" {close}', sys.executable, CLOSED, *closed], capture_output=True, check=False
    )
    assert done.returncode in DOCUMENTED - {1} and b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["jobs", "list"], ["--help"], ["models", "--help"], ["find", "x", "--json"]])
def test_output_that_nobody_reads_ends_it_without_a_traceback(home, arguments):
    command, told = [sys.executable, "-m", "fine_tuning", *arguments], {**os.environ, "PYTHONUNBUFFERED": ""}
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        done = subprocess.run(command, stdout=nobody, stderr=subprocess.PIPE, env=told, check=False)
    assert done.returncode in (141, 0) and done.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_named(home, unbuffered):
    command, told = [sys.executable, "-m", "fine_tuning", "jobs", "list"], {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env={**os.environ, **told}, check=False)
    said = done.stderr.decode()
    assert done.returncode == 1 and "Traceback" not in said and str(home) not in said
    assert "the output could not be written: No space left on device" in said or "the disk is full: make room" in said


WILD = st.text(st.characters(), max_size=12) | st.sampled_from(
    [
        "",
        "-1",
        "v²",
        "9" * 25,
        "../x",
        "a\0b",
        "Caf\udce9",
        "[",
        "training.num_epochs=[",
        "deployment.model_name=@x",
        "=",
        "a=b=c",
        "v1",
        "x:v1",
        "-",
    ]
)
# serve until they are stopped; asks every model there is
UNBOUNDED = {"chat", "talk", "serve", "start-tuning", "mlflow", "doctor"}
JOBS = {"train", "evaluate", "pull"}  # begin a process, and wait for it
COMMANDS = sorted(commands().keys() - UNBOUNDED - JOBS)
FETCHING = {"ask", "compare", "review", "prepare", "sweep"}  # want a base model, which the embedded engine would fetch


@st.composite
def command_lines(draw: st.DrawFn, names: list[str]) -> list[str]:
    command = draw(st.sampled_from(names))
    known = [option for action in commands()[command]._actions for option in action.option_strings]
    options = st.sampled_from([*(option for option in known if option not in {"--sample", "--ollama-url"}), "--nosuch"])
    return [command, *draw(st.lists(options | WILD, max_size=5))]


def ends_well(home: Path, arguments: list[str]) -> None:
    code, _, err = run(arguments)
    assert code in DOCUMENTED
    assert "Traceback" not in err
    assert "a fault in byoai" not in err, (home / "faults.log").read_text()


@given(command_lines(COMMANDS))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_command_line_ends_in_a_traceback_or_an_unknown_code(nowhere, monkeypatch, arguments):
    monkeypatch.chdir(nowhere)
    ends_well(nowhere, arguments)


@given(command_lines([command for command in COMMANDS if command not in FETCHING]))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nor_does_one_that_gets_as_far_as_an_engine_without_models(home, monkeypatch, arguments):
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    monkeypatch.chdir(home)
    ends_well(home, arguments)
