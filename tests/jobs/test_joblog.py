"""A job's log: bounded, and without keys and passwords."""

import subprocess
import sys
from pathlib import Path

import pytest

from fine_tuning.jobs.joblog import LIMIT, last_line, mask

KEY = (
    "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n"
    "-----END PRIVATE KEY-----"
)


@pytest.mark.parametrize(
    "secret",
    [
        "sk-abcdefghijklmnop1234567890ABCD",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "hf_abcdefghijklmnopqrstuvwxyzABCDEF12",
        "AKIAIOSFODNN7EXAMPLQ",
        "xoxb-1234567890-abcdefghijklmnop",
        KEY,
    ],
)
def test_keys_and_passwords_are_masked_and_all_else_stays(secret: str) -> None:
    masked = mask(f"2026-01-02 loading mail@example.org\n{secret}\nstep 3 of 10: loss 1.25")
    assert secret not in masked and "[SECRET]" in masked
    assert masked.startswith("2026-01-02 loading mail@example.org") and masked.endswith("step 3 of 10: loss 1.25")


CODE = """
import os, subprocess, sys
from pathlib import Path
from fine_tuning.jobs.joblog import logged_to
with logged_to(Path(sys.argv[1])):
{body}
print("after")
"""


def logged(file: Path, *body: str) -> str:
    code = CODE.format(body="\n".join(f"    {line}" for line in body))
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "after\n" and done.stderr == ""
    return file.read_text()


def test_all_that_a_process_and_its_children_write_is_in_it(tmp_path: Path) -> None:
    said = logged(
        tmp_path / "log.txt",
        "print('one')",
        "print('two', file=sys.stderr)",
        "sys.stdout.flush()",
        "subprocess.run([sys.executable, '-c', 'print(3)'])",
        "os.write(2, b'bytes \\xff\\n')",
        "print('no end', end='')",
    )
    assert sorted(said.splitlines()) == sorted(["one", "two", "3", "bytes \ufffd", "no end"])
    assert (tmp_path / "log.txt").stat().st_mode & 0o777 == 0o600


def test_a_secret_is_masked_however_it_is_written(tmp_path: Path) -> None:
    said = logged(
        tmp_path / "log.txt",
        "import time",
        "os.write(1, b'the key is sk-abcdefghijk'); time.sleep(0.3); os.write(1, b'lmnop1234567890ABCD\\n')",
        *(f"os.write(1, {line.encode() + bytes([10])!r}); time.sleep(0.1)" for line in KEY.splitlines()),
        "os.write(1, b'done\\n')",
    )
    assert "sk-abc" not in said and "MIIE" not in said and "BKcw" not in said and said.endswith("done\n")


def test_it_never_grows_beyond_its_bounds(tmp_path: Path) -> None:
    logged(tmp_path / "log.txt", "for number in range(60_000): print(number, 'x' * 40)")
    log, before = tmp_path / "log.txt", tmp_path / "log.1.txt"
    assert log.stat().st_size <= LIMIT and before.stat().st_size <= LIMIT
    assert last_line(log).startswith("59999 ") and sorted(path.name for path in tmp_path.iterdir()) == [
        "log.1.txt",
        "log.txt",
    ]


def test_a_line_without_an_end_does_not_grow_for_ever(tmp_path: Path) -> None:
    assert len(logged(tmp_path / "log.txt", "sys.stdout.write('no end ' * 100_000)")) == 700_000


def test_the_last_line_that_says_something(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    assert last_line(file) == ""
    file.write_text("first\n  last one \n\n \n")
    assert last_line(file) == "last one"
