"""Lists that are looked at again and again: the same bytes while nothing has changed, and the new ones at once."""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ports import unused_port
from served_app import service_of, serving

from fine_tuning import paths
from fine_tuning.api.app import create_app
from fine_tuning.api.repeated import Repeated
from fine_tuning.api.security import TOKEN_HEADER, Access, Door, Token
from fine_tuning.api.web_server import ImpatientProtocol, protocol_for
from fine_tuning.config import overlay as config_overlay
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log import chat_labels
from fine_tuning.events import Stage, events_to
from fine_tuning.jobs import processes, store
from fine_tuning.model_management.model_registry import Registry

LISTS = ("/api/settings", "/api/versions", "/api/jobs", "/api/conversations", "/api/turns?text=the")


@pytest.fixture
def client(home: Path) -> Iterator[httpx.Client]:
    ConversationLogger(session_id="first").log_conversation("What is the time?", "Late.", {})
    access = Access(unused_port())
    app = Door(create_app(service_of()), access, Token())
    with (
        serving(app, access.port, http=protocol_for(access)),
        httpx.Client(base_url=access.url, headers={TOKEN_HEADER: Token().read()}, timeout=60) as client,
    ):
        yield client


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
    client: httpx.Client, path: str, change: Callable[[], object]
) -> None:
    before = [client.get(path).json() for _ in range(3)]
    assert before[0] == before[1] == before[2]
    change()
    assert client.get(path).json() != before[0]


def test_a_change_by_a_request_is_told_at_once(client: httpx.Client) -> None:
    client.get("/api/settings")
    client.put("/api/settings", json={"settings": {"training.num_epochs": 9}}).raise_for_status()
    shown = {each["key"]: each["value"] for each in client.get("/api/settings").json()["items"]}
    assert shown["training.num_epochs"] == 9


def test_how_far_a_job_is_is_told_within_a_second(client: httpx.Client) -> None:
    job = store.add("retrain", {}, here=processes.this_process())
    assert client.get("/api/jobs").json()["items"][0]["stage"] == ""
    with events_to(job.events) as tell:
        tell(Stage("Training"))
    time.sleep(1)
    assert client.get("/api/jobs").json()["items"][0]["stage"] == "Training"


def test_what_cannot_be_read_is_told_and_then_what_can(client: httpx.Client) -> None:
    good = client.get("/api/conversations").content
    config_overlay.place().write_text("training: [")
    assert client.get("/api/conversations").status_code == 400
    config_overlay.place().unlink()
    assert client.get("/api/conversations").content == good
    paths.state_db().rename(paths.home() / "aside.db")
    assert client.get("/api/conversations").content == good
    paths.state_db().write_bytes(b"no database at all" * 1000)
    assert client.get("/api/versions").status_code >= 400


class Told:
    """An ASGI app that counts the requests for which it runs; each answer differs from the one before."""

    def __init__(self, status: int = 200, size: int = 0) -> None:
        self.count, self.status, self.size = 0, status, size

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.count += 1
        body = b"answer %d to %b;" % (self.count, scope["query_string"]) + bytes(self.size)
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


@pytest.mark.parametrize("path", [*LISTS, "/api/versions?limit=3", "/api/jobs/one", "/api/elsewhere"])
def test_the_app_runs_once_for_a_request_that_is_repeated(home: Path, path: str) -> None:
    for app, method, is_kept in (
        (Told(), "GET", path in LISTS or "?" in path),
        (Told(), "HEAD", False),
        (Told(status=404), "GET", False),
        (Told(size=1 << 20), "GET", False),
    ):
        access = Access(unused_port())
        served = serving(Repeated(app, service_of()), access.port, http=protocol_for(access), lifespan="off")
        with served, httpx.Client(base_url=access.url) as client:
            answers = [client.request(method, path) for _ in range(6)]
            assert len({answer.status_code for answer in answers}) == 1 and answers[0].status_code == app.status
            assert app.count in ((1, 2) if is_kept else (6,))  # the progress of jobs is repeated for a second
            assert len({answer.content for answer in answers}) in ((1, 2) if is_kept else (1, 6))
            assert len({tuple(answer.headers) for answer in answers}) == 1


