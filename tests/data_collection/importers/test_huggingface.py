"""Datasets of the Hugging Face Hub, by the Hub's own client on a stand-in of its HTTP API."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hub_stand_in import TOKEN, Hub, Repository, serving

from fine_tuning.data_collection.conversation_logger import ConversationLogger

ROWS = [{"question": f"Which shelf holds tool {number}?", "answer": f"Shelf {number}."} for number in range(3)]
CONTENT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {}\n---\n# Shelves\n"


def imported(
    home: Path, files: dict[str, bytes], which: str = "", *options: str, hub: Hub | None = None
) -> subprocess.CompletedProcess[str]:
    """Import the dataset me/shelves with these files into an empty data folder, by the command."""
    hub = hub or Hub()
    hub.repositories["me/shelves"] = Repository(True, "dataset", files)
    with serving(hub) as url:
        told = {"HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-m", "fine_tuning", "import", f"hf:me/shelves{which}", "--yes", *options]
        environment = {**os.environ, **told, "BYOAI_HOME": str(home)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("place", ["/etc/passwd", "../../secret.txt", "https://example.com/rows.jsonl", "~/notes.txt"])
@pytest.mark.parametrize("file", ["README.md", ".huggingface.yaml"])
def test_a_dataset_that_names_files_outside_of_itself_is_refused(home: Path, file: str, place: str) -> None:
    settings = CARD.format(f'"{place}"')
    if file != "README.md":
        settings = settings.split("---")[1]
    done = imported(home, {"data/train.jsonl": CONTENT, file: settings.encode()})
    assert done.returncode == 3 and f"reads files outside of itself ({place})" in done.stderr
    assert not (home / "conversations").exists() or not list((home / "conversations").glob("*.jsonl"))


@pytest.mark.parametrize("before", [" \n---\n", "---\nlicense: mit\n---x: y\n"])
def test_a_card_shows_the_check_no_other_settings_than_the_library(home: Path, before: str) -> None:
    card = before + CARD.format("/etc/passwd").removeprefix("---\n")
    done = imported(home, {"data/train.jsonl": CONTENT, "README.md": card.encode()})
    assert done.returncode == 3 and "reads files outside of itself (/etc/passwd)" in done.stderr


BOMB = "a: &a {more: x}\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefghi")
)


@pytest.mark.parametrize("line", ["license: *i", "configs: {data_files: *i}", f"data_files: {'[' * 2000}"])
def test_a_card_that_grows_without_end_is_refused_at_once(home: Path, line: str) -> None:
    card = f"---\n{BOMB}{line}\n---\n"
    done = imported(home, {"data/train.jsonl": CONTENT, "README.md": card.encode()})
    assert done.returncode == 3 and "contains YAML that byoai does not accept" in done.stderr


def test_the_rows_of_a_dataset_are_imported(home: Path) -> None:
    hub = Hub()
    done = imported(home, {"data/train.jsonl": CONTENT, "README.md": CARD.format("data/train.jsonl").encode()}, hub=hub)
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
    home: Path, which: str, options: list[str], turns: int, licence: str, said: str
) -> None:
    first, *rest = CONTENT.splitlines(keepends=True)
    files = {"tools/test.jsonl": first, "tools/train.jsonl": b"".join(rest), "books.jsonl": CONTENT}
    done = imported(home, {**files, "README.md": TWO.encode()}, which, *options)
    found = ConversationLogger().turns()
    assert (len(found), {turn.metadata["source"].get("licence") for turn in found}) == (turns, {licence} - {""})
    assert said in done.stderr and bool(said) == (done.returncode == 3)
    assert all(turn.metadata["source"]["name"] == f"hf:me/shelves{which}" for turn in found)
