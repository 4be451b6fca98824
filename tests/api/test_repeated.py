"""Lists that are looked at again and again: the same bytes while nothing has changed, and the new ones at once."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from fine_tuning import paths
from fine_tuning.api.repeated import Repeated
from fine_tuning.config import overlay as config_overlay
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log import chat_labels
from fine_tuning.events import Stage, events_to
from fine_tuning.jobs import processes, store
from fine_tuning.model_management.model_registry import Registry
from tests.api.served_app import client_of, service_of

LISTS = ("/api/settings", "/api/versions", "/api/jobs", "/api/conversations", "/api/turns?text=the")


@pytest.fixture
def client(home: Path) -> TestClient:
    ConversationLogger(session_id="first").log_conversation("What is the time?", "Late.", {})
    return client_of()


def _version(number: int) -> None:
    facts = {"run": "", "dataset": "", "method": "lora", "mode": "adapter", "metrics": {}, "verdict": "", "turns": []}
    Registry().add("fine_tuned_x", number, base_tag="x", base_digest="", **facts)  # type: ignore[arg-type]


def _said() -> None:
    ConversationLogger(session_id="second").log_conversation("And the place?", "Here.", {})


def _rated() -> None:
    log = ConversationLogger()
    log.rate(log.index.turns_of("first")[0].id, "up")


def _log_replaced() -> None:
    """Without a word to the index, as by a program that copies a log back."""
    log = ConversationLogger().path
    log.write_bytes(b"")


def _job() -> None:
    store.add("retrain", {})


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("/api/settings", lambda: config_overlay.write({"training.num_epochs": 7})),
        ("/api/versions", lambda: _version(1)),
        ("/api/versions?name=fine_tuned_x", lambda: _version(2)),
        ("/api/jobs", _job),
        ("/api/conversations", _said),
        ("/api/conversations", lambda: chat_labels.set_label("first", title="The time")),
        ("/api/conversations?limit=1", _log_replaced),
        ("/api/turns?text=the", _said),
        ("/api/turns?text=the", _rated),
        ("/api/turns?text=time", _log_replaced),
    ],
)
def test_a_change_that_another_program_made_is_told_at_once(
    client: TestClient, path: str, change: Callable[[], object]
) -> None:
    before = [client.get(path).json() for _ in range(3)]
    assert before[0] == before[1] == before[2]
    change()
    assert client.get(path).json() != before[0]


def test_a_change_by_a_request_is_told_at_once(client: TestClient) -> None:
    client.get("/api/settings")
    client.put("/api/settings", json={"settings": {"training.num_epochs": 9}}).raise_for_status()
    shown = {each["key"]: each["value"] for each in client.get("/api/settings").json()["items"]}
    assert shown["training.num_epochs"] == 9


def test_how_far_a_job_is_is_told_within_a_second(client: TestClient) -> None:
    job = store.add("retrain", {}, here=processes.this_process())
    assert client.get("/api/jobs").json()["items"][0]["stage"] == ""
    with events_to(job.events) as tell:
        tell(Stage("Training"))
    time.sleep(1)
    assert client.get("/api/jobs").json()["items"][0]["stage"] == "Training"


def test_what_cannot_be_read_is_told_and_then_what_can(client: TestClient) -> None:
    good = client.get("/api/conversations").content
    config_overlay.place().write_text("training: [")
    assert client.get("/api/conversations").status_code == 400
    config_overlay.place().unlink()
    assert client.get("/api/conversations").content == good
    paths.state_db().rename(paths.home() / "aside.db")
    assert client.get("/api/conversations").content == good
    paths.state_db().write_bytes(b"no database at all" * 1000)
    assert client.get("/api/versions").status_code >= 400


def _asked(app: Any, path: str, method: str = "GET") -> list[Any]:
    """Return what an ASGI app answers."""
    told: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        told.append(message)

    place, _, query = path.partition("?")
    scope = {"type": "http", "method": method, "path": place, "query_string": query.encode(), "headers": []}
    asyncio.run(app(scope, receive, send))
    return told


@pytest.mark.parametrize("path", [*LISTS, "/api/versions?limit=3"])
@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("size", [10, 1 << 20])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_only_a_whole_small_answer_is_kept(home: Path, path: str, status: int, size: int, method: str) -> None:
    asked = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asked
        asked += 1
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": bytes(size)})

    repeated = Repeated(app, service_of())
    answers = [_asked(repeated, path, method) for _ in range(10)]
    assert all(answer == answers[0] for answer in answers)
    kept = status == 200 and size == 10 and method == "GET"
    assert asked in ((1, 2) if kept else (10,))  # a job's state lasts half a second
