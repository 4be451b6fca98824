import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from at_once import at_once
from ports import unused_port
from small_disk import Disk
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from chatbot.server import serve
from fine_tuning.api.background import check_port, free_port, listening
from fine_tuning.api.security import LOOPBACK, MOST, Access, Door, Token
from fine_tuning.api.web_server import run
from fine_tuning.errors import ByoaiError

HOST = LOOPBACK[0]

OURS = "http://127.0.0.1:8501"


@pytest.fixture
def client() -> TestClient:
    async def page(_request: object) -> PlainTextResponse:
        return PlainTextResponse("the page")

    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("the stream")

    app = Starlette(routes=[Route("/", page), WebSocketRoute("/stream", stream)])
    return TestClient(Door(app, Access(8501), Token()), base_url=OURS)


def test_its_own_page_comes_in_and_is_told_to_load_nothing_from_elsewhere(client: TestClient) -> None:
    answer = client.get("/", headers={"origin": OURS})
    assert (answer.status_code, answer.text) == (200, "the page")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    with client.websocket_connect("/stream", headers={"host": "127.0.0.1:8501", "origin": OURS}) as stream:
        assert stream.receive_text() == "the stream"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.test:8501"},  # DNS rebinding
        {"host": "127.0.0.1.evil.test:8501"},
        {"host": ""},
        {"host": "127.0.0.1:8501", "origin": "http://evil.test"},
        {"host": "127.0.0.1:8501", "origin": "http://127.0.0.1:3000"},  # another server on this machine
        {"host": "127.0.0.1:8501", "origin": "http://localhost:8501"},
        {"host": "127.0.0.1:8501", "origin": "null"},
    ],
)
def test_strangers_are_refused_over_http_and_websocket(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/", headers=headers).status_code == 403
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/stream", headers=headers):
        pass


OWN = "127.0.0.1:8501"
STRANGE_HOSTS = {
    "none": [],
    "empty": [""],
    "two alike": [OWN, OWN],
    "ours, then another": [OWN, "evil.test"],
    "another, then ours": ["evil.test", OWN],
    "another name": ["evil.test:8501"],
    "a name as a port": ["127.0.0.1:evil.com"],
    "a name behind ours": ["127.0.0.1:8501.evil.test"],
    "a name before ours": ["evil.test127.0.0.1:8501"],
    "another port": ["127.0.0.1:8502"],
    "a longer port": ["127.0.0.1:85010"],
    "a port with zeros": ["127.0.0.1:08501"],
    "no port": ["127.0.0.1"],
    "an empty port": ["127.0.0.1:"],
    "no port, localhost": ["localhost"],
    "another port of localhost": ["localhost:3000"],
    "IPv6": ["[::1]:8501"],
    "IPv6 in brackets, ours inside": ["[127.0.0.1]:8501"],
    "a user": ["user@127.0.0.1:8501"],
    "a user and password": ["a:b@127.0.0.1:8501"],
    "ours as a user": ["127.0.0.1:8501@evil.test"],
    "a trailing dot": ["localhost.:8501"],
    "a trailing dot, address": ["127.0.0.1.:8501"],
    "upper case": ["LOCALHOST:8501"],
    "a short address": ["127.1:8501"],
    "a number": ["2130706433:8501"],
    "any address": ["0.0.0.0:8501"],
    "another loopback address": ["127.0.0.2:8501"],
    "a list": ["127.0.0.1:8501, evil.test"],
    "a space": ["127.0.0.1:8501 "],
    "a path": ["127.0.0.1:8501/evil"],
    "a scheme": ["http://127.0.0.1:8501"],
    "not ASCII": ["127.0.0.1:８５０１"],
}
STRANGE_ORIGINS = {
    "empty": [""],
    "null": ["null"],
    "another": ["http://evil.test"],
    "ours by TLS": ["https://127.0.0.1:8501"],
    "another port": ["http://127.0.0.1:3000"],
    "no port": ["http://127.0.0.1"],
    "localhost on another port": ["http://localhost:3000"],
    "our other name": ["http://localhost:8501"],
    "a name behind ours": ["http://127.0.0.1:8501.evil.test"],
    "a user": ["http://user@127.0.0.1:8501"],
    "a slash": ["http://127.0.0.1:8501/"],
    "upper case": ["HTTP://127.0.0.1:8501"],
    "two alike": [OURS, OURS],
    "ours, then another": [OURS, "http://evil.test"],
    "another, then ours": ["http://evil.test", OURS],
    "a list": [f"http://evil.test, {OURS}"],
}


def entered(kind: str, hosts: list[str], origins: list[str], port: int = 8501) -> list[dict[str, Any]] | None:
    """What the door lets the page answer; None if it refuses."""
    headers = [(b"host", host.encode()) for host in hosts] + [(b"origin", origin.encode()) for origin in origins]
    sent: list[dict[str, Any]] = []
    reached: list[str] = []

    async def page(scope: dict[str, Any], receive: object, send: Any) -> None:
        reached.append(scope["type"])
        await send(
            {"type": "http.response.start" if kind == "http" else "websocket.accept", "status": 200, "headers": []}
        )

    async def keep(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "method": "GET", "path": "/", "query_string": b"", "headers": headers}
    asyncio.run(Door(page, Access(port), Token())(scope, None, keep))  # type: ignore[arg-type]
    if not reached:
        assert sent[0].get("status", sent[0].get("code")) == (403 if kind == "http" else 1008)
        return None
    return sent


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("host", [OWN, "localhost:8501"])
def test_the_page_is_let_in_by_its_two_names_and_from_its_own_origin_alone(kind: str, host: str) -> None:
    assert entered(kind, [host], []) and entered(kind, [host], [f"http://{host}"])
    for origins in STRANGE_ORIGINS.values():
        if origins != [f"http://{host}"]:
            assert entered(kind, [host], origins) is None


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("hosts", STRANGE_HOSTS.values(), ids=STRANGE_HOSTS.keys())
def test_no_other_host_is_let_in_from_any_origin(kind: str, hosts: list[str]) -> None:
    for origins in ([], [OURS], *([f"http://{host}"] for host in hosts), *STRANGE_ORIGINS.values()):
        assert entered(kind, hosts, origins) is None


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_the_port_is_that_of_this_server_and_80_may_be_left_out(kind: str) -> None:
    assert entered(kind, ["127.0.0.1:8600"], ["http://127.0.0.1:8600"], 8600)
    assert entered(kind, [OWN], [OURS], 8600) is None
    assert entered(kind, ["localhost"], ["http://localhost"], 80)


@pytest.mark.parametrize("host", [OWN, "localhost:8501"])
def test_a_page_may_connect_to_the_very_host_and_port_that_it_came_from(host: str) -> None:
    (start,) = entered("http", [host], []) or []
    policy = dict(start["headers"])[b"content-security-policy"].decode()
    (connect,) = [rule for rule in policy.split("; ") if rule.startswith("connect-src")]
    assert connect == f"connect-src 'self' ws://{host}"
    assert "*" not in policy


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_sites_page_asks_for_is_refused_but_a_link_may_lead_here(client: TestClient, site: str) -> None:
    """An image or a script elsewhere sends no Origin; a browser tells by `Sec-Fetch-Site` that it asks."""
    told = {"sec-fetch-site": site}
    assert client.get("/", headers={**told, "sec-fetch-mode": "no-cors"}).status_code == 403
    assert client.get("/api/jobs", headers={**told, "sec-fetch-mode": "navigate"}).status_code == 403
    assert client.get("/", headers={**told, "sec-fetch-mode": "navigate"}).status_code == 200
    assert client.get("/", headers={"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_bounded_whatever_its_length_is_said_to_be(home: Path, chunked: bool) -> None:
    taken: list[int] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request":
            taken.append(len(message["body"]))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(2**20), "more_body": True}

    async def send(message: Any) -> None:
        assert message.get("status", 413) == 413

    headers = [(b"host", OWN.encode()), (b"content-type", b"application/json")]
    headers += [] if chunked else [(b"content-length", b"10000000000")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    asyncio.run(Door(behind, Access(8501), Token())(scope, receive, send))  # type: ignore[arg-type]
    assert sum(taken) == (MOST if chunked else 0)


@pytest.mark.parametrize("length", ["9" * 5000, "²", "+5", "", "1e9", "-1"])
def test_a_length_that_is_no_number_ends_in_no_fault(client: TestClient, length: str) -> None:
    assert client.get("/", headers=[(b"content-length", length.encode("latin-1"))]).text == "the page"


def test_a_real_server_refuses_what_comes_over_the_wire(home: Path) -> None:
    """Through uvicorn, whose parser sees the headers before the door does."""
    port = unused_port()
    code = (
        "from chatbot.server import serve; from fine_tuning.api.security import Access; "
        f"serve(Access({port}), browser=False)"
    )
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "BYOAI_ENGINE": "embedded"}) as process:
        try:
            own = f"127.0.0.1:{port}"
            deadline = time.monotonic() + 120
            while "200" not in (first := status(port, f"Host: {own}")) and time.monotonic() < deadline:
                time.sleep(0.2)
            assert "200" in first
            assert "200" in status(port, f"Host: localhost:{port}")
            upgrade = (
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: "
                "13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="
            )
            stream = "/_stcore/stream"
            assert "101" in status(port, f"Host: {own}\r\nOrigin: http://{own}\r\n{upgrade}", stream)
            for headers in (
                "Host: 127.0.0.1:evil.com",
                "Host: 127.0.0.1:8501",
                f"Host: {own}\r\nHost: evil.test",
                f"Host: {own}\r\nOrigin: http://evil.test\r\nOrigin: http://{own}",
                f"Host: {own}\r\nOrigin: null",
                "Accept: */*",
            ):
                for extra, path in (("", "/"), (f"\r\n{upgrade}", stream)):
                    assert status(port, headers + extra, path).split()[1][0] == "4"
        finally:
            process.terminate()


def status(port: int, headers: str, path: str = "/") -> str:
    """The first line of the answer, "" if there is no server yet."""
    try:
        with socket.create_connection((HOST, port), timeout=20) as line:
            line.sendall(f"GET {path} HTTP/1.1\r\n{headers}\r\n\r\n".encode())
            return line.recv(1000).split(b"\r\n")[0].decode()
    except ConnectionError:
        return ""


def test_a_taken_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        first = taken.getsockname()[1]
        port = free_port(first)
        assert first < port < first + 20
        assert Access(port).url == f"http://127.0.0.1:{port}"


def test_no_free_port_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ByoaiError, match="--port"):
        free_port(65_536)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not use a port")
