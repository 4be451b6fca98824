"""Jobs over HTTP: asked for, listed, watched by many, stopped."""

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from fine_tuning.api import feed
from fine_tuning.api.app import create_app
from fine_tuning.api.dependencies import to_cursor
from fine_tuning.api.security import TOKEN_HEADER, Access, Door, Token
from fine_tuning.config import load_config
from fine_tuning.events import Count, Finished, Stage, Step, events_to
from fine_tuning.integration.service import Service
from fine_tuning.jobs import processes, store
from fine_tuning.jobs.kinds import KINDS
from fine_tuning.jobs.store import Job, State

OWN = "http://127.0.0.1:8501"


@pytest.fixture
def client(home: Path) -> Iterator[TestClient]:
    app = Door(create_app(Service(load_config)), Access(8501), Token())
    with TestClient(app, base_url=OWN, headers={TOKEN_HEADER: Token().read()}) as client:
        yield client


@pytest.fixture
def running() -> Job:
    """A job that this very process does, and that has told two events."""
    job = store.add("retrain", {}, here=processes.this_process(), detached=True)
    with events_to(job.events) as tell:
        tell(Stage("Training"))
        tell(Count(1, 4))
    return job


def end(job: Job) -> None:
    with events_to(job.events) as tell:
        tell(Finished("done", "it is done"))
    store.finish(job, State.COMPLETED, "it is done", 0)


def test_a_job_is_listed_and_shown_with_how_far_it_is(client: TestClient, running: Job) -> None:
    (listed,) = client.get("/api/jobs").json()["items"]
    shown = client.get(f"/api/jobs/{running.id}").json()
    assert listed == shown
    assert (shown["id"], shown["state"], shown["stage"], shown["events"]) == (running.id, "running", "Training", 2)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_jobs_of_each_kind_can_be_asked_for(client: TestClient, kind: str) -> None:
    answer = client.get("/api/jobs", params={"kind": kind})
    assert answer.status_code == 200 and answer.json()["items"] == []


