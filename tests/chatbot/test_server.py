import socket

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from chatbot.server import HOST, Door, free_port, serve, url
from fine_tuning.errors import ByoaiError

OURS = "http://127.0.0.1:8501"


@pytest.fixture
def client() -> TestClient:
    async def page(_request: object) -> PlainTextResponse:
        return PlainTextResponse("the page")

    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("the stream")

    app = Starlette(routes=[Route("/", page), WebSocketRoute("/stream", stream)], middleware=[Middleware(Door)])
    return TestClient(app, base_url=OURS)


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


def test_a_taken_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        first = taken.getsockname()[1]
        port = free_port(first)
        assert first < port < first + 20
        assert url(port) == f"http://127.0.0.1:{port}"


def test_no_free_port_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ByoaiError, match="--port"):
        free_port(65_536)


def test_a_taken_port_is_refused_before_anything_is_served() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(ByoaiError, match="is taken"):
            serve(taken.getsockname()[1])