def test_a_port_that_is_not_this_users_is_not_called_taken() -> None:
    told, say = os.pipe()
    if os.fork() == 0:
        try:
            os.setuid(65_534)
            check_port(Access(1))
        except ByoaiError as error:
            os.write(say, str(error).encode())
        finally:
            os._exit(0)
    os.close(say)
    with os.fdopen(told) as said:
        assert "this user may not use port 1: choose one from 1024 on" in said.read()
    os.wait()


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_token_that_cannot_be_read_is_named_and_fits_nobody(home: Path, content: bytes | None) -> None:
    file = home / "api_token"
    file.write_bytes(content) if content else file.mkdir()
    with pytest.raises(ByoaiError, match=f"cannot read the token in {file}.*Delete the file"):
        serve(Access(unused_port()))
    assert not Token().fits("anything")


def test_a_data_folder_without_room_is_named_before_anything_is_served(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYOAI_HOME", str(disk.folder))
    disk.fill()
    with pytest.raises(ByoaiError, match=f"cannot write to {disk.folder}: "):
        serve(Access(unused_port()))


def test_a_taken_port_is_refused_before_anything_is_served() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(ByoaiError, match="is already in use"):
            serve(Access(taken.getsockname()[1]))


def test_programs_that_start_at_once_on_an_empty_folder_share_one_token(home: Path) -> None:
    found = at_once([lambda: Token().read()] * 5)
    assert set(found) == {Token().read()}


def test_a_server_whose_port_another_has_taken_just_before_starts_nothing() -> None:
    """Both found it free. If its app were started, it would note itself as this folder's server, and end."""
    begun = []

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        begun.append("jobs")
        yield

    access = Access(unused_port())
    with listening(access), pytest.raises(ByoaiError, match="already in use"):
        run(Starlette(lifespan=lifespan), access)
    assert begun == []
