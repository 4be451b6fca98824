"""`--json`: of each command that finds something out, stdout holds JSON and nothing else."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fine_tuning.cli.main import main, parser
from fine_tuning.cli.options import _plain
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.default_base import CHATML
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.jobs.queue import Queue
from fine_tuning.model_management.model_registry import Registry

TAG, TUNED = "smollm2:135m", "fine_tuned_smollm2-135m"
WITHOUT = {"chat", "completion", "serve", "start-tuning", "mlflow"}  # they find nothing out


@pytest.fixture
def loop(embedded: None, home: Path, base_gguf: Path) -> EmbeddedEngine:
    """A base, two versions of which the second is live, and four turns of which the first version learned one."""
    engine, registry = EmbeddedEngine(home / "engine"), Registry()
    engine.create(TAG, ModelSpec(base_gguf, template=CHATML, parameters={"stop": ["<|im_end|>"], "num_predict": 8}))
    log = ConversationLogger()
    turns = [
        log.log_conversation(f"Where is key {name}?", f"The key {name} hangs beside the door.")
        for name in ("A1", "B2", "C3")
    ]
    log.log_conversation("Stop?", "x")
    for number in (1, 2):
        engine.create(f"{TUNED}:v{number}", ModelSpec(TAG, parameters={"seed": number}))
        registry.add(TUNED, number, base_tag=TAG, turns=[turns[0].id])
        registry.promote(TUNED, number)
    engine.copy(f"{TUNED}:v2", f"{TUNED}:latest")
    return engine


def facts(capfd: Any, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    assert main([*arguments, "--json"]) == code
    out = capfd.readouterr().out
    found = [json.loads(line) for line in out.splitlines()]
    assert all(isinstance(each, dict) for each in found) and out.isascii()
    return found


def test_every_command_that_finds_something_out_takes_it() -> None:
    (commands,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    taking = {name for name, command in commands.choices.items() if "--json" in command._option_string_actions}
    assert taking == set(commands.choices) - WITHOUT


def test_models_and_their_versions(loop: EmbeddedEngine, capfd: Any) -> None:
    found = {each["tag"]: each for each in facts(capfd, "models")}
    assert found[TAG]["kind"] == "base" and found[TAG]["version"] is None
    assert [each["version"]["number"] for each in found.values() if each["live"]] == [2]
    assert facts(capfd, "models", "--pin", "1")[1]["version"] is not None
    assert Registry().get(TUNED, 1).pinned
    assert facts(capfd, "use", "v1")[0]["tag"] == f"{TUNED}:v1"
    assert facts(capfd, "deploy", "2")[0]["number"] == 2
    assert facts(capfd, "rollback") == [{"name": TUNED, "live": f"{TUNED}:v1"}]
    assert facts(capfd, "prune", "--dry-run") == []


def test_what_was_said(loop: EmbeddedEngine, capfd: Any) -> None:
    (stats,) = facts(capfd, "stats")
    assert (stats["total_turns"], stats["new_turns"]) == (4, 3)
    (turn,) = facts(capfd, "find", "b2", "KEY")
    assert turn["user_message"] == "Where is key B2?"
    assert len(facts(capfd, "find", "key")) == 3 and len(facts(capfd, "find", "key", "--count", "2")) == 2
    assert facts(capfd, "find", "nothing like it") == []
    assert facts(capfd, "lineage", turn["id"]) == [{"turn": turn["id"], "versions": []}]
    (taught,) = facts(capfd, "lineage", "--version", "1")
    assert taught["user_message"] == "Where is key A1?"
    (data,) = facts(capfd, "data")
    assert (data["turns"], data["kept_turns"], data["dropped"]) == (4, 3, {"too_short": 1})
    assert {Path(each["path"]).exists() for each in facts(capfd, "export")} == {True}
    (case,) = facts(capfd, "forget", "--matching", "key B2", "--dry-run")
    assert [each["user_message"] for each in case["turns"]] == ["Where is key B2?"]
    (nothing,) = facts(capfd, "forget", "--matching", "zorbexine")
    assert nothing["turns"] == [] and nothing["files"] == []
    assert len(facts(capfd, "find", "B2")) == 1


def test_imports(loop: EmbeddedEngine, tmp_path: Path, capfd: Any) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "Who waters the plants?", "completion": "Whoever comes in first."}\n')
    (seen,) = facts(capfd, "import", str(file), "--dry-run")
    assert (seen["added"], seen["written"]) == (1, False)
    (done,) = facts(capfd, "import", str(file), "--yes")
    assert (done["added"], done["written"]) == (1, True)
    assert [each["id"] for each in facts(capfd, "import", "--list")] == [done["id"]]
    assert facts(capfd, "import", "--undo", done["id"], "--yes") == [{"id": done["id"], "taken_back": 1}]


def test_answers(loop: EmbeddedEngine, capfd: Any) -> None:
    (asked,) = facts(capfd, "ask", "Name a colour.")
    assert asked["model"].startswith(TUNED) and asked["answer"]
    compared = facts(capfd, "compare", "Hi", "Name a colour.", "--models", "base,v1", "--max-tokens", "3")
    assert [(each["prompt"], each["model"]) for each in compared] == [
        (prompt, tag) for prompt in ("Hi", "Name a colour.") for tag in (TAG, f"{TUNED}:v1")
    ]
    assert facts(capfd, "compare", "Hi", "--blind", code=2) == []
    reviewed = facts(capfd, "review", "--count", "2")
    assert len(reviewed) == 2 and {"user_message", "surprise", "shift", "alike"} <= reviewed[0].keys()
    (prepared,) = facts(capfd, "prepare")
    assert prepared["model"] == TAG and prepared["engine"] == "embedded"
    assert main(["doctor", "--json"]) in (0, 1)  # memory may be short
    checks = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert {check["name"] for check in checks} >= {"disk", "log", "engine", "live model"}


def test_an_error_leaves_stdout_empty(embedded: None, home: Path, capfd: Any) -> None:
    for arguments, code in (
        (["use", "v9"], 4),
        (["export"], 3),
        (["import", "nosuch.jsonl", "--yes"], 3),
        (["retrain"], 3),
    ):
        assert facts(capfd, *arguments, code=code) == []


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (float("nan"), None),
        ({"a": [float("inf"), 1.5]}, {"a": [None, 1.5]}),
        ((Path("/x"), True, None), ["/x", True, None]),
        ({3: {"b"}}, {"3": ["b"]}),
        (ModelSpec("x"), None),
    ],
)
def test_all_that_is_found_can_be_written_as_json(value: Any, plain: Any) -> None:
    written = json.loads(json.dumps(_plain(value), allow_nan=False))
    assert written == plain or isinstance(value, ModelSpec)


def test_what_others_print_goes_to_stderr(loop: EmbeddedEngine, home: Path) -> None:
    """In a process of its own, with a terminal's encoding that lacks characters, and a version that
    byoai did not make.
    """
    loop.create(f"{TUNED}:v7", ModelSpec(TAG, parameters={"seed": 7}))
    ConversationLogger().log_conversation("Où est la clé 😀?", "Sous le paillasson, à côté de la porte.")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for arguments in (["models"], ["find", "paillasson"]):
        command = [sys.executable, "-m", "fine_tuning", *arguments, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        assert [json.loads(line) for line in done.stdout.splitlines()]
        assert arguments != ["models"] or f"{TUNED}:v7" in done.stderr


# Jobs, where no process of its own is needed


def test_jobs_that_fail_are_told_and_give_their_code(embedded: None, home: Path, capfd: Any) -> None:
    (job,) = facts(capfd, "pull", "nosuch:1b", code=2)
    assert job["state"] == "failed" and "start Ollama" in job["reason"] and job["result"] == {}
    (job,) = facts(capfd, "evaluate", "v3", code=4)
    assert job["kind"] == "evaluate" and "version 3" in job["reason"]
    assert main(["evaluate"]) == 2
    said = capfd.readouterr()
    assert "no live version" in said.err and "jobs resume" not in said.err and "Ctrl-C stops it" in said.out
    (begun,) = facts(capfd, "pull", "nosuch:1b", "--detach")
    assert begun["id"] and "result" not in begun
    assert Queue().wait(begun["id"], 60).state == "failed"
