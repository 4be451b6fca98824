"""A retrain that a program stops: when it is told so, nothing runs any more."""

import asyncio
import json
import os
import random
import threading
import time
from pathlib import Path

import filelock
import pytest
from small_training import WITH_REPLAY, log_doors

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.events import Count, Event, Stage, Step, Watch
from fine_tuning.jobs.tuner import ModelFineTuner, _stoppable
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.outcome import NewVersion, Outcome
from fine_tuning.workshop import Request


def threads_at_work() -> set[str]:
    """Threads other than those of a pool that wait for work."""
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith(("MainThread", "asyncio_"))}


def is_free() -> bool:
    try:
        with filelock.FileLock(paths.home() / "retrain.lock").acquire(timeout=0):
            return True
    except filelock.Timeout:
        return False


@pytest.mark.parametrize("times", [1, 2, 5])
def test_however_often_it_is_cancelled_the_work_is_over_first(times: int) -> None:
    began, asked_to_stop, safe_point, left = (threading.Event() for _ in range(4))

    def work(watch: Watch) -> None:
        began.set()
        while not watch.stopping():
            time.sleep(0.005)
        asked_to_stop.set()
        assert safe_point.wait(60)
        left.set()

    async def stop() -> None:
        task = asyncio.ensure_future(_stoppable(work, None))
        assert await asyncio.to_thread(began.wait, 60)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.01)
        assert not left.is_set() and not task.done()
        safe_point.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert left.is_set() and asked_to_stop.is_set()

    asyncio.run(stop())


def test_what_the_caller_asked_for_stops_it_too_and_what_it_raises_or_gives_arrives() -> None:
    def fails(watch: Watch) -> str:
        raise ZeroDivisionError("here")

    assert asyncio.run(_stoppable(lambda watch: watch.stopping(), Watch(stopping=lambda: True))) is True
    with pytest.raises(ZeroDivisionError, match="here"):
        asyncio.run(_stoppable(fails, None))


def test_a_timeout_stops_it_as_well() -> None:
    done = threading.Event()

    def work(watch: Watch) -> None:
        while not watch.stopping():
            time.sleep(0.005)
        done.set()

    async def stop() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_stoppable(work, None), 0.05)
        assert done.is_set()

    asyncio.run(stop())


async def stopped_after(config: FineTuningConfig, seconds: float) -> tuple[Outcome | None, float]:
    """What came of a retrain that was cancelled after so many seconds, and how long that took."""
    task = asyncio.ensure_future(ModelFineTuner(config).fine_tune(Request(force=True)))
    done, _ = await asyncio.wait([task], timeout=seconds)
    if done:
        return task.result(), 0.0
    task.cancel()
    began = time.perf_counter()
    with pytest.raises(asyncio.CancelledError):
        await task
    took = time.perf_counter() - began
    assert is_free()
    return None, took


class Stages:
    """Tells when a stage has come so far."""

    def __init__(self, wanted: str, steps: int) -> None:
        self.wanted, self.steps, self.now, self.reached = wanted, steps, "", threading.Event()

    def __call__(self, event: Event) -> None:
        match event:
            case Stage(title):
                self.now = title
            case Count(done=done) | Step(step=done):
                if self.now == self.wanted and done >= self.steps:
                    self.reached.set()


@pytest.fixture
def config(small_engine: EmbeddedEngine) -> FineTuningConfig:
    """Of a small training of the small base; something is in the log."""
    log_doors(6)
    return load_config(
        overrides=WITH_REPLAY | {"training.num_epochs": 1, "training.save_steps": 1, "deployment.model_name": "stopped"}
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_stopped_in_any_stage_the_next_retrain_goes_on_from_there(config: FineTuningConfig, home: Path) -> None:
    async def stop(stage: str, steps: int) -> float:
        stages = Stages(stage, steps)
        task = asyncio.ensure_future(ModelFineTuner(config).fine_tune(Request(force=True), Watch(stages)))
        reached = await asyncio.to_thread(stages.reached.wait, 600)
        task.cancel()
        began = time.perf_counter()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert reached and is_free()
        assert stages.now == stage
        return time.perf_counter() - began

    waited = {}
    stops = [
        ("Training", 1),
        ("Training", 2),
        ("Evaluating", 1),
    ]
    for stage, steps in stops:
        waited[f"{stage} {steps}"] = round(asyncio.run(stop(stage, steps)), 2)
    outcome = asyncio.run(ModelFineTuner(config).fine_tune(Request(force=True)))
    print(json.dumps({"seconds until it had stopped": waited, "stages of the last": outcome.seconds}))
    assert isinstance(outcome, NewVersion) and outcome.number == 1 and len(list(home.glob("runs/*"))) == 1
    assert outcome.training and outcome.training.resumed_from == outcome.training.steps  # nothing was trained twice


MOMENTS = int(os.environ.get("BYOAI_TEST_MOMENTS", "2"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_stopped_at_any_moment_nothing_runs_any_more_and_the_next_retrain_goes_on(
    config: FineTuningConfig, home: Path
) -> None:
    log = ConversationLogger()
    began = time.perf_counter()
    first = asyncio.run(ModelFineTuner(config).fine_tune(Request(force=True)))
    whole = quickest = time.perf_counter() - began  # later ones load no modules, and may be gone on with
    assert isinstance(first, NewVersion) and first.number == 1
    before, waited, tries = threads_at_work(), [], 0
    while len(waited) < MOMENTS:
        log.new_session()
        log.log_conversation(
            f"What is in drawer {tries}?", f"In drawer {tries} there are {tries + 2} spoons and a fork."
        )
        began = time.perf_counter()
        outcome, took = asyncio.run(stopped_after(config, random.Random(tries).uniform(0.0, quickest)))
        tries += 1
        if outcome is not None:
            quickest = min(quickest, time.perf_counter() - began)
        if outcome is None:
            waited.append(round(took, 2))
            assert threads_at_work() <= before
            lines = [file.read_text() for file in home.glob("runs/*/progress.jsonl")]
            time.sleep(0.5)
            assert [file.read_text() for file in home.glob("runs/*/progress.jsonl")] == lines
    finished = asyncio.run(ModelFineTuner(config).fine_tune(Request(force=True)))
    versions = Registry().list()
    assert isinstance(finished, NewVersion) and finished.number == len(versions) == len(
        list(home.glob("runs/*"))
    )  # every run was gone on with until it was a version
    print(json.dumps({"seconds until it had stopped": sorted(waited), "tries": tries, "versions": len(versions)}))
    assert max(waited) < whole / 2  # a safe point is never far
