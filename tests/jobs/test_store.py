"""The table of jobs: what is asked for, who gets it, and how it stands."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from fine_tuning import paths, state
from fine_tuning.errors import ByoaiError, ConfigError, JobNotFound
from fine_tuning.jobs import store
from fine_tuning.jobs.processes import this_process
from fine_tuning.jobs.store import Process, State

FORK = multiprocessing.get_context("fork")
ME = this_process()


def test_a_job_asked_for_twice_with_one_id_is_one(home: Path) -> None:
    first = store.add("small", {"counts": 3}, id="mine")
    assert store.add("small", {"counts": 3}, id="mine") == first and len(store.find()) == 1
    for kind, request in (("small", {"counts": 4}), ("light", {"counts": 3})):
        with pytest.raises(ConfigError, match="another request"):
            store.add(kind, request, id="mine")


@pytest.mark.parametrize("id", ["../x", "a/b", ".hidden", "", " ", "a\0b", "x" * 101, "..", "a\\b", "CON:"])
def test_an_id_that_cannot_be_a_folder_is_refused(home: Path, id: str) -> None:
    if not id:
        assert store.add("small", {}, id=id).id  # none was given
        return
    with pytest.raises(ByoaiError, match="cannot be used as a name"):
        store.add("small", {}, id=id)
    assert not store.find()


def test_who_asks_for_a_job_that_is_not_there_is_told(home: Path) -> None:
    for ask in (store.get, lambda id: store.ask_to_stop(id, 1), lambda id: store.requeue(id, detached=True)):
        with pytest.raises(JobNotFound, match="no job 'nobody'"):
            ask("nobody")


def test_one_heavy_job_at_a_time_by_priority_then_by_age(home: Path) -> None:
    ids = [store.add("small", {"n": n}, priority=priority).id for n, priority in enumerate((0, 5, 0, 5, -1))]
    begun = []
    while (job := store.claim(ME, 1, 1)) is not None:
        assert store.claim(ME, 1, 1) is None
        begun.append(job.id)
        store.finish(job, State.COMPLETED, "")
    assert begun == [ids[n] for n in (1, 3, 0, 2, 4)]


def test_a_clock_that_is_set_back_changes_neither_the_order_of_jobs_nor_which_are_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store.add("small", {})
    monkeypatch.setattr(time, "time", lambda: first.created - 3600)
    second = store.add("small", {})
    for job in (first, second):
        assert store.claim(ME, 1, 1).id == job.id  # type: ignore[union-attr]
        store.finish(job, State.COMPLETED, "")
    assert store.remove_old(1) == [first.id]


def test_light_jobs_begin_beside_a_heavy_one(home: Path) -> None:
    store.add("small", {})
    store.add("light", {}, heavy=False)
    assert [job.kind for job in (store.claim(ME, 1, 1), store.claim(ME, 1, 1)) if job] == ["small", "light"]
    store.add("light", {}, heavy=False)
    assert store.claim(ME, 1, 1) is None


def _claim_all(home: str, start: float, taken: "multiprocessing.SimpleQueue[str]") -> None:
    os.environ["BYOAI_HOME"] = home
    time.sleep(max(start - time.time(), 0))
    while (job := store.claim(this_process(), 1000, 1000)) is not None:
        taken.put(job.id)


def test_of_several_processes_that_claim_at_once_each_job_is_given_to_one(home: Path) -> None:
    ids = {store.add("small", {"n": n}).id for n in range(40)}
    taken = FORK.SimpleQueue()
    claimers = [FORK.Process(target=_claim_all, args=(str(home), time.time() + 0.2, taken)) for _ in range(4)]
    for each in claimers:
        each.start()
    for each in claimers:
        each.join(60)
    got = [taken.get() for _ in range(40)]
    assert set(got) == ids and len(got) == 40 and taken.empty()
    assert all(job.state == State.RUNNING for job in store.find())


def test_only_the_attempt_that_runs_says_how_it_ended(home: Path) -> None:
    job = store.add("small", {})
    first = store.claim(ME, 1, 1)
    assert first and store.enter(first, ME) and not store.enter(first, Process(1, 1.0))
    assert store.finish(first, State.INTERRUPTED, "killed")
    assert not store.finish(first, State.COMPLETED, "done after all")
    store.requeue(job.id, detached=True)
    second = store.claim(ME, 1, 1)
    assert second and second.attempt == 2 and second.mark != first.mark
    assert not store.finish(first, State.FAILED, "late") and not store.enter(first, ME)
    assert store.get(job.id).state == State.RUNNING


@pytest.mark.parametrize("ended", [State.CANCELLED, State.FAILED, State.INTERRUPTED, State.COMPLETED])
def test_what_is_not_completed_can_be_resumed(home: Path, ended: State) -> None:
    job = store.add("small", {})
    claimed = store.claim(ME, 1, 1)
    with pytest.raises(ConfigError, match="is running"):
        store.requeue(job.id, detached=False)
    assert claimed and store.finish(claimed, ended, "why", 1)
    if ended == State.COMPLETED:
        with pytest.raises(ConfigError, match="is completed"):
            store.requeue(job.id, detached=False)
        return
    again = store.requeue(job.id, detached=False)
    assert (again.state, again.reason, again.exit_code, again.process, again.ended) == (
        State.QUEUED,
        "",
        None,
        None,
        None,
    )


def test_one_that_waits_is_cancelled_at_once_and_one_that_is_over_stays_as_it_is(home: Path) -> None:
    job = store.add("small", {})
    assert store.ask_to_stop(job.id, 5).state == State.CANCELLED
    assert store.ask_to_stop(job.id, 5, discard=True) == store.get(job.id)
    assert store.claim(ME, 1, 1) is None


def test_jobs_are_listed_newest_first_by_state_kind_and_page(home: Path) -> None:
    ids = [store.add(kind, {"n": n}).id for n, kind in enumerate(("small", "light", "small"))]
    assert [job.id for job in store.find()] == ids[::-1]
    assert [job.id for job in store.find(kinds=("small",))] == [ids[2], ids[0]]
    assert [job.id for job in store.find(states=(State.RUNNING,))] == []
    assert [job.id for job in store.find(states=())] == []
    newest = store.find(limit=1)[0]
    assert [job.id for job in store.find(before=newest.created)] == ids[1::-1]


def test_only_the_newest_that_are_over_are_kept(home: Path) -> None:
    jobs = [store.add("small", {"n": n}) for n in range(5)]
    for job in jobs[:4]:
        store.ask_to_stop(job.id, 1)
    assert set(store.remove_old(kept=2)) == {job.id for job in jobs[:2]}
    assert {job.id for job in store.find()} == {job.id for job in jobs[2:]}


def test_a_table_of_before_jobs_gets_theirs(home: Path) -> None:
    """Migrations add; what is there stays."""
    file = paths.state_db()
    before = state.MIGRATIONS[:3]
    with pytest.MonkeyPatch.context() as patch, state.connect(file) as connection:
        patch.setattr(state, "MIGRATIONS", before)
        assert connection.execute("SELECT count(*) FROM votes").fetchone()[0] == 0
    assert store.add("small", {}).id in {job.id for job in store.find()}
