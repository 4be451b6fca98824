"""Jobs done by real workers: begun, watched, stopped, killed, gone on with. However they end, the table says so."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import small_worker
from timing import in_time, seconds
from waiting import PATIENCE, counted, wait_for

from fine_tuning.errors import ByoaiError, Cancelled, ConfigError
from fine_tuning.events import Finished, Note, Watch, read_events
from fine_tuning.jobs import processes, store
from fine_tuning.jobs.doing import listed
from fine_tuning.jobs.processes import MARK, Process, is_alive, marked, this_process
from fine_tuning.jobs.queue import Queue, settle
from fine_tuning.jobs.store import Job, State, mark_of
from fine_tuning.runs import started

LONG: dict[str, Any] = {"counts": 10_000, "pause": 0.01}


def begun(queue: Queue, job: Job, count: int = 1) -> Job:
    """The job, once it has counted so far."""
    wait_for(lambda: counted(job) >= count or store.get(job.id).over, what=f"{job.id} at {count}")
    return store.get(job.id)


def test_a_job_is_done_and_leaves_its_events_its_log_its_result_and_its_end(queue: Queue) -> None:
    job = queue.wait(queue.submit("small", {"counts": 3, "says": "hello"}).id, PATIENCE)
    assert (job.state, job.exit_code, job.reason) == (State.COMPLETED, 0, "counted to 3")
    assert [number for number, _ in read_events(job.events)] == [1, 2, 3, 4]
    assert isinstance(read_events(job.events)[-1][1], Finished)
    assert job.log.read_text() == "hello\n" and json.loads(job.result.read_text())["counted"] == 3
    assert job.process and not is_alive(job.process, job.mark)
    assert {job.events.stat().st_mode & 0o777, job.log.stat().st_mode & 0o777} == {0o600}


def test_the_worker_leads_a_session_of_its_own_and_carries_its_mark(queue: Queue) -> None:
    job = begun(queue, queue.submit("small", LONG))
    assert job.process
    pid = job.process.pid
    assert os.getsid(pid) == os.getpgid(pid) == pid != os.getsid(0)
    assert psutil.Process(pid).environ()[MARK] == job.mark and job.owner == this_process()

    def beat() -> None:
        first = store.get(job.id).heartbeat
        wait_for(lambda: store.get(job.id).heartbeat != first, what="a heartbeat")

    in_time(lambda: seconds(beat, time.monotonic), 12)


@pytest.mark.parametrize(
    ("request_", "state", "code", "reason"),
    [
        ({"fails": "no such thing: get one"}, State.FAILED, 1, "no such thing: get one"),
        ({"fails": "the key is sk-abcdefghijklmnop1234567890ABCD"}, State.FAILED, 1, "the key is [SECRET]"),
        ({"ends": "exit", "says": "its last words"}, State.FAILED, 3, "ended with exit code 3"),
        ({"ends": "SIGKILL"}, State.INTERRUPTED, -9, "was killed"),
        ({"ends": "SIGSEGV"}, State.FAILED, -11, "crashed (SIGSEGV)"),
        ({"ends": "SIGTERM", "counts": 100}, State.INTERRUPTED, 130, "was told to end (SIGTERM)"),
    ],
)
def test_however_it_ends_the_table_says_why_in_words(
    queue: Queue, request_: dict[str, Any], state: State, code: int, reason: str
) -> None:
    job = queue.wait(queue.submit("small", request_).id, PATIENCE)
    assert (job.state, job.exit_code) == (state, code), job
    assert reason in job.reason or job.reason in request_.get("says", "?")


@pytest.mark.parametrize(
    ("kind", "request_", "said"),
    [
        ("nonesuch", {}, "no job of the kind 'nonesuch'"),
        ("small", {"count": 3}, "count: Extra inputs"),
        ("small", {"counts": "many"}, "counts: Input should be"),
        ("small", {"config": {"training": {"num_epochs": -1}}}, "config.training.num_epochs"),
        ("small", {"config": {"epochs": -1}}, "config.epochs"),
        ("train", {}, "names no dataset"),
        ("compare", {}, "prompts: Field required"),
        ("pull", {"model": ""}, "model: String should"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_at_once(
    queue: Queue, kind: str, request_: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        queue.submit(kind, request_)
    assert not store.find()


def test_a_worker_that_cannot_even_begin_fails_with_its_last_line(queue: Queue) -> None:
    broken = Queue((sys.executable, "-c", "raise SystemExit('no such module: torch')"))
    job = broken.wait(broken.submit("small").id, PATIENCE)
    assert (job.state, job.exit_code, job.reason) == (State.FAILED, 1, "no such module: torch")
    nothing = Queue(("/no/such/python",))
    assert "could not be started" in nothing.submit("small").reason


def test_a_lost_reply_never_starts_two(queue: Queue) -> None:
    asked = [queue.submit("small", LONG, id="client-made") for _ in range(3)]
    assert {job.id for job in asked} == {"client-made"} and len(store.find()) == 1
    wait_for(lambda: marked(mark_of("client-made", 1)))
    assert len(marked(mark_of("client-made", 1))) == 1


def test_the_next_begins_when_one_ends_also_without_a_server(queue: Queue, tmp_path: Path) -> None:
    until = tmp_path / "go"
    asked = ({"counts": 2, "pause": 0.1 + n / 1000, "until": str(until)} for n in range(3))
    first, second, third = (queue.submit("small", request, priority=n) for n, request in enumerate(asked))
    assert [store.get(job.id).state for job in (first, second, third)] == [State.RUNNING, State.QUEUED, State.QUEUED]
    until.touch()
    # nobody tends the queue but the workers
    wait_for(lambda: all(store.get(job.id).over for job in (first, second, third)))
    ends = [store.get(job.id) for job in (first, third, second)]
    assert all(job.state == State.COMPLETED for job in ends) and ends[1].begun and ends[2].begun
    assert ends[1].begun >= (ends[0].ended or 0) and ends[2].begun >= (ends[1].ended or 0)


# Stop


def test_it_stops_at_its_next_safe_point_and_is_gone_on_with(queue: Queue, home: Path) -> None:
    until = home / "go"

    def stopped(id: str) -> float:
        request = {**LONG, "counts": 80, "run": str(home / "runs" / id), "until": str(until)}
        begun(queue, queue.submit("small", request, id=id), 5)
        asked = time.monotonic()
        queue.cancel(id)
        job = queue.wait(id, PATIENCE)
        assert job.state == State.CANCELLED and job.exit_code == Cancelled.exit_code
        return time.monotonic() - asked

    ids = (f"r{number}" for number in range(1, 4))
    in_time(lambda: stopped(next(ids)), 3)
    job = store.find(limit=1)[0]
    assert job.run == str(home / "runs" / job.id) and Path(job.run).exists()
    until.touch()
    reached = counted(job)
    job = queue.wait(queue.resume(job.id).id, PATIENCE)
    assert job.state == State.COMPLETED and job.attempt == 2
    assert json.loads(job.result.read_text())["from"] >= reached - 1  # what was done was not done again
    numbers = [number for number, _ in read_events(job.events)]
    assert numbers == list(range(1, len(numbers) + 1))  # one sequence, whatever attempt


def test_what_it_made_is_discarded_if_that_is_asked_for(queue: Queue, home: Path) -> None:
    for discard in (False, True):
        run = home / "runs" / f"r-{discard}"
        job = begun(queue, queue.submit("small", {**LONG, "run": str(run)}))
        queue.cancel(job.id, discard=discard)
        assert queue.wait(job.id, PATIENCE).state == State.CANCELLED
        wait_for(lambda run=run, discard=discard: run.exists() != discard)


def test_nothing_finished_and_nothing_outside_is_discarded(queue: Queue, home: Path, tmp_path: Path) -> None:
    finished = home / "runs" / "done"
    finished.mkdir(parents=True)
    (finished / "manifest.json").write_text("{}")
    job = begun(queue, queue.submit("small", {**LONG, "run": str(finished)}))
    queue.cancel(job.id, discard=True)
    assert queue.wait(job.id, PATIENCE).over and finished.exists()
    outside = tmp_path / "elsewhere"
    job = begun(queue, queue.submit("small", {**LONG, "run": str(outside)}))
    queue.cancel(job.id, discard=True)
    assert queue.wait(job.id, PATIENCE).over and outside.exists()


@pytest.mark.parametrize("leaves_group", [False, True])
@pytest.mark.parametrize("deaf", [False, True])
def test_all_that_it_started_ends_with_it(queue: Queue, deaf: bool, leaves_group: bool) -> None:
    def ended() -> float:
        job = queue.submit("small", {**LONG, "deaf": deaf, "children": 2, "leaves_group": leaves_group})
        wait_for(lambda: len(marked(job.mark)) == 5, what="two children and their children")
        asked = time.monotonic()
        queue.cancel(job.id, grace=1.0 if deaf else PATIENCE)
        job = queue.wait(job.id, PATIENCE)
        wait_for(lambda: not marked(job.mark), what="the end of all")
        assert job.state == State.CANCELLED and ("was killed" in job.reason) == deaf
        return time.monotonic() - asked

    in_time(ended, 8)


@pytest.mark.parametrize("change", [0, -3600])
def test_a_worker_that_is_frozen_is_ended_by_whoever_tends_the_queue(
    queue: Queue, change: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the clock is set back meanwhile."""
    job = begun(queue, queue.submit("small", {**LONG, "children": 1}))
    assert job.process
    os.kill(job.process.pid, signal.SIGSTOP)
    queue.cancel(job.id, grace=0.2)
    told = time.time
    monkeypatch.setattr(time, "time", lambda: told() + change)
    assert queue.wait(job.id, 10).state == State.CANCELLED and not marked(job.mark)


