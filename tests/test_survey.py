"""What there is to learn, told without an engine: the same figures as a plan's."""

import subprocess
import sys
from pathlib import Path

import pytest

from fine_tuning.config import load_config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.default_base import CHATML
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import DataError
from fine_tuning.planning import make_plan
from fine_tuning.survey import survey
from fine_tuning.workshop import Request, Workshop

SAME = ("turns", "new_turns", "kept_turns", "dropped", "scrubbed", "preference_method")


def log_some() -> None:
    log = ConversationLogger()
    said = [
        ("Where does the spare key of the cellar hang?", "It hangs on the hook behind the door."),
        # nearly the same
        ("Where does the spare key of the cellar hang now?", "It hangs on the hook behind the door."),
        ("Who waters the plants in the summer holidays?", "Marta does, on Mondays and on Fridays."),
        # a private detail
        ("Whom do I write to about the invoices?", "Write to anna.lindqvist@fernwell.com about them."),
        ("Who?", "He."),  # too short
        ("Who has got the ladder at the moment?", "Nobody knows who has got it."),
    ]
    turns = []
    for question, answer in said:
        log.new_session()
        turns.append(log.log_conversation(question, answer))
    log.edit(turns[2].id, "Marta does, on Mondays only.")
    log.rate(turns[5].id, "down")
    log.rate(turns[0].id, "up")
    log.exclude(log.log_conversation("What is left out of all this?", "This very turn is left out.").id)


@pytest.mark.parametrize("what", ["log", "sample", "a dataset"])
def test_it_counts_as_a_plan_does(
    embedded: None, known_machine: None, home: Path, tmp_path: Path, small_base: Path, what: str
) -> None:
    log_some()
    config, sample = load_config(overrides={"training.preferences.least": 2}), what == "sample"
    if what == "a dataset":
        file = tmp_path / "pairs.csv"
        file.write_text("question,answer\nWho waters the plants here?,Marta does it on Mondays.\nEh?,No\n")
        config = config.changed({"dataset.path": str(file), "dataset.format": "csv"})
    engine = EmbeddedEngine(home / "engine")
    engine.create("smollm2:135m", ModelSpec(small_base, template=CHATML))
    found, plan = survey(config, sample=sample), make_plan(Workshop(config, engine, request=Request(sample=sample)))
    assert [getattr(found, name) for name in SAME] == [getattr(plan, name) for name in SAME]
    assert (found.pairs, found.ratings) == (plan.preferences.pairs, plan.preferences.ratings)
    assert found.conversations == sum(split["conversations"] for split in plan.dataset.manifest["splits"].values())
    assert {
        name: value
        for name, value in found.facts()
        if name in ("in the log", "after cleaning", "private details", "preferences")
    } == {
        name: value
        for name, value in plan.facts()
        if name in ("in the log", "after cleaning", "private details", "preferences")
    }


def test_drops_near_duplicates_and_preferences_are_counted(home: Path) -> None:
    log_some()
    found = survey(load_config())
    assert (found.turns, found.kept_turns, found.near_duplicates, found.pairs, found.ratings) == (6, 4, 1, 1, 2)
    assert found.dropped == {"rejected": 1, "too_short": 1} and found.scrubbed == {"email": 1}
    assert "too small" in found.warnings[0]
    said = dict(found.facts())
    assert said["conversations"] == "4, 1 of them nearly the same as an earlier one"
    assert not [path for path in (home / "datasets").rglob("*") if path.is_file()]  # nothing is built


@pytest.mark.parametrize("kept", [False, True])
def test_nothing_to_learn_is_a_survey_too(home: Path, kept: bool) -> None:
    if kept:
        ConversationLogger().log_conversation("Who?", "He.")
    found = survey(load_config())
    assert (found.turns, found.kept_turns, found.conversations) == (int(kept), 0, 0)
    assert found.dropped == ({"too_short": 1} if kept else {})


def test_a_dataset_that_cannot_be_read_is_named(home: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"x\.jsonl, line 1"):
        survey(load_config(overrides={"dataset.path": str(tmp_path / "x.jsonl")}))


def test_no_torch_is_needed(home: Path) -> None:
    code = (
        "import sys; from fine_tuning.cli.main import main; main(['data', '--sample']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
