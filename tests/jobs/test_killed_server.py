"""A server and its workers, killed again and again while clients use them: nothing that was acknowledged is lost."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import small_worker
from ports import unused_port
from small_training import SMALL, log_doors
from timing import seconds
from waiting import PATIENCE, wait_for

from fine_tuning.api.security import TOKEN_HEADER, Token
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.default_base import CHATML, DEFAULT_TAG
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.events import read_events
from fine_tuning.jobs import store
from fine_tuning.jobs.processes import MARK, is_alive
from fine_tuning.jobs.queue import Queue
from fine_tuning.jobs.store import Job, State
from fine_tuning.model_management.model_registry import Registry

KILLS = int(os.environ.get("BYOAI_TEST_MOMENTS", "6"))  # of the server, a worker, and both in turn
KILLS_IN_TRAINING = max(KILLS // 2, 1)  # after each of them a training loads all modules again
LATEST = 0.8  # seconds after a server's start, or its first answer, within which something is killed
EVENTS = 15  # most events that a training tells before it is killed again
TUNED = "fine_tuned_smollm2-135m"
SERVER = textwrap.dedent(
    """
    import sys
    sys.path.insert(0, {tests!r})
    import small_worker
    small_worker.register()
    from fine_tuning.api.background import serve
    from fine_tuning.api.security import Access
    from fine_tuning.config import load_config
    serve(Access({port}), load_config(overrides={settings!r}))
    """
)


class Server:
    """A real server of the API, started again on the same port after each kill."""

    def __init__(self, **settings: object) -> None:
        self.port, self.settings = unused_port(), settings
        self.start()

    def start(self) -> None:
        tests = str(Path(small_worker.__file__).parent)
        code = SERVER.format(tests=tests, port=self.port, settings=self.settings)
        self.process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)

    def started(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)


@dataclass
class Clients:
    """Clients that ask, rate, start jobs and change versions, and note what the server has acknowledged.

    What a request may have changed without an acknowledgement is not noted.
    """

    http: httpx.Client
    asked: dict[str, str] = field(default_factory=dict)  # answers by question
    rated: dict[str, str] = field(default_factory=dict)  # ratings by turn id
    jobs: dict[str, str] = field(default_factory=dict)  # the last known states by job id
    notes: dict[int, str] = field(default_factory=dict)  # notes by version
    pinned: dict[int, bool] = field(default_factory=dict)  # whether a version is pinned
    live: int | None = 1  # the version in use; None if the last request to change it was not acknowledged
    rolled_back: int = 0
    faults: list[str] = field(default_factory=list)

    def ask(self) -> None:
        question = f"What is in drawer{time.monotonic_ns()}"
        told = {"model": "live", "messages": [{"role": "user", "content": question}], "max_tokens": 4}
        answer = self._send("POST", "/v1/chat/completions", told)["choices"][0]["message"]["content"]
        if answer.strip():  # an empty answer is not recorded
            self.asked[question] = answer

    def rate(self) -> None:
        if not self.asked:
            return
        question, rating = random.choice(list(self.asked)), random.choice(("up", "down"))
        (turn,) = self._send("GET", f"/api/turns?text={question.split()[-1]}")["items"]
        self.rated.pop(turn["id"], None)
        self._send("PUT", f"/api/turns/{turn['id']}/rating", {"rating": rating})
        self.rated[turn["id"]] = rating

    def use_jobs(self) -> None:
        """Keep one job at work: look at it, resume it when it was interrupted, and start the next when it is done."""
        detached = {"detached": len(self.jobs) % 2 == 0}
        if not self.jobs or list(self.jobs.values())[-1] == State.COMPLETED:
            id = f"job-{len(self.jobs)}"
            request = {"counts": 40, "pause": 0.02, "children": 1, "registers": TUNED, "run": run_of(id)}
            self._send("POST", "/api/jobs", {"kind": "small", "id": id, "request": request, **detached})
            self.jobs[id] = State.QUEUED
        id = list(self.jobs)[-1]
        self.jobs[id] = self._send("GET", f"/api/jobs/{id}")["state"]
        if self.jobs[id] == State.INTERRUPTED:
            self._send("POST", f"/api/jobs/{id}/resume", detached)

    def change_versions(self) -> None:
        number, text, pinned = random.choice((1, 2)), f"noted at {time.monotonic_ns()}", random.random() < 0.5
        self.notes.pop(number, None)
        self.pinned.pop(number, None)
        self._send("PATCH", f"/api/versions/{TUNED}/{number}", {"notes": text, "pinned": pinned})
        self.notes[number], self.pinned[number] = text, pinned
        before, self.live = self.live, None
        if random.random() < 0.5:
            self._send("POST", f"/api/versions/{TUNED}/{number}/use", {})
            self.live = number
        else:
            back = self._send("POST", f"/api/versions/{TUNED}/rollback", {})["live"]["number"]
            assert back in (1, 2) and back != before, f"rolled back from {before} to {back}"
            self.live, self.rolled_back = back, self.rolled_back + 1

    def _send(self, method: str, path: str, told: dict[str, Any] | None = None) -> Any:
        answer = self.http.request(method, path, json=told)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        ended = threading.Event()

        def keep_on(act: Callable[[], None]) -> None:
            while not ended.wait(0.05):
                try:
                    act()
                except httpx.TransportError:  # the server is down
                    continue
                except Exception as error:  # noqa: BLE001 (the test reports it)
                    self.faults.append(f"{act.__name__}: {error!r}")

        acts = (self.ask, self.rate, self.use_jobs, self.change_versions)
        threads = [threading.Thread(target=keep_on, args=(act,)) for act in acts]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join(PATIENCE)

    def lost(self) -> list[str]:
        """What was acknowledged and is not in the files. No server must be running."""
        asked, rated, jobs, notes = map(dict, (self.asked, self.rated, self.jobs, self.notes))
        pinned, used = dict(self.pinned), self.live
        turns = {turn.id: turn for turn in ConversationLogger().turns()}
        answers = {turn.user_message: turn.bot_response for turn in turns.values()}
        versions, live = Registry().list(TUNED), Registry().live(TUNED)
        now = {each.number: each for each in versions}
        engine = EmbeddedEngine(Path(os.environ["BYOAI_HOME"], "engine"))
        tags = {model.tag: model.digest for model in engine.list_models()}
        made = {each.notes for each in versions if each.tag in tags}
        states = {job.id: job.state for job in store.find(limit=1000)}
        completed = [id for id, state in jobs.items() if state == State.COMPLETED]
        return [
            *(question for question, answer in asked.items() if answers.get(question) != answer),
            *(f"rating of {id}" for id, rating in rated.items() if turns[id].metadata.get("rating") != rating),
            *(id for id in jobs if id not in states),
            *(f"end of {id}" for id in completed if states[id] != State.COMPLETED),
            *(f"version of {id}" for id in completed if run_of(id) not in made),
            *(f"notes of {number}" for number, text in notes.items() if now[number].notes != text),
            *(f"pin of {number}" for number, is_pinned in pinned.items() if now[number].pinned != is_pinned),
            *([f"use of {used}"] if used and (live is None or live.number != used) else []),
            *([f"tag of {used}"] if used and tags[f"{TUNED}:latest"] != tags[f"{TUNED}:v{used}"] else []),
        ]


def run_of(id: str) -> str:
    return f"{os.environ['BYOAI_HOME']}/runs/{id}"


def all_true() -> bool:
    """Whether the table says of each job what is the case: it runs, or nothing of it is alive."""
    jobs, alive = Queue().jobs(), set[str]()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.add(process.environ().get(MARK, "").partition(":")[0])
    return all(is_alive(job.process, job.mark) if job.active and job.process else job.id not in alive for job in jobs)


def workers() -> list[Job]:
    return [job for job in store.find(store.ACTIVE) if job.process and is_alive(job.process, job.mark)]


def is_left(process: psutil.Process) -> bool:
    """Whether a process that a killed server started is alive and belongs to no job that goes on."""
    try:
        mark = process.environ().get(MARK, "")
        alive = process.status() != psutil.STATUS_ZOMBIE
        return alive and mark not in {job.mark for job in store.find(store.ACTIVE)}
    except psutil.Error:
        return False


Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server with these settings. It is killed after the test, if it has not ended."""
    servers: list[Server] = []

    def start(**settings: object) -> Server:
        servers.append(Server(**settings))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def clients(queue: Queue, embedded: None, small_base: Path, home: Path) -> Iterator[Clients]:
    """Clients of a server whose model answers fast, with a version in use, and one that was before it."""
    engine, registry = EmbeddedEngine(home / "engine"), Registry()
    engine.create(DEFAULT_TAG, ModelSpec(small_base, template=CHATML, parameters={"stop": ["<|im_end|>"]}))
    for number in (1, 2):
        tag = registry.add(TUNED, number, base_tag=DEFAULT_TAG).tag
        engine.create(tag, ModelSpec(DEFAULT_TAG, parameters={"seed": number}))
    for number in (2, 1):
        registry.promote(TUNED, number)
    engine.copy(f"{TUNED}:v1", f"{TUNED}:latest")
    headers = {TOKEN_HEADER: Token().read(), "X-Byoai-Record": "on"}
    with httpx.Client(headers=headers, timeout=PATIENCE) as http:
        yield Clients(http)


