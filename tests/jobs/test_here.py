"""A retrain of a program's own, as cron begins one: it is in the table like any other."""

import asyncio
from pathlib import Path

import pytest

from fine_tuning.config import FineTuningConfig
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import Busy, NoConversations
from fine_tuning.events import Finished, read_events
from fine_tuning.jobs import store
from fine_tuning.jobs.doing import retrain_here
from fine_tuning.jobs.processes import this_process
from fine_tuning.jobs.store import State
from fine_tuning.jobs.tuner import ModelFineTuner
from fine_tuning.outcome import NothingToDo
from fine_tuning.runs import only_one
from fine_tuning.workshop import Request


def test_one_that_has_nothing_to_do_is_completed_and_says_so(home: Path, tmp_path: Path) -> None:
    outcome = retrain_here(FineTuningConfig(), request=Request(if_new=20), engine=EmbeddedEngine(tmp_path / "engine"))
    (job,) = store.find()
    assert isinstance(outcome, NothingToDo) and (job.kind, job.state, job.exit_code) == ("retrain", State.COMPLETED, 0)
    assert job.here and job.detached and job.process == this_process() and job.request["if_new"] == 20
    assert job.reason == outcome.reason == "0 new turns since the last version, fewer than 20: nothing to do"
    assert isinstance(read_events(job.events)[-1][1], Finished)


def test_one_that_cannot_begin_has_failed_and_says_why(home: Path, tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path / "engine")
    with only_one("byoai prune"), pytest.raises(Busy, match="byoai prune"):
        retrain_here(FineTuningConfig(), engine=engine)
    with pytest.raises(NoConversations):
        retrain_here(FineTuningConfig(), engine=engine)
    newest, oldest = store.find()
    assert (oldest.state, oldest.exit_code) == (State.FAILED, Busy.exit_code) and "byoai prune" in oldest.reason
    assert (newest.state, newest.exit_code) == (State.FAILED, NoConversations.exit_code)


def test_that_of_the_awaitable_is_listed_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    outcome = asyncio.run(ModelFineTuner().fine_tune(Request(if_new=3)))
    assert isinstance(outcome, NothingToDo) and store.find()[0].reason == outcome.reason