def test_one_that_waits_is_cancelled_without_a_process(queue: Queue) -> None:
    queue.submit("small", LONG)
    waiting = queue.submit("small", {**LONG, "says": "second"})
    assert queue.cancel(waiting.id).state == State.CANCELLED and not waiting.folder.exists()


def test_it_is_tried_again_as_another_job(queue: Queue) -> None:
    job = queue.wait(queue.submit("small", {"fails": "now"}).id, PATIENCE)
    again = queue.retry(job.id)
    assert again.id != job.id and again.retry_of == job.id and again.request == job.request
    with pytest.raises(ConfigError, match="when it is over"):
        queue.retry(begun(queue, queue.submit("small", LONG)).id)


# Crashes


def test_a_worker_that_is_killed_is_interrupted_within_two_seconds_and_leaves_no_child(queue: Queue) -> None:
    def killed() -> float:
        job = begun(queue, queue.submit("small", {**LONG, "children": 2}))
        wait_for(lambda: len(marked(job.mark)) == 5)
        assert job.process
        os.kill(job.process.pid, signal.SIGKILL)
        died = time.monotonic()
        wait_for(lambda: queue.get(job.id).state == State.INTERRUPTED)
        assert not marked(job.mark)
        return time.monotonic() - died

    in_time(killed, 2)


