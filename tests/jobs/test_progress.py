"""How far a job is, by its events: the same whether they are read at once or as they come, and each read once."""

from pathlib import Path
from typing import Any

import pytest

from fine_tuning import events
from fine_tuning.durations import EVALUATING, TRAINING
from fine_tuning.events import Count, Event, Finished, Note, Planned, RunOpened, Stage, Step, Trial, events_to
from fine_tuning.jobs import store
from fine_tuning.jobs.progress import Progress, progress_after, progress_of_job, record
from fine_tuning.jobs.store import Job


def _step(number: int, loss: float = 1.0) -> Step:
    return Step("chats", number, 4, number / 4, loss, 0.5, 1e-4, 1.0, 100 * number, 50.0, 0.5, 9.0, 10**9)


# A training that is stopped after its second step, and resumed from its first one.
TOLD: list[Event] = [
    Stage("Reading what was said", 1.0),
    Count(1, 2),
    Planned((("Chats", "12"),), {TRAINING: 60.0}),
    RunOpened("/runs/1", resumed=False),
    Stage(TRAINING, 2.0),
    _step(1),
    _step(2),
    Finished("stopped", "cancelled"),
    Stage(TRAINING, 3.0),
    Note("it continues from step 1"),
    _step(2, loss=0.5),
    Trial(1, {"learning_rate": 1e-3}, 0.4),
    Trial(1, {"learning_rate": 1e-3}, 0.3),
    Finished("done", "it is done"),
]


@pytest.fixture
def job(home: Path) -> Job:
    return store.add("retrain", {})


def test_progress_is_the_same_read_at_once_or_in_pieces() -> None:
    numbered = list(enumerate(TOLD, 1))
    whole = progress_after(Progress(), numbered)
    assert [step.loss for step in whole.steps] == [1.0, 0.5] and [trial.loss for trial in whole.trials] == [0.3]
    assert (whole.stage, whole.done, whole.begun, whole.run, whole.share) == (TRAINING, 2, 3.0, "/runs/1", 1.0)
    assert (whole.notes, whole.facts, whole.events) == (("it continues from step 1",), (("Chats", "12"),), len(TOLD))
    for at in range(len(TOLD) + 1):
        assert progress_after(progress_after(Progress(), numbered[:at]), numbered[at:]) == whole


def test_each_event_is_read_once_however_often_progress_is_asked_for(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[dict[str, Any]] = []
    from_record = events.from_record

    def counted(found: dict[str, Any]) -> Event | None:
        read.append(found)
        return from_record(found)

    monkeypatch.setattr(events, "from_record", counted)
    with events_to(job.events) as tell:
        for number, event in enumerate(TOLD, 1):
            tell(event)
            assert record(job)["events"] == progress_of_job(job).events == number
    assert [found["n"] for found in read] == list(range(1, len(TOLD) + 1))
    assert progress_of_job(job) == progress_after(Progress(), enumerate(TOLD, 1))


def test_a_text_that_is_removed_from_the_events_is_not_told_any_more(job: Job) -> None:
    with events_to(job.events) as tell:
        tell(Note("the key is 12345"))
        assert progress_of_job(job).notes == ("the key is 12345",)
        other = job.events.with_name("other")
        other.write_text(job.events.read_text().replace("12345", "*****"))  # as redactions do it
        other.replace(job.events)
        assert progress_of_job(job).notes == ("the key is *****",)
        tell(Note("more"))
        assert progress_of_job(job).notes == ("the key is *****", "more")


@pytest.mark.parametrize(
    ("stage", "now"),
    [
        ("Preparing the dataset", "Preparing"),
        (TRAINING, "Training"),
        ("Checking that what was exported is what was trained", "Exporting"),
        (EVALUATING, "Comparing"),
        ("Making fine_tuned_sample:v1 live", "Registering"),
    ],
)
def test_the_phases_of_a_retrain_say_what_is_done_and_what_follows(stage: str, now: str) -> None:
    phases = Progress(stage).phases
    names = [name for name, _ in phases]
    place = names.index(now)
    assert [how for _, how in phases] == ["done"] * place + ["now"] + ["later"] * (len(names) - place - 1)


def test_other_jobs_have_no_phases() -> None:
    assert Progress("Importing").phases == ()
