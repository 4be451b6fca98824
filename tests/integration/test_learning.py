"""A retrain as a page sees it: begun in a process of its own, watched, stopped, gone on with."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from small_training import WITH_REPLAY, log_doors

from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.errors import Busy, ByoaiError
from fine_tuning.events import Count, Event, Finished, Note, Planned, Stage, Step, events_to
from fine_tuning.integration import learning
from fine_tuning.jobs import store
from fine_tuning.jobs.doing import listed
from fine_tuning.jobs.kinds import RetrainRequest, SweepRequest
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.runs import holder, only_one

STEP = Step("chats", 3, 12, 0.5, 1.5, 0.3, 1e-4, 1.0, 100, 50.0, 0.5, 42.0, 10**9)


def told(*events: Event) -> learning.Learning:
    """How it looks while a retrain of this process has told these."""
    with listed("retrain", RetrainRequest()) as watch:
        for event in events:
            watch.tell(event)
        return learning.look()


def test_nothing_was_ever_learned(home: Path) -> None:
    now = learning.look()
    assert not now.known and not now.broke_off and not now.running


def test_the_stage_and_how_far_it_is(home: Path) -> None:
    now = told(Note("engine"), Planned((("base", "x"),)), Stage("Asking"), Count(2, 8))
    told_ = now.told
    assert (told_.stage, told_.done, told_.total, told_.notes, told_.facts) == (
        "Asking",
        2,
        8,
        ("engine",),
        (("base", "x"),),
    )
    assert now.running and now.job and now.job.process and now.job.process.pid == os.getpid() and now.told.left is None
    now = told(Stage("Asking"), Count(2, 8), Stage("Training"))
    assert (now.told.stage, now.told.done, now.told.total) == ("Training", 0, 0)
    now = told(Stage("Training"), STEP)
    assert (now.told.done, now.told.total, now.told.steps) == (3, 12, (STEP,))


def test_what_is_left_is_the_time_until_the_verdict(home: Path) -> None:
    planned = Planned((), {"Training": 100.0, "Evaluating": 60.0, "all else": 10.0})
    assert told(Stage("Training"), STEP).told.left is None  # nothing was planned
    assert told(planned, Stage("Training")).told.left == 170.0
    assert told(planned, Stage("Training"), STEP).told.left == 112.0  # 42 of the training
    assert told(planned, Stage("Training"), STEP, Stage("Exporting to GGUF")).told.left == 70.0
    assert told(planned, Stage("Evaluating"), Count(15, 60)).told.left == 45.0
    assert told(planned, Stage("Registering x")).told.left is None


def test_a_stage_that_is_slower_than_planned_says_so(home: Path) -> None:
    planned = Planned((), {"Training": 100.0, "Evaluating": 60.0, "all else": 10.0})
    ago = time.time() - 158  # with 42 s left the training takes twice as long as planned
    assert told(planned, Stage("Training", ago), STEP).told.left == pytest.approx(42 + 2 * 70, abs=2)
    ago = time.time() - 300
    assert told(planned, Stage("Evaluating", ago), Count(50, 100, "percent")).told.left == pytest.approx(300, abs=3)


def test_how_it_ended(home: Path) -> None:
    end = Finished("refused", "not better", "fine_tuned_chat:v2")
    told(Stage("Evaluating"), end)
    now = learning.look()
    assert now.known and now.told.finished == end and not now.running and not now.broke_off


def test_a_retrain_that_was_killed_broke_off(home: Path) -> None:
    job = store.add("retrain", RetrainRequest().record(), here=store.Process(999_999, 1.0))
    with events_to(job.events) as tell:
        tell(Stage("Training"))
        tell(STEP)
    now = learning.look()
    assert now.broke_off and now.told.steps == (STEP,) and now.job and "killed" in now.job.reason


def test_other_work_is_no_learning(home: Path) -> None:
    with listed("sweep", SweepRequest()):
        assert not learning.look().known


def test_nothing_is_begun_while_one_runs_and_nothing_is_stopped_while_none_does(home: Path) -> None:
    with only_one("byoai retrain --sample"), pytest.raises(Busy, match="byoai retrain --sample"):
        learning.start(load_config(), 10)
    with listed("retrain", RetrainRequest()), pytest.raises(Busy, match="another training is running"):
        learning.start(load_config(), 10)
    assert learning.stop() is False


@pytest.fixture
def config(small_engine: EmbeddedEngine) -> FineTuningConfig:
    log_doors(6, ("blue",))
    return load_config(overrides=WITH_REPLAY | {"training.num_epochs": 4, "deployment.model_name": "page"})


def wait_for(what: Callable[[learning.Learning], bool], seconds: float = 300) -> learning.Learning:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if what(now := learning.look()):
            return now
        time.sleep(0.2)
    raise AssertionError(f"it did not come to that: {learning.look()}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_is_stopped_gone_on_with_killed_gone_on_with_and_makes_a_version(
    config: FineTuningConfig, home: Path
) -> None:
    learning.start(config, 6)
    wait_for(lambda now: len(now.told.steps) >= 2)
    now = learning.look()
    assert now.job and now.job.process
    pid = now.job.process.pid
    assert os.getsid(pid) == pid  # of a session of its own: the end of a terminal is not its end
    assert learning.stop()
    asked = time.monotonic()
    stopped = wait_for(lambda now: not now.running)
    assert stopped.told.finished and stopped.told.finished.state == "stopped" and time.monotonic() - asked < 30
    learning.start(config, 6)
    now = wait_for(lambda now: any("it continues from" in note for note in now.told.notes) and bool(now.told.steps))
    assert now.job and now.job.process
    children = psutil.Process(now.job.process.pid).children(recursive=True)
    os.kill(now.job.process.pid, signal.SIGKILL)
    wait_for(lambda now: now.broke_off)
    psutil.wait_procs(children, timeout=60)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    learning.start(config, 6)
    end = wait_for(lambda now: now.known and not now.running)
    assert end.told.finished and end.told.finished.state == "live", end.job
    assert end.told.finished.tag == "fine_tuned_page:v1" and end.told.finished.answers
    assert holder() is None
    assert len(Registry().list()) == 1 and len(list(home.glob("runs/*"))) == 1


@pytest.mark.slow
def test_what_keeps_it_from_beginning_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYOAI_ENGINE", "nonesuch")
    with pytest.raises(ByoaiError, match="BYOAI_ENGINE is 'nonesuch'"):
        learning.start(load_config(), 6)
