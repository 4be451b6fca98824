"""Datasets of the Hugging Face Hub, by the Hub's own client on a stand-in of its HTTP API."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from hub_stand_in import TOKEN, Hub, Repository, serving

from fine_tuning.data_collection.conversation_logger import ConversationLogger

ROWS = [{"question": f"Which shelf holds tool {number}?", "answer": f"Shelf {number}."} for number in range(3)]
CONTENT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {}\n---\n# Shelves\n"


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


# Does the import of each line, a data folder and options, in a fork of its own: what the libraries keep of one dataset
# is unknown to the next. They read the Hub's address when they are imported, which takes a second.
DOER = """
import json, os, sys
import datasets, pyarrow
import fine_tuning.data_collection.importers.table, fine_tuning.jobs.doing
from fine_tuning.cli.main import main
for line in sys.stdin:
    home, *options = json.loads(line)
    child = os.fork()
    if not child:
        os.environ["BYOAI_HOME"] = home
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{home}/{name}", os.O_WRONLY | os.O_CREAT), number)
        code = main(["import", *options, "--yes"])
        os._exit(99 if "torch" in sys.modules else code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    hub = Hub()
    with serving(hub):
        yield hub


@pytest.fixture(scope="module")
def doer(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator["subprocess.Popen[str]"]:
    told = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path_factory.mktemp("hf")),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-c", DOER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **told}
    ) as child:
        yield child


@pytest.fixture
def imported(doer: "subprocess.Popen[str]", hub: Hub, home: Path) -> Callable[..., Done]:
    """imported(files, ...): import the dataset me/shelves with these files into the data folder, by the command."""

    def do(files: dict[str, bytes], which: str = "", *options: str) -> Done:
        hub.repositories["me/shelves"] = Repository(True, "dataset", files)
        hub.requests.clear()
        assert doer.stdin and doer.stdout
        doer.stdin.write(json.dumps([str(home), f"hf:me/shelves{which}", *options]) + "\n")
        doer.stdin.flush()
        return Done(int(doer.stdout.readline()), (home / "out").read_text(), (home / "err").read_text())

    return do


@pytest.mark.parametrize("place", ["/etc/passwd", "../../secret.txt", "https://example.com/rows.jsonl", "~/notes.txt"])
@pytest.mark.parametrize("file", ["README.md", ".huggingface.yaml"])
def test_a_dataset_that_names_files_outside_of_itself_is_refused(
    home: Path, imported: Callable[..., Done], file: str, place: str
) -> None:
    settings = CARD.format(f'"{place}"')
    if file != "README.md":
        settings = settings.split("---")[1]
    done = imported({"data/train.jsonl": CONTENT, file: settings.encode()})
    assert done.returncode == 3 and f"reads files outside of itself ({place})" in done.stderr
    assert not (home / "conversations").exists() or not list((home / "conversations").glob("*.jsonl"))


@pytest.mark.parametrize("before", [" \n---\n", "---\nlicense: mit\n---x: y\n"])
def test_a_card_shows_the_check_no_other_settings_than_the_library(imported: Callable[..., Done], before: str) -> None:
    card = before + CARD.format("/etc/passwd").removeprefix("---\n")
    done = imported({"data/train.jsonl": CONTENT, "README.md": card.encode()})
    assert done.returncode == 3 and "reads files outside of itself (/etc/passwd)" in done.stderr


BOMB = "a: &a {more: x}\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefghi")
)


@pytest.mark.parametrize("line", ["license: *i", "configs: {data_files: *i}", f"data_files: {'[' * 2000}"])
def test_a_card_that_grows_without_end_is_refused_at_once(imported: Callable[..., Done], line: str) -> None:
    card = f"---\n{BOMB}{line}\n---\n"
    done = imported({"data/train.jsonl": CONTENT, "README.md": card.encode()})
    assert done.returncode == 3 and "contains YAML that byoai does not accept" in done.stderr


def test_the_rows_of_a_dataset_are_imported_without_pytorch(imported: Callable[..., Done], hub: Hub) -> None:
    done = imported({"data/train.jsonl": CONTENT, "README.md": CARD.format("data/train.jsonl").encode()})
    assert done.returncode == 0, done.stderr
    assert "3" in done.stdout
    assert hub.requests.count("GET /api/datasets/me/shelves") == 1  # the card is asked for once


TWO = """---
license: cc-by-4.0
configs:
- config_name: tools
  data_files:
  - {split: train, path: tools/train.jsonl}
  - {split: test, path: tools/test.jsonl}
- config_name: books
  data_files: books.jsonl
---
"""


@pytest.mark.parametrize(
    ("which", "options", "turns", "licence", "said"),
    [
        (":tools:test", [], 1, "cc-by-4.0", ""),
        (":tools", ["--licence", "own"], 3, "own", ""),
        ("", [], 0, "", "name a configuration (hf:owner/name:CONFIG)"),
        (":tools:dev", [], 0, "", "there is no split 'dev': its splits are train, test"),
    ],
)
def test_a_configuration_and_a_split_can_be_named(
    imported: Callable[..., Done], which: str, options: list[str], turns: int, licence: str, said: str
) -> None:
    first, *rest = CONTENT.splitlines(keepends=True)
    files = {"tools/test.jsonl": first, "tools/train.jsonl": b"".join(rest), "books.jsonl": CONTENT}
    done = imported({**files, "README.md": TWO.encode()}, which, *options)
    found = ConversationLogger().turns()
    assert (len(found), {turn.metadata["source"].get("licence") for turn in found}) == (turns, {licence} - {""})
    assert said in done.stderr and bool(said) == (done.returncode == 3)
    assert all(turn.metadata["source"]["name"] == f"hf:me/shelves{which}" for turn in found)
