"""Retrains that begin by themselves: when the rule says so, once in a night, and never otherwise."""

import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from waiting import wait_for

from fine_tuning.api.background import tended
from fine_tuning.api.security import Access
from fine_tuning.config import FineTuningConfig, Schedule
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.errors import ConfigError
from fine_tuning.integration.service import Service
from fine_tuning.jobs import scheduler, store
from fine_tuning.jobs.processes import is_alive
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import State

NIGHT = datetime.now().replace(hour=3, minute=0, second=0, microsecond=0)
Configured = Callable[..., FineTuningConfig]


@pytest.fixture
def config(queue: Queue, home: Path, monkeypatch: pytest.MonkeyPatch) -> Configured:
    """Five turns in the log. What is begun only waits: the queue has no room."""
    log = ConversationLogger()
    for number in range(5):
        log.log_conversation(f"What is in drawer {number}?", f"In drawer {number} there are spoons.")
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None)

    def configured(**rule: Any) -> FineTuningConfig:
        return FineTuningConfig(schedule=Schedule(**{"enabled": True, "new_turns": 5, **rule}))

    return configured


@pytest.fixture
def full() -> Queue:
    return Queue(heavy=0)


@pytest.mark.parametrize(
    ("hours", "hour", "inside"),
    [
        ((1, 6), 0, False),
        ((1, 6), 1, True),
        ((1, 6), 5, True),
        ((1, 6), 6, False),
        ((22, 6), 23, True),
        ((22, 6), 3, True),
        ((22, 6), 12, False),
        ((0, 0), 12, True),
        ((5, 5), 4, True),
    ],
)
def test_the_hours_go_over_midnight(hours: tuple[int, int], hour: int, inside: bool) -> None:
    now = NIGHT.replace(hour=hour)
    found = scheduler.window(Schedule(hours=hours), now)
    assert (found is not None) == inside
    assert found is None or found[0] <= now < found[1]


@pytest.mark.parametrize(
    ("rule", "hour", "said"),
    [
        ({"enabled": False}, 3, "switched off"),
        ({"hours": (1, 6)}, 12, "not between 1 and 6"),
        ({"new_turns": 6}, 3, "5 new turns since the last version, fewer than 6"),
    ],
)
def test_nothing_begins_when_the_rule_does_not_say_so(
    config: Configured, full: Queue, rule: dict[str, Any], hour: int, said: str
) -> None:
    assert said in scheduler.why_not(config(**rule), full, NIGHT.replace(hour=hour))
    assert scheduler.look(config(**rule), full, NIGHT.replace(hour=hour)) is None and not store.find()


def test_it_is_off_unless_somebody_switches_it_on(full: Queue, config: Configured) -> None:
    assert "switched off" in scheduler.why_not(FineTuningConfig(), full, NIGHT)


@pytest.mark.parametrize(("plugged", "begins"), [(True, True), (False, False), (None, True)])
def test_on_the_battery_it_waits(
    config: Configured, full: Queue, monkeypatch: pytest.MonkeyPatch, plugged: bool | None, begins: bool
) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: SimpleNamespace(power_plugged=plugged))
    assert (scheduler.look(config(), full, NIGHT) is not None) == begins
    store.remove_old(0)
    if not begins:
        assert scheduler.look(config(on_mains=False), full, NIGHT) is not None


def test_it_begins_once_in_a_night(config: Configured, full: Queue) -> None:
    job = scheduler.look(config(hours=(0, 0)), full)
    assert job and (job.kind, job.origin, job.detached, job.request["if_new"]) == ("retrain", "schedule", False, 5)
    assert "is queued" in scheduler.why_not(config(hours=(0, 0)), full)
    store.ask_to_stop(job.id, 1)
    assert "in these hours already" in scheduler.why_not(config(hours=(0, 0)), full)
    assert scheduler.look(config(hours=(0, 0)), full) is None


def test_a_retrain_that_began_by_a_clock_in_the_future_stops_none_of_today(config: Configured, full: Queue) -> None:
    job = scheduler.look(config(hours=(0, 0)), full, NIGHT)
    assert job
    store.ask_to_stop(job.id, 1)
    yesterday = NIGHT - timedelta(days=1)
    assert scheduler.why_not(config(hours=(0, 0)), full, yesterday) == ""


def test_of_two_servers_that_look_at_once_one_begins_it(
    config: Configured, full: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "why_not", lambda *_: "")  # both looked before either had submitted it
    assert [scheduler.look(config(hours=(0, 0)), Queue(heavy=0)) for _ in "ab"] == store.find() * 2


def test_it_waits_for_another_retrain(config: Configured) -> None:
    other = store.add("retrain", {}, detached=True)
    assert f"another training is queued ({other.id})" in scheduler.why_not(config(hours=(0, 0)), Queue(heavy=0))
    assert store.get(other.id).state == State.QUEUED


@pytest.mark.parametrize("rule", [{"hours": (1, 24)}, {"hours": (1,)}, {"new_turns": 0}, {"hour": 3}])
def test_a_rule_that_cannot_be_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"schedule|validation"):
        FineTuningConfig(schedule=rule)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="schedule"):
        FineTuningConfig().changed({f"schedule.{key}": value for key, value in rule.items()})


def test_a_server_starts_it_when_the_rule_holds_and_ends_it_with_itself(
    config: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a look at which the settings could not be read."""
    monkeypatch.setattr(scheduler, "_LOOK", 0.05)
    looks = iter([ConfigError("the file is being edited"), config(enabled=False), config(new_turns=6)])

    def settings() -> FineTuningConfig:
        found = next(looks, config(hours=(0, 0)))
        if isinstance(found, ConfigError):
            raise found
        return found

    service = Service(settings)
    service.queue = Queue(program=(sys.executable, "-c", "import time; time.sleep(1000)"))
    with tended(service, Access(8501)):
        wait_for(lambda: store.find((State.RUNNING,)), what="a retrain")
        (job,) = store.find()
        assert (job.kind, job.origin) == ("retrain", scheduler.ORIGIN) and next(looks, None) is None
        wait_for(lambda: store.get(job.id).process)
        process = store.get(job.id).process
        assert process and is_alive(process, job.mark)
    wait_for(lambda: not is_alive(process, job.mark), what="the end of the retrain")


def test_why_no_retrain_can_start_is_said_when_it_begins_and_not_at_each_look(
    config: Configured, queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scheduler, "_LOOK", 0.001)
    edited, missing = "the file is being edited", "a value is missing"
    ended, reasons = Event(), [edited, edited, missing, "", missing]

    def settings() -> FineTuningConfig:
        reason = reasons.pop(0)
        if not reasons:
            ended.set()
        if reason:
            raise ConfigError(reason)
        return config(enabled=False)

    scheduler.run(ended, queue, settings)
    start = "no scheduled retrain can start: "
    assert caplog.messages == [f"{start}{each}" for each in (edited, missing, missing)]