def test_pages_of_a_long_list_hold_each_job_once(client: TestClient) -> None:
    made = [store.add("retrain", {}).id for _ in range(7)]
    seen, cursor = [], None
    while True:
        answer = client.get("/api/jobs", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        seen += [job["id"] for job in answer["items"]]
        if not (cursor := answer["next"]):
            break
    assert seen == made[::-1]


def test_asked_twice_with_one_id_is_one_job(client: TestClient) -> None:
    store.add("retrain", {}, here=processes.this_process(), detached=True)  # a heavy one runs: the next waits
    asked = {"kind": "compare", "id": "mine", "request": {"prompts": ["Hello"]}}
    first, again = client.post("/api/jobs", json=asked), client.post("/api/jobs", json=asked)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"] == "mine"
    assert sum(job["id"] == "mine" for job in client.get("/api/jobs").json()["items"]) == 1
    other = client.post("/api/jobs", json={**asked, "request": {"prompts": ["Bye"]}})
    assert other.status_code == 400
    assert client.post("/api/jobs/mine/cancel", json={}).json()["state"] == "cancelled"


@pytest.mark.parametrize(
    "asked",
    [
        {"kind": "retrain", "request": {"ollama_url": "http://169.254.169.254"}},
        {"kind": "retrain", "request": {"config": {}}},
        {"kind": "retrain", "settings": {"deployment.ollama_base_url": "http://evil.test"}},
        {"kind": "retrain", "settings": {"deployment": {"ollama_base_url": "http://evil.test"}}},
        {"kind": "retrain", "settings": {"training.output_dir": "/tmp/elsewhere"}},
        {"kind": "retrain", "settings": {"evaluation.metrics": ["evil/metric"]}},
        {"kind": "retrain", "settings": {"data_collection.log_file": "/etc/passwd"}},
        *(
            {"kind": "retrain", "settings": {"training.base_model": name}}
            for name in (
                "/etc",
                "config/../../etc",
                "config",
                "169.254.169.254/x/y:z",
                "evil-org/evil-model",
                "hf.co/a/b",
                "a\\b",
            )
        ),
        *(
            {"kind": "train", "settings": {"dataset.path": name}}
            for name in (
                "api_token",
                "state.db",
                "conversations/conversations.jsonl",
                "uploads/../api_token",
                "settings.yaml",
                "",
            )
        ),
        {"kind": "retrain", "profile": "../../etc/passwd"},
        {"kind": "train", "settings": {"dataset.path": "/etc/passwd"}},
        {"kind": "train", "settings": {"dataset.path": "../../etc/passwd"}},
        {"kind": "train", "settings": {"dataset.path": "x.jsonl", "dataset.format": "custom"}},
        {"kind": "rob", "request": {}},
    ],
)
def test_a_request_reaches_no_file_server_or_program_outside(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, asked: dict[str, object]
) -> None:
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    answer = client.post("/api/jobs", json=asked)
    assert answer.status_code == 400, answer.text
    assert client.get("/api/jobs").json()["items"] == []


def test_what_fits_a_job_in_another_state_is_a_conflict_and_changes_nothing(client: TestClient, running: Job) -> None:
    def refused(method: str, path: str) -> None:
        before = store.get(running.id)
        answer = client.request(method, f"/api/jobs/{running.id}/{path}", json={} if method == "POST" else None)
        assert answer.status_code == 409 and before.state in answer.json()["error"]["message"], answer.text
        assert store.get(running.id).state == before.state and len(store.find()) == 1

    for method, path in (("POST", "resume"), ("POST", "retry"), ("GET", "result")):
        refused(method, path)
    store.ask_to_stop(running.id, 60)
    refused("POST", "resume")
    end(running)
    refused("POST", "resume")
    queued = store.add("retrain", {})
    assert client.post(f"/api/jobs/{queued.id}/resume", json={}).status_code == 409
    assert client.post("/api/jobs/nobody/resume", json={}).status_code == 404


def test_unknown_fields_and_jobs_are_refused_in_one_shape(client: TestClient) -> None:
    for answer, status in (
        (client.post("/api/jobs", json={"kind": "retrain", "prority": 1}), 422),
        (client.get("/api/jobs/none"), 404),
        (client.get("/api/jobs/none/events"), 404),
        (client.get("/api/jobs", params={"cursor": "?"}), 400),
        (client.get("/api/jobs", params={"cursor": to_cursor(float("nan"))}), 400),
        (client.get("/api/conversations", params={"cursor": "WyJcdWQ4MDAiXQ"}), 400),
        (client.get("/api/nothing"), 404),
    ):
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == status and answer.json()["error"]["message"]


def test_a_change_needs_the_token_and_a_json_body(client: TestClient, running: Job) -> None:
    address = f"/api/jobs/{running.id}/cancel"
    assert client.post(address, json={}, headers={TOKEN_HEADER: "wrong"}).status_code == 401
    assert client.post(address, content="{}", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post(address, data={"discard": "1"}).status_code == 415
    assert store.get(running.id).state == State.RUNNING
    bearer = {TOKEN_HEADER: "", "authorization": f"Bearer {Token().read()}"}
    assert client.post(address, json={}, headers=bearer).json()["state"] == "cancelling"


def test_a_socket_replays_goes_on_and_closes_at_the_end(client: TestClient, running: Job) -> None:
    with client.websocket_connect(
        f"/api/jobs/{running.id}/events?after=1", headers={"host": "127.0.0.1:8501"}
    ) as socket:
        assert json.loads(socket.receive_text()) == {"n": 2, "event": "Count", "done": 1, "total": 4, "unit": ""}
        assert json.loads(socket.receive_text())["job"]["state"] == "running"
        end(running)
        told = [json.loads(socket.receive_text()) for _ in range(2)]
        assert told[0]["event"] == "Finished" and told[1]["job"]["state"] == "completed"
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
        assert closed.value.code == 1000


def test_a_number_that_json_cannot_hold_is_told_as_none(client: TestClient, running: Job) -> None:
    """A browser's JSON.parse refuses NaN and Infinity."""
    step = Step("chats", 1, 2, 0.5, float("nan"), 0.1, 0.1, float("inf"), 10, 1.0, 0.1, float("inf"), 10)
    with events_to(running.events) as tell:
        tell(step)
    end(running)
    with client.websocket_connect(
        f"/api/jobs/{running.id}/events?after=2", headers={"host": "127.0.0.1:8501"}
    ) as socket:
        told = json.loads(socket.receive_text(), parse_constant=pytest.fail)
    assert (told["loss"], told["grad_norm"], told["eta"], told["step"]) == (None, None, None, 1)


def test_a_result_with_a_number_that_json_cannot_hold_is_shown(client: TestClient, running: Job) -> None:
    running.result.parent.mkdir(parents=True, exist_ok=True)
    running.result.write_text('{"best": {"loss": NaN, "eta": [Infinity]}}')
    answer = client.get(f"/api/jobs/{running.id}/result")
    assert (answer.status_code, answer.json()) == (200, {"best": {"loss": None, "eta": [None]}})


def test_a_damaged_result_is_named(client: TestClient, running: Job) -> None:
    running.result.parent.mkdir(parents=True, exist_ok=True)
    running.result.write_text('{"half')
    answer = client.get(f"/api/jobs/{running.id}/result")
    assert answer.status_code == 409 and str(running.result) in answer.json()["error"]["message"]


def test_server_sent_events_tell_the_same(client: TestClient, running: Job) -> None:
    end(running)
    text = client.get(f"/api/jobs/{running.id}/events", params={"after": 2}).text
    assert text.startswith('id: 3\ndata: {"n": 3, "event": "Finished"')
    assert "event: job\ndata: " in text


def test_a_socket_to_no_job_says_so(client: TestClient) -> None:
    with client.websocket_connect("/api/jobs/none/events", headers={"host": "127.0.0.1:8501"}) as socket:
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
        assert closed.value.code == 1008


def test_a_watcher_that_leaves_at_any_moment_is_no_error(client: TestClient) -> None:
    """Here before it is told that there is no such job, which asyncio then cannot send (OSError)."""

    async def leave() -> None:
        calls = iter([{"type": "websocket.connect"}])

        async def receive() -> dict[str, object]:
            return next(calls, None) or await asyncio.Future()

        async def send(message: Mapping[str, object]) -> None:
            if message["type"] == "websocket.close":
                raise OSError("the connection is lost")

        headers = [(b"host", b"127.0.0.1:8501")]
        path = "/api/jobs/none/events"
        scope = {"type": "websocket", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
        await client.app(scope, receive, send)

    asyncio.run(leave())


def test_a_resumed_job_is_told_while_a_slow_watcher_still_reads_its_end(running: Job) -> None:
    async def watch() -> list[str]:
        feeds = feed.Feeds()
        slow = feeds.watch(running.id)
        await anext(slow)
        with events_to(running.events) as tell:
            tell(Finished("failed", "it failed"))
        store.finish(running, State.FAILED, "it failed", 1)
        async for _ in feeds.watch(running.id):
            pass  # until the end
        store.requeue(running.id, detached=True)
        with events_to(running.events) as tell:
            tell(Stage("Again"))
        async with asyncio.timeout(30), aclosing(feeds.watch(running.id, after=3)) as told:
            return [(await anext(told)).socket for _ in range(2)]

    first, second = map(json.loads, asyncio.run(watch()))
    assert first["title"] == "Again" and second["job"]["state"] == "queued"


def test_a_watcher_of_a_silent_job_gets_heartbeats(
    client: TestClient, running: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "HEARTBEAT", 0.05)
    monkeypatch.setattr(feed, "_GLANCE", 0.01)
    address = f"/api/jobs/{running.id}/events?after=2"
    with client.websocket_connect(address, headers={"host": "127.0.0.1:8501"}) as socket:
        assert json.loads(socket.receive_text())["job"]["state"] == "running"
        beats = [json.loads(socket.receive_text())["heartbeat"] for _ in range(3)]
        assert beats == sorted(beats) and beats[-1] - beats[0] > 0.05
        ended = threading.Timer(0.5, end, (running,))
        ended.start()
        assert client.get(address).text.count(": heartbeat\n\n") >= 3
        ended.join()
        with pytest.raises(WebSocketDisconnect):
            while True:
                socket.receive_text()