@pytest.mark.slow
def test_whatever_is_killed_at_any_moment_nothing_that_was_acknowledged_is_lost(clients: Clients, serve: Serve) -> None:
    chance, true_after = random.Random(20), list[float]()
    server = serve()
    clients.http.base_url = httpx.URL(f"http://127.0.0.1:{server.port}")
    with clients.at_work():
        for number in range(KILLS):
            victims = ("server", "worker", "both")[number % 3]
            if number % 4:  # else a server may be killed while it starts
                known = len(clients.asked)
                wait_for(lambda known=known: len(clients.asked) > known, what="an answer of the live model")
            if victims != "server":
                wait_for(workers, what="a worker")
            time.sleep(chance.uniform(0, LATEST))
            children, begun = server.started(), workers()
            if victims != "worker":
                server.kill()
            for job in begun if victims != "server" else ():
                with suppress(ProcessLookupError):
                    assert job.process
                    os.kill(job.process.pid, signal.SIGKILL)
            true_after.append(seconds(lambda: wait_for(all_true, what="a true table"), time.monotonic))
            if victims != "worker":
                assert clients.lost() == []
                wait_for(lambda children=children: not any(map(is_left, children)), what="the end of the children")
                server.start()
        wait_for(lambda: len(clients.jobs) > 2 and clients.rolled_back, what="enough work")
        wait_for(lambda: list(clients.jobs.values())[-1] == State.COMPLETED, what="the end of the jobs")
    children = server.started()
    server.end()
    assert (clients.lost(), clients.faults) == ([], [])
    wait_for(lambda: all_true() and not any(map(is_left, children)), what="the end of all")
    for job in store.find(limit=1000):
        events = [number for number, _ in read_events(job.events)]
        assert events == list(range(1, len(events) + 1))
    assert len(clients.asked) > KILLS and clients.rated and clients.notes and clients.pinned
    assert sorted(true_after)[-3] < 2.5, true_after  # the machine may stand still for a moment


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_training_that_is_killed_at_any_moment_goes_on_and_makes_one_version_of_all_turns(
    clients: Clients, serve: Serve, known_machine: None
) -> None:
    chance, http, training = random.Random(20), clients.http, "/api/jobs/training"
    log_doors(12)
    turns = {turn.id for turn in ConversationLogger().turns()}
    server = serve(**SMALL, **{"training.num_epochs": 6, "training.save_steps": 1})
    http.base_url = httpx.URL(f"http://127.0.0.1:{server.port}")

    def state() -> str:
        with suppress(httpx.TransportError):
            return str(http.get(training).json().get("state", "none"))
        return "no server"

    def go_on(number: int) -> str:
        """Start the training if it is not known, resume it if it was interrupted; return its state."""
        detached = {"detached": number % 2 == 0}
        wait_for(lambda: state() != "no server", what="a server")
        if state() == "none":
            asked = {"kind": "retrain", "id": "training", "request": {"force": True, "promote": True}, **detached}
            assert http.post("/api/jobs", json=asked).status_code == 201
        if state() == State.INTERRUPTED:
            assert http.post(f"{training}/resume", json=detached).is_success
        return state()

    def told() -> int:
        return max((number for number, _ in read_events(store.get("training").events)), default=0)

    for number in range(KILLS_IN_TRAINING):
        victims = ("worker", "server", "both")[number % 3]
        wait_for(lambda number=number: go_on(number) == State.COMPLETED or workers(), what="a worker")
        wanted = told() + chance.randint(0, EVENTS)
        wait_for(lambda wanted=wanted: told() >= wanted or not workers(), what="what is told")
        time.sleep(chance.uniform(0, LATEST))
        begun, children = workers(), server.started()
        if victims != "worker":
            server.kill()
        for job in begun if victims != "server" else ():
            with suppress(ProcessLookupError):
                assert job.process
                os.kill(job.process.pid, signal.SIGKILL)
        wait_for(all_true, what="a true table")
        if victims != "worker":
            wait_for(lambda children=children: not any(map(is_left, children)), what="the end of the children")
            server.start()
    wait_for(
        lambda: go_on(KILLS_IN_TRAINING) not in (State.QUEUED, State.RUNNING, State.INTERRUPTED),
        900,
        what="the training",
    )
    job, children = http.get(training).json(), server.started()
    assert job["state"] == State.COMPLETED and job["attempt"] > 1, job  # it was killed at least once
    made = http.get(f"{training}/result").json()
    answer = http.post(
        "/v1/chat/completions",
        json={"model": made["tag"], "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
        headers={"X-Byoai-Record": "off"},
    )
    assert answer.is_success
    server.end()
    wait_for(lambda: all_true() and not any(map(is_left, children)), what="the end of all")
    assert {turn.id for turn in ConversationLogger().turns()} == turns
    assert [version.number for version in Registry().list(TUNED)] == [1, 2, 3]
    assert Registry().turns_of(TUNED, 3) == turns and Registry().live(TUNED).number == 3  # type: ignore[union-attr]