SERVER = textwrap.dedent(
    """
    import sys, threading
    sys.path.insert(0, {tests!r})
    import small_worker
    from fine_tuning.jobs.queue import Queue
    small_worker.register()
    queue = Queue()
    job = queue.submit("small", {request!r}, id={id!r}, detached={detached!r}) if {id!r} else None
    queue.run(threading.Event())
    """
)


def server(id: str, request: dict[str, Any], *, detached: bool = False) -> "subprocess.Popen[bytes]":
    """A process that owns a queue, and begins a job."""
    code = SERVER.format(tests=str(Path(small_worker.__file__).parent), request=request, id=id, detached=detached)
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)


@pytest.mark.parametrize("detached", [False, True])
def test_the_child_ends_with_its_server_unless_it_was_detached(queue: Queue, detached: bool) -> None:
    owner = server("owned", {**LONG, "children": 1}, detached=detached)
    wait_for(lambda: len(marked(mark_of("owned", 1))) == 3)
    owner.kill()
    owner.wait()
    if detached:
        time.sleep(2)
        job = store.get("owned")  # as it stands, without anybody who looks after it
        assert job.state == State.RUNNING and len(marked(mark_of("owned", 1))) == 3
    else:
        wait_for(lambda: store.get("owned").over and not marked(mark_of("owned", 1)))
        job = store.get("owned")
        assert job.state == State.INTERRUPTED and "server" in job.reason
        assert queue.resume("owned").state == State.RUNNING


def test_after_a_reboot_what_ran_is_interrupted_and_what_waited_begins(queue: Queue) -> None:
    def looked() -> float:
        ran, waited = store.add("small", {"counts": 1}), store.add("small", {"counts": 1}, detached=True)
        claimed = store.claim(Process(999_999, 1.0), 1, 1)
        assert claimed and claimed.id == ran.id and store.enter(claimed, Process(999_998, 1.0))
        began = time.monotonic()
        assert queue.get(ran.id).state == State.INTERRUPTED
        took = time.monotonic() - began
        assert queue.wait(waited.id, PATIENCE).state == State.COMPLETED
        return took

    in_time(looked, 2)


def test_a_job_that_was_claimed_and_never_begun_is_given_back(queue: Queue) -> None:
    job = store.add("small", {"counts": 1}, detached=True)
    assert store.claim(Process(999_999, 1.0), 1, 1)
    assert queue.wait(job.id, PATIENCE).state == State.COMPLETED and store.get(job.id).attempt == 2


