"""The tiny model that tries a new build of llama.cpp, in the real one."""

import subprocess
import sys
from pathlib import Path

import pytest

from fine_tuning.engines import smoke
from fine_tuning.engines.gguf_header import read_header
from fine_tuning.engines.native import Native
from fine_tuning.errors import EngineError

ROOT = Path(__file__).resolve().parents[2]


def test_the_tiny_model_answers_a_prompt_and_eight_tokens(tmp_path: Path) -> None:
    file = smoke.write_model(tmp_path / "tiny.gguf")
    assert file.stat().st_size < 3e6
    model = Native("fine_tuning.engines.llama:Chat", str(file), None, 512, 1)
    tokens = model.call("encode", smoke._PROMPT, False, True)
    assert len(tokens) > 64
    assert list(model.stream("answer", tokens, {"temp": 0.0}, 0, 0, 8, []))[-1][1:] == [True, "length", 8]
    model.close()


def test_its_matrices_are_wide_enough_for_every_kernel(tmp_path: Path) -> None:
    """llama.cpp's AMX code takes matrices whose sides are multiples of 32 and 256."""
    header = read_header(smoke.write_model(tmp_path / "tiny.gguf"))
    sides = [side for shape in header.tensors.values() if len(shape) == 2 for side in shape]
    assert all(side % 32 == 0 for side in sides)


@pytest.mark.parametrize(
    ("library", "code", "said"),
    [
        (None, 0, ""),
        ("import os; os.kill(os.getpid(), 4)", 1, "Illegal instruction (SIGILL)"),
        ("raise OSError('libgomp.so.1: cannot open shared object file')", 1, "libgomp.so.1"),
    ],
)
def test_it_is_run_as_the_scripts_run_it(library: str | None, code: int, said: str, tmp_path: Path) -> None:
    if library:
        (tmp_path / "llama_cpp.py").write_text(library)
    command = [sys.executable, "-P", "-m", "fine_tuning.engines.smoke"]
    path = f"{ROOT}:{tmp_path}" if library else str(ROOT)
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"}, cwd="/"
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr and done.stdout == ""


def test_what_dies_is_an_engine_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama_cpp.py").write_text("import os; os.kill(os.getpid(), 11)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match="SIGSEGV"):
        smoke.smoke()
