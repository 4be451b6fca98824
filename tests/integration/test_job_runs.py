"""Jobs as a person looks back on them: their titles, ends and curves, and what goes with one that is removed."""

from pathlib import Path

import pytest

from fine_tuning import paths
from fine_tuning.config import load_config
from fine_tuning.errors import Busy, JobNotFound
from fine_tuning.events import Event, Finished, RunOpened, Step
from fine_tuning.integration import job_runs
from fine_tuning.integration.job_runs import KEPT_ASIDE, LEARNED, Point
from fine_tuning.jobs import processes, store
from fine_tuning.jobs.doing import listed
from fine_tuning.jobs.kinds import KINDS, RetrainRequest, SweepRequest
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.request import JobRequest
from fine_tuning.jobs.store import Job, State
from fine_tuning.model_management.model_registry import Registry

NAME = "fine_tuned_a"


def step(number: int, part: str = "chats", aside: float | None = None) -> Step:
    return Step(part, number, 12, 0.5, 3.0 / number, 0.3, 1e-4, 1.0, 100, 50.0, 0.5, 42.0, 10**9, aside)


def done(kind: str = "retrain", *events: Event, request: JobRequest | None = None, result: object = None) -> Job:
    """A job that told these and came to its end."""
    with listed(kind, request or KINDS[kind].request()) as told:
        for event in events:
            told.tell(event)
    job = store.find()[0]
    if result is not None:
        paths.write_json(job.result, result)
    return job


def folder(place: Path) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / ("inputs.json" if place.parent.name == "runs" else "journal.log")).write_text("{}")
    (place / "big").write_bytes(b"x" * 5000)
    return place


# The list


@pytest.mark.parametrize(
    ("kind", "request_", "said"),
    [
        ("retrain", {}, "Training on your chats"),
        ("retrain", {"sample": True}, "Training on the sample"),
        ("sweep", {}, "Search for better settings"),
        ("forget", {"turns": ["x"]}, "Forgetting"),
        ("survey", {}, "Survey"),  # one without a title of its own
    ],
)
def test_a_job_is_named_by_what_it_does(home: Path, kind: str, request_: dict[str, object], said: str) -> None:
    assert job_runs.title(done(kind, request=KINDS[kind].request.model_validate(request_))) == said


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"passed": True, "live": True}, "the new version answers"),
        ({"passed": True, "live": False}, "waits for you"),
        ({"passed": False, "live": False}, "the old version stays"),
        ({"reason": "nothing new"}, "No new version"),
    ],
)
def test_a_trainings_end_is_told_in_a_few_words(home: Path, result: dict[str, object], said: str) -> None:
    assert said in job_runs.verdict(done("retrain", Finished("done", "x"), result=result))


def test_of_all_else_the_reasons_first_line_is_told_and_nothing_while_it_runs(home: Path) -> None:
    job = store.add("sweep", SweepRequest().record(), here=processes.this_process())
    assert job_runs.verdict(job) == job_runs.duration(job) == ""
    store.finish(job, State.FAILED, "no rows\nat all", 1)
    assert job_runs.verdict(store.get(job.id)) == "no rows"


def test_the_list_is_paged_and_leaves_plans_out(home: Path) -> None:
    made = [done("sweep").id for _ in range(5)]
    done("plan")
    first, before = job_runs.page(Queue(), 2)
    second, later = job_runs.page(Queue(), 2, before)
    third, end = job_runs.page(Queue(), 2, later)
    assert [job.id for job in (*first, *second, *third)] == made[::-1] and end is None


# Several compared


def test_a_curve_is_of_the_chats_alone_with_what_is_kept_aside_beside_it(home: Path) -> None:
    job = done("retrain", step(1), step(2, aside=1.5), step(1, "preferences"))
    assert [(each.step, each.kind, each.loss) for each in job_runs.curve(job)] == [
        (1, LEARNED, 3.0),
        (2, LEARNED, 1.5),
        (2, KEPT_ASIDE, 1.5),
    ]
    assert {each.run for each in job_runs.curve(job, "mine")} == {"mine"}


@pytest.mark.parametrize(("count", "most"), [(0, 3), (1, 3), (3, 3), (10, 3), (1000, 300), (7, 1)])
def test_a_long_curve_is_thinned_and_keeps_its_ends(count: int, most: int) -> None:
    learned = [Point("a", number, LEARNED, 1.0, None) for number in range(count)]
    aside = [Point("a", number, KEPT_ASIDE, 1.0, None) for number in range(0, count, 2)]
    kept = job_runs.thinned([*learned, *aside], most)
    left = [each for each in kept if each.kind == LEARNED]
    assert len(left) <= most + 1 and [each for each in kept if each.kind == KEPT_ASIDE] == aside
    assert not count or (left[0], left[-1]) == (learned[0], learned[-1])


