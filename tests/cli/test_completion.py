"""Completion, asked for by a real bash: `byoai completion bash`, and what it then offers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fine_tuning.cli.main import main, parser
from fine_tuning.jobs import store
from fine_tuning.model_management.model_registry import Registry

bash = pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
SCRIPT = """
byoai() { "$PYTHON" -m fine_tuning "$@"; }
eval "$(byoai completion bash)"
COMP_LINE=$LINE COMP_POINT=${#LINE} COMP_TYPE=9
compopt() { :; }
_python_argcomplete byoai
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(line: str) -> set[str]:
    """Return what bash offers after this line."""
    environment = {**os.environ, "PYTHON": sys.executable, "LINE": line}
    done = subprocess.run(["bash", "-c", SCRIPT], capture_output=True, text=True, env=environment, check=True)
    return {word.strip() for word in done.stdout.splitlines() if word.strip()}


@bash
@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("byoai ta", {"talk"}, {"train"}),
        ("byoai comp", {"compare", "completion"}, {"chat"}),
        ("byoai talk --no", {"--no-record"}, {"--model"}),
        ("byoai train x.csv --format h", {"huggingface"}, {"csv"}),
        ("byoai completion ", {"bash", "zsh", "fish"}, set()),
        ("byoai jobs ca", {"cancel"}, {"list"}),
        ("byoai retrain --profile sam", {"sample"}, {"few_shot"}),
    ],
)
def test_bash_completes_commands_options_and_choices(home: Path, line: str, some: set[str], none: set[str]) -> None:
    found = offered(line)
    assert some <= found and not none & found


@bash
def test_names_are_completed_too(home: Path) -> None:
    Registry().add("fine_tuned_x", 12)
    job = store.add("retrain", {"config": {}}, detached=False)
    assert offered("byoai use v1") == {"v12"}
    assert offered(f"byoai jobs watch {job.id[:4]}") == {job.id}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_own_lines(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    said = capsys.readouterr().out
    assert "byoai" in said and "_ARGCOMPLETE" in said and ("complete --command" in said) == (shell == "fish")
    assert f"completion {shell}" in parser()._subparsers._group_actions[0].choices["completion"].format_help()  # type: ignore[union-attr, index]


def test_the_programs_are_marked_for_the_global_completion() -> None:
    root = Path(__file__).resolve().parents[2]
    for file in ("cli/main.py", "__main__.py"):
        assert "PYTHON_ARGCOMPLETE_OK" in (root / "fine_tuning" / file).read_text()[:1024]
