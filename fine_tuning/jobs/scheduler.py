"""Start retrains when the conditions in the configuration (`schedule:`) hold. Servers do this in a thread."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import psutil

from fine_tuning.config import FineTuningConfig, Schedule, load_config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.errors import ByoaiError
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import Job
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.planning import new_turns
from fine_tuning.profiles import for_documents
from fine_tuning.units import counted

_logger = logging.getLogger(__name__)

ORIGIN = "schedule"
_LOOK = 60.0  # seconds between checks


def window(schedule: Schedule, now: datetime) -> tuple[datetime, datetime] | None:
    """Return the start and the end of the scheduled hours in which `now` lies; None if it lies outside of them.

    The hours may span midnight. If the first and the last hour are equal, they span the whole day.
    """
    first, last = schedule.hours
    for begin in (now - timedelta(days=1), now):
        start = begin.replace(hour=first, minute=0, second=0, microsecond=0)
        end = start + timedelta(hours=(last - first) % 24 or 24)
        if start <= now < end:
            return start, end
    return None


def on_mains() -> bool:
    """Return whether the machine is on mains power, or has no battery."""
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return battery is None or battery.power_plugged is not False


def why_not(config: FineTuningConfig, queue: Queue, now: datetime | None = None) -> str:
    """Return the reason why no scheduled retrain should start at `now` (default: the current time).

    Return "" if a retrain should start. At most one is started in the scheduled hours of a day.
    """
    schedule = config.schedule
    if not schedule.enabled:
        return "the schedule is switched off (schedule.enabled)"
    hours = window(schedule, now or datetime.now())
    if hours is None:
        return f"it is not between {schedule.hours[0]} and {schedule.hours[1]} o'clock"
    if schedule.on_mains and not on_mains():
        return "the machine runs on its battery"
    jobs = queue.jobs(kinds=("retrain", "train"), limit=50)
    if busy := next((job for job in jobs if not job.over), None):
        return f"another training is {busy.state} ({busy.id})"
    start, end = (each.timestamp() for each in hours)  # a job created later is of a clock that was set back
    if any(job.origin == ORIGIN and start <= job.created < end for job in jobs):
        return "a retrain was started in these hours already"
    found = len(new_turns(config, ConversationLogger(config.log_path), Registry()))
    if found < schedule.new_turns:
        return f"{counted(found, 'new turn')} since the last version, fewer than {schedule.new_turns}"
    return ""


def look(config: FineTuningConfig, queue: Queue, now: datetime | None = None) -> Job | None:
    """Submit a retrain if one should start now, and return its job; else return None.

    The job's id is that of the scheduled hours, so that of two servers only one submits a retrain.
    """
    now = now or datetime.now()
    hours = window(config.schedule, now)
    if hours is None or why_not(config, queue, now):
        return None
    request = {
        "config": for_documents(config).model_dump(mode="json"),
        "auto": True,
        "if_new": config.schedule.new_turns,
    }
    id = f"{ORIGIN}-{hours[0]:%Y%m%d-%H}"
    return queue.submit("retrain", request, id=id, priority=-1, detached=False, origin=ORIGIN)


def run(ended: threading.Event, queue: Queue, settings: Callable[[], FineTuningConfig] = load_config) -> None:
    """Check once a minute whether a retrain should start, and submit it, until `ended` is set.

    `settings` returns the current configuration. A check that fails is written to Python's log,
    unless the one before failed for the same reason: nobody else reports why a retrain was not started.
    """
    said = ""
    while not ended.wait(_LOOK):
        try:
            look(settings(), queue)
            said = ""
        # for example a configuration that is being edited; the next check tries again
        except (ByoaiError, OSError, psutil.Error) as error:
            if str(error) != said:
                said = str(error)
                _logger.warning("no scheduled retrain can start: %s", said)