def asked(query: str, more: str = "") -> bytes:
    return f"GET /api/versions?{query} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()


class Line:
    """A connection, to which bytes are sent as they are."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)

    def send(self, *pieces: bytes, answers: int = 1) -> list[str]:
        """Send pieces of data, each of which the server gets by itself; return the bodies of the answers."""
        for number, piece in enumerate(pieces):
            time.sleep(0.2 * bool(number))
            self.socket.sendall(piece)
        said = b""
        while said.count(b";") < answers and (more := self.socket.recv(100_000)):
            said += more
        assert said.count(b"HTTP/1.1 200 OK\r\n") == said.count(b"content-length") == said.count(b"date: ") == answers
        return [each.rpartition(b"\r\n")[2].decode() for each in said.split(b";")[:-1]]


@pytest.fixture
def line(home: Path) -> Iterator[Line]:
    access = Access(unused_port())
    app = Repeated(Told(), service_of())
    with serving(app, access.port, http=protocol_for(access), lifespan="off", timeout_keep_alive=1):
        line = Line(access.port)
        with line.socket:
            yield line


def test_only_a_request_that_came_alone_and_whole_is_repeated(line: Line) -> None:
    one, two = asked("one"), asked("two")
    assert line.send(one) == line.send(one) == ["answer 1 to one"]
    assert line.send(two) == line.send(two) == ["answer 2 to two"] and line.send(one) == ["answer 1 to one"]
    assert line.send(one[:20], one[20:]) == ["answer 3 to one"]  # in pieces, and so not compared
    assert line.send(one) == ["answer 1 to one"]
    assert line.send(one + two, answers=2) == ["answer 4 to one", "answer 5 to two"]
    assert line.send(one + two, answers=2) == ["answer 6 to one", "answer 7 to two"]
    assert line.send(two + one[:30], one[30:], answers=2) == ["answer 8 to two", "answer 9 to one"]
    assert line.send(asked("one", "X-More: 1\r\n")) == ["answer 10 to one"]
    assert line.send(one) == ["answer 1 to one"] and line.send(two) == ["answer 2 to two"]


def test_who_asks_for_it_gets_the_connection_closed_each_time(line: Line) -> None:
    port, closing = line.socket.getpeername()[1], asked("one", "Connection: close\r\n")
    for number in (1, 2):
        once = Line(port)
        with once.socket:
            assert once.send(closing) == [f"answer {number} to one"] and once.socket.recv(100) == b""


def test_a_connection_that_only_repeats_is_closed_when_it_is_not_used_any_more(line: Line) -> None:
    port, one = line.socket.getpeername()[1], asked("one")
    line.send(one)
    again = Line(port)
    with again.socket:
        for _ in range(4):
            time.sleep(0.5)  # in all longer than an unused connection is kept
            assert again.send(one) == ["answer 1 to one"]
        begun = time.monotonic()
        assert again.socket.recv(100) == b"" and time.monotonic() - begun < 30


def test_who_does_not_read_what_is_repeated_is_dropped(home: Path) -> None:
    class Quick(ImpatientProtocol):
        kept, unread = protocol_for(Access(1)).kept, 0.5

    port, one = unused_port(), asked("one")
    with serving(Repeated(Told(size=100_000), service_of()), port, http=Quick, lifespan="off"):
        line = Line(port)
        with line.socket, pytest.raises(OSError):
            assert line.send(one)
            while True:
                line.socket.sendall(one)
                time.sleep(0.001)


def test_a_token_that_is_not_valid_any_more_opens_nothing(home: Path) -> None:
    """Where each request needs a token, an answer to an earlier one with the same token is not repeated."""
    access = Access(unused_port(), lan=True)
    app = Door(create_app(service_of()), access, Token())
    headers = {TOKEN_HEADER: Token().read()}
    with serving(app, access.port, http=protocol_for(access)), httpx.Client(base_url=access.url) as client:
        assert [client.get("/api/versions", headers=headers).status_code for _ in range(3)] == [200] * 3
        Token().renew()
        assert client.get("/api/versions", headers=headers).status_code == 401