def test_a_number_that_was_given_again_is_not_ours(queue: Queue) -> None:
    """A stranger, who leads a group with a child, has the number that the worker had."""
    code = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; "
        "time.sleep(1000)']); time.sleep(1000)"
    )
    environment = {key: value for key, value in os.environ.items() if key != MARK}
    stranger = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, env=environment)
    wait_for(lambda: psutil.Process(stranger.pid).children())
    child = psutil.Process(stranger.pid).children()[0]
    try:
        for state in (State.RUNNING, State.CANCELLING):
            job = store.add("small", {"n": str(state)})
            claimed = store.claim(this_process(), 1, 1)
            assert claimed and store.enter(claimed, Process(stranger.pid, started(psutil.Process(stranger.pid)) - 3600))
            if state == State.CANCELLING:
                store.ask_to_stop(job.id, 0)
                processes.ask(store.get(job.id))
            settle()
            assert store.get(job.id).state == (State.CANCELLED if state == State.CANCELLING else State.INTERRUPTED)
        assert stranger.poll() is None and child.is_running()
    finally:
        child.kill()
        stranger.kill()
        stranger.wait()


def test_a_job_of_the_same_id_in_another_data_folder_is_not_ours(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = begun(queue, queue.submit("small", LONG, id="same"))
    mine = processes.this_process()
    with monkeypatch.context() as patch:
        patch.setenv("BYOAI_HOME", str(tmp_path / "another"))
        begun(queue, queue.submit("small", LONG, id="same"))
        queue.cancel("same", grace=0)
        assert queue.wait("same", PATIENCE).state == State.CANCELLED
    assert store.get("same").state == State.RUNNING and store.get("same").owner == mine
    assert other.process and is_alive(other.process, other.mark)


def test_a_process_that_only_waits_to_be_buried_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    wait_for(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert not is_alive(Process(child.pid, started(psutil.Process(child.pid))))
    child.wait()


# Done by a program itself


def small_request(**more: Any) -> Any:
    return small_worker.SmallRequest(**more)


def test_work_of_a_program_is_listed_while_it_runs_and_how_it_ended_after_it(queue: Queue) -> None:
    with listed("small", small_request()) as watch:
        watch.note("working")
        (job,) = queue.jobs()
        assert job.state == State.RUNNING and job.here and job.process == this_process()
        assert read_events(job.events) == [(1, Note("working"))]
        other = queue.submit("small", {"counts": 1})
        assert other.state == State.QUEUED  # one heavy job at a time
    assert queue.get(job.id).state == State.COMPLETED
    assert queue.wait(other.id, PATIENCE).state == State.COMPLETED


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (ByoaiError("wrong: do it right"), State.FAILED, "wrong: do it right"),
        (Cancelled("stopped"), State.CANCELLED, "stopped"),
        (KeyboardInterrupt(), State.INTERRUPTED, "ended before it was done"),
        (OSError(28, "No space left on device", "/data/x"), State.FAILED, "the disk is full (/data/x)"),
        (MemoryError(), State.FAILED, "not enough memory"),
        (ZeroDivisionError("division"), State.FAILED, "ZeroDivisionError: division"),
    ],
)
def test_what_it_raises_is_raised_on_and_noted(queue: Queue, error: BaseException, state: State, said: str) -> None:
    with pytest.raises(type(error)), listed("small", small_request()):
        raise error
    (job,) = store.find()
    assert job.state == state and said in job.reason
    assert isinstance(read_events(job.events)[-1][1], Finished)


def test_it_is_asked_to_stop_and_never_killed(queue: Queue) -> None:
    stopped = threading.Event()

    def work() -> None:
        with pytest.raises(Cancelled), listed("small", small_request()) as watch:
            for number in range(100_000):
                watch.count(number, 100_000)
                time.sleep(0.01)
        stopped.set()

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: store.find(states=(State.RUNNING,)))
    (job,) = queue.jobs()
    queue.cancel(job.id, grace=0)
    settle()
    assert stopped.wait(PATIENCE) and queue.get(job.id).state == State.CANCELLED
    thread.join()


def test_a_program_that_is_killed_leaves_an_interrupted_job(queue: Queue, home: Path) -> None:
    code = textwrap.dedent(
        f"""
        import sys, time
        sys.path.insert(0, {str(Path(small_worker.__file__).parent)!r})
        import small_worker
        from fine_tuning.jobs.doing import listed
        small_worker.register()
        with listed("small", small_worker.SmallRequest(counts=2)) as watch:
            time.sleep(1000)
        """
    )
    program = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: store.find(states=(State.RUNNING,)))
    (job,) = store.find()
    program.kill()
    program.wait()
    assert queue.get(job.id).state == State.INTERRUPTED
    assert queue.wait(queue.resume(job.id).id, PATIENCE).state == State.COMPLETED  # by a worker now


def test_a_watch_that_was_given_is_still_told_and_can_still_stop_it(queue: Queue) -> None:
    told: list[Any] = []
    with pytest.raises(Cancelled), listed("small", small_request(), Watch(told.append, lambda: bool(told))) as watch:
        watch.note("first")
        watch.stop_if_asked()
    assert told[0] == Note("first") and isinstance(told[-1], Finished)
    assert store.find()[0].state == State.CANCELLED
