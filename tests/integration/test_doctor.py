"""`byoai doctor` on machines that are well, and on those that are not."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from native_children import Children

from fine_tuning import state
from fine_tuning.config import FineTuningConfig
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.default_base import CHATML
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import ConfigError
from fine_tuning.integration import doctor
from fine_tuning.model_management.model_registry import Registry

ROOT = Path(__file__).resolve().parents[2]
TAG, TUNED = "smollm2:135m", "fine_tuned_smollm2-135m"
CHECKS = [
    "configuration",
    "disk",
    "memory",
    "log",
    "engine",
    "ollama",
    "embedded",
    "base",
    "versions",
    "live model",
    "template",
]
OF_VERSIONS = {"versions", "live model", "template"}

Harm = Callable[[Path], None]


@pytest.fixture(autouse=True)
def no_ollama(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BYOAI_ENGINE", raising=False)
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")  # the discard port: nothing listens


@pytest.fixture
def store(home: Path, base_gguf: Path) -> EmbeddedEngine:
    """With a base, and a live version."""
    engine = EmbeddedEngine(home / "engine")
    engine.create(TAG, ModelSpec(base_gguf, template=CHATML, parameters={"stop": ["<|im_end|>"]}))
    engine.create(f"{TUNED}:v1", ModelSpec(TAG, parameters={"seed": 1}))
    engine.copy(f"{TUNED}:v1", f"{TUNED}:latest")
    registry = Registry()
    registry.add(TUNED, 1, base_tag=TAG)
    registry.promote(TUNED, 1)
    return engine


def examined(url: str | None = None) -> dict[str, doctor.Check]:
    checks = list(doctor.examine(FineTuningConfig, url))
    assert [check.name for check in checks] == CHECKS
    return {check.name: check for check in checks}


def test_engines_and_the_live_model_really_answer(store: EmbeddedEngine, children: Children) -> None:
    found = examined()
    assert all(check.ok for check in found.values()), found
    assert f"{TAG} answers" in found["embedded"].text
    assert f"{TUNED}:latest answers" in found["live model"].text
    assert children() == []  # none is left behind


def test_it_says_which_engine_serves_and_why_not_the_other(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = examined()["engine"].text
    assert "embedded" in said and "Ollama does not answer at http://127.0.0.1:9; byoai serves the models itself" in said
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    assert "BYOAI_ENGINE=embedded" in examined()["engine"].text
    monkeypatch.setenv("BYOAI_ENGINE", "ollama")
    forced = examined()
    assert not forced["engine"].ok and not forced["ollama"].ok and forced["embedded"].ok
    assert forced["base"].text == "not checked, because no engine is running: see the checks of the engines"
    monkeypatch.setenv("BYOAI_ENGINE", "vllm")
    assert "must be" in examined()["engine"].text


@pytest.mark.engine
def test_with_ollama_both_engines_are_tried(home: Path, ollama_url: str) -> None:
    found = examined(ollama_url)
    assert f"at {ollama_url} serves the models; the embedded engine" in found["engine"].text
    assert "answers" in found["ollama"].text or "no model yet" in found["ollama"].text
    assert found["embedded"].ok and "a tiny model answers" in found["embedded"].text


@pytest.mark.parametrize("name", ["SIGILL", "SIGSEGV", "SIGKILL"])
def test_llama_cpp_that_dies_is_found_with_and_without_a_model(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base_gguf: Path
) -> None:
    """As where every first token is an illegal instruction."""
    (tmp_path / "llama_cpp.py").write_text(f"import os; os.kill(os.getpid(), {int(getattr(signal, name))})")
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        check = examined()["embedded"]
        assert not check.ok and f"({name})" in check.text
        EmbeddedEngine(home / "engine").create(TAG, ModelSpec(base_gguf, template=CHATML))


def lost(home: Path) -> None:
    next((home / "engine" / "blobs").iterdir()).unlink()


def query(statement: str) -> Harm:
    def harm(home: Path) -> None:
        with state.connect() as connection:
            connection.execute(statement)

    return harm


def folder_for(file: str) -> Harm:
    def harm(home: Path) -> None:
        for each in home.glob(f"{file}*"):
            each.unlink()
        (home / file).mkdir(parents=True)

    return harm


def garbage(file: str, content: bytes) -> Harm:
    def harm(home: Path) -> None:
        for each in home.glob("state.db-*"):
            each.unlink()
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).write_bytes(content)

    return harm


@pytest.mark.parametrize(
    ("harm", "failing"),
    [
        (garbage("state.db", b"no database at all" * 300), OF_VERSIONS),
        (garbage("state.db", b"SQLite format 3\0" + bytes(200)), OF_VERSIONS),
        (folder_for("state.db"), OF_VERSIONS),
        (query("UPDATE versions SET metrics = '{', labels = 'x'"), OF_VERSIONS),
        (query("PRAGMA user_version = 999"), OF_VERSIONS),
        (query("DROP TABLE versions"), OF_VERSIONS),
        (lost, {"embedded", "base", *OF_VERSIONS}),
        (garbage(f"engine/tags/{TUNED}/latest.json", b"{"), {"embedded", *OF_VERSIONS}),
        (garbage(f"engine/tags/{TUNED}/latest.json", b"\xff\xfe"), {"embedded", *OF_VERSIONS}),
        (folder_for("conversations/conversations.jsonl"), {"log"}),
    ],
    ids=[
        "garbage",
        "cut",
        "a folder",
        "rotten row",
        "newer",
        "no table",
        "no weights",
        "bad tag",
        "bad text",
        "log a folder",
    ],
)
def test_damage_fails_its_own_checks_and_leaves_the_others(
    store: EmbeddedEngine, home: Path, harm: Harm, failing: set[str]
) -> None:
    harm(home)
    found = examined()
    assert {name for name, check in found.items() if not check.ok} == failing, found
    assert all(check.text for check in found.values())


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("a file", "{place} is not a folder"),
        ("below a file", "{place.parent} is not a folder"),
        ("/proc/byoai", "cannot write to {place}"),
        ("/dev/null/byoai", "{place.parent} is not a folder"),
    ],
)
def test_a_home_that_cannot_be_written_is_said_and_everything_else_is_looked_at(
    where: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    place = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "data"}.get(where, Path(where))
    monkeypatch.setenv("BYOAI_HOME", str(place))
    found = examined()
    assert (
        not found["disk"].ok and said.format(place=place) in found["disk"].text and "BYOAI_HOME" in found["disk"].text
    )
    assert found["embedded"].ok


def test_a_faulty_configuration_is_named_and_the_rest_looked_at_with_the_defaults(home: Path) -> None:
    def broken() -> FineTuningConfig:
        raise ConfigError("training.lr: unknown key")

    checks = list(doctor.examine(broken))
    assert [check.name for check in checks] == CHECKS
    assert [check.ok for check in checks[:4]] == [False, True, True, True]


def test_each_line_is_there_as_soon_as_it_is_known(home: Path, tmp_path: Path) -> None:
    """Not all at the end: what hangs is the line after the last one."""
    (tmp_path / "llama_cpp.py").write_text("import time; time.sleep(60)")
    command = subprocess.Popen(
        [sys.executable, "-m", "fine_tuning", "doctor"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
    )
    assert command.stdout is not None
    seen = [command.stdout.readline() for _ in CHECKS[:6]]
    assert command.poll() is None
    assert [line.split(":")[0].split()[-1] for line in seen] == CHECKS[:6]
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=60)
    assert command.returncode == 130


def test_the_exit_code_tells_whether_all_is_well(store: EmbeddedEngine, home: Path) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "fine_tuning", "doctor"], capture_output=True, text=True, cwd=ROOT)

    well = run()
    assert (well.returncode, well.stderr) == (0, "")
    assert well.stdout.count("ok  ") == len(CHECKS)
    garbage("state.db", b"no database at all" * 300)(home)
    ill = run()
    assert (ill.returncode, ill.stderr) == (1, "")
    assert ill.stdout.count("ok  ") + ill.stdout.count("FAIL  ") == len(CHECKS)
    assert "move it aside" in ill.stdout