def test_a_diff_names_what_is_not_the_same_for_all_and_nothing_that_changes_no_learning(home: Path) -> None:
    config = load_config()
    one = done(
        "retrain", request=RetrainRequest(config=config.changed({"schedule.new_turns": 7}), ollama_url="http://a")
    )
    other = done("retrain", request=RetrainRequest(config=config.changed({"training.lora_r": 4}), sample=True))
    assert job_runs.diff([one, one]) == []
    assert dict(job_runs.diff([one, other])) == {"sample": (None, True), "training.lora_r": (16, 4)}


# One removed


def test_a_run_goes_with_its_job(home: Path) -> None:
    run = folder(home / "runs" / "one")
    job = done("retrain", RunOpened(str(run), resumed=False), Finished("stopped", "stopped"))
    found = job_runs.removal(Queue(), Registry(), job.id)
    assert found.run == run and found.bytes > 5000 and run.exists()
    job_runs.remove(Queue(), Registry(), None, job.id)
    assert not run.exists() and not job.folder.exists()
    with pytest.raises(JobNotFound):
        job_runs.removal(Queue(), Registry(), job.id)


@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED, State.CANCELLED, State.INTERRUPTED])
def test_a_study_goes_with_its_sweep_however_that_ended(home: Path, state: State) -> None:
    study = folder(home / "sweeps" / "boxes")
    job = store.add("sweep", SweepRequest().record(), here=processes.this_process())
    store.set_run(job, str(study))
    store.finish(job, state, "so", 0)
    found = job_runs.removal(Queue(), Registry(), job.id)
    assert found.run == study and found.version is None
    job_runs.remove(Queue(), Registry(), None, job.id)
    assert not study.exists() and (home / "sweeps").exists()


@pytest.mark.parametrize("kind", ["retrain", "sweep"])
def test_what_another_job_has_a_share_in_stays(home: Path, kind: str) -> None:
    made = folder(home / ("runs" if kind == "retrain" else "sweeps") / "shared")
    first, second = (done(kind, RunOpened(str(made), resumed=False)) for _ in range(2))
    assert job_runs.removal(Queue(), Registry(), first.id).run is None
    job_runs.remove(Queue(), Registry(), None, first.id)
    assert made.exists()
    job_runs.remove(Queue(), Registry(), None, second.id)
    assert not made.exists()


@pytest.mark.parametrize("place", ["/etc", "../outside", "nowhere"])
def test_only_what_lies_in_the_data_folder_is_removed(home: Path, place: str) -> None:
    outside = folder(home.parent / "outside")
    job = done("sweep", RunOpened(str(home / place), resumed=False))
    assert job_runs.removal(Queue(), Registry(), job.id).run is None
    job_runs.remove(Queue(), Registry(), None, job.id)
    assert outside.exists()


def test_a_live_versions_run_stays_and_the_reason_is_said(home: Path) -> None:
    run = folder(home / "runs" / "one")
    (run / "manifest.json").write_text("{}")
    Registry().add(NAME, 1, run="runs/one")
    Registry().promote(NAME, 1)
    job = done("retrain", RunOpened(str(run), resumed=False))
    found = job_runs.removal(Queue(), Registry(), job.id)
    assert found.version and f"{NAME}:v1 was made by it, and" in job_runs.why_kept(found)
    assert job_runs.why_kept(job_runs.removal(Queue(), Registry(), done("sweep").id)) == ""


def test_a_job_that_is_not_over_stays(home: Path) -> None:
    with listed("sweep", SweepRequest()):
        (job,) = store.find()
        with pytest.raises(Busy, match="is running: stop it"):
            job_runs.removal(Queue(), Registry(), job.id)


def test_a_sweep_that_is_stopped_and_thrown_away_leaves_nothing(home: Path) -> None:
    """It is removed when the job ends, unless an earlier sweep's trials are in the same study."""
    from fine_tuning.jobs.queue import end

    for name, earlier in (("fresh", False), ("old", True)):
        study = folder(home / "sweeps" / name)
        if earlier:
            done("sweep", RunOpened(str(study), resumed=False))
        job = store.add("sweep", SweepRequest().record(), here=processes.this_process())
        store.set_run(job, str(study))
        store.ask_to_stop(job.id, 30.0, discard=True)
        end(store.get(job.id), State.CANCELLED, "cancelled", 0)
        assert study.exists() == earlier
