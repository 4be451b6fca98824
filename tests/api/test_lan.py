"""A server that other machines reach: nobody is answered without the token."""

import asyncio
import shutil
import socket
import ssl
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from ports import unused_port
from served_api import wait_for
from served_app import service_of
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from timing import in_time
from websockets.sync.client import connect as open_socket

from fine_tuning.api.background import running, tended
from fine_tuning.api.security import COOKIE, LOGIN, PAGE, TOKEN_HEADER, TRAIN, Access, Door, Token
from fine_tuning.cli.main import main, parser
from fine_tuning.cli.serving import access_of
from fine_tuning.jobs.doing import listed
from fine_tuning.jobs.kinds import SweepRequest

NAME = "192.168.1.20:8501"
TOLD = {"host": NAME}


@pytest.fixture
def client(home: Path) -> TestClient:
    async def page(_: Request) -> PlainTextResponse:
        return PlainTextResponse("the page")

    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        while True:
            await socket.send_text(await socket.receive_text())

    paths = ("/", "/api/jobs", "/v1/models", "/api/ui", "/_stcore/health")
    app = Starlette(
        routes=[*(Route(path, page, methods=["GET", "POST"]) for path in paths), WebSocketRoute("/stream", stream)]
    )
    return TestClient(
        Door(app, Access(8501, ("192.168.1.20",), lan=True), Token()), base_url=f"http://{NAME}", follow_redirects=False
    )


@pytest.mark.parametrize("path", ["/", "/api/jobs", "/v1/models", "/api/ui", "/_stcore/health"])
def test_every_route_and_socket_needs_the_token(client: TestClient, path: str) -> None:
    shut = client.get(path)
    assert shut.status_code == (401 if path in ("/api/jobs", "/v1/models") else 303) and "the page" not in shut.text
    assert client.get(path, headers={TOKEN_HEADER: "wrong"}).status_code != 200
    assert client.get(path, headers={"cookie": f"{COOKIE}=wrong"}).status_code != 200
    assert client.get(path, headers={TOKEN_HEADER: Token().read()}).text == "the page"
    assert client.get(path, headers={"authorization": f"Bearer {Token().read()}"}).text == "the page"
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/stream", headers=TOLD):
        pass


def test_a_browser_logs_in_with_the_token_and_out_when_it_is_renewed(client: TestClient) -> None:
    assert 'name="token"' in client.get(LOGIN).text
    assert client.post(LOGIN, data={"token": "wrong"}).status_code == 401
    entered = client.post(LOGIN, data={"token": Token().read()})
    assert entered.status_code == 303
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert client.get("/").text == "the page"
    Token().renew()
    assert client.get("/").status_code == 303


def test_the_cookie_alone_changes_nothing_since_a_browser_sends_it_by_itself(client: TestClient) -> None:
    client.post(LOGIN, data={"token": Token().read()})
    assert client.post("/api/jobs", json={}).status_code == 401
    assert client.post("/api/jobs", json={}, headers={TOKEN_HEADER: Token().read()}).status_code == 200


def test_wrong_tokens_are_heard_only_a_few_times_a_minute(client: TestClient) -> None:
    answers = [client.post(LOGIN, data={"token": f"guess {number}"}).status_code for number in range(8)]
    assert answers[:5] == [401] * 5 and set(answers[5:]) == {429}
    assert client.post(LOGIN, data={"token": Token().read()}).status_code == 303  # no stranger can keep the owner out


def test_a_token_that_is_renewed_closes_the_sockets_that_are_open(client: TestClient) -> None:
    in_time(lambda: closed_after_renewal(client), 5)


def closed_after_renewal(client: TestClient) -> float:
    """Return the seconds in which a socket is closed once the token is renewed."""
    with client.websocket_connect("/stream", headers={**TOLD, TOKEN_HEADER: Token().read()}) as socket:
        socket.send_text("still here")
        assert socket.receive_text() == "still here"
        Token().renew()
        begun = time.monotonic()
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
        assert closed.value.code == 1008
        return time.monotonic() - begun


@pytest.mark.parametrize("others", ['a={"x":1}; ', "a[1]=x; ", "flag; ", "\xe4=1; ", "=; ;; ", 'a="; '])
def test_cookies_of_other_servers_on_this_host_do_not_matter(client: TestClient, others: str) -> None:
    cookie = f"{others}{COOKIE}={Token().read()}".encode("latin-1")
    assert client.get("/", headers=[(b"cookie", cookie)]).text == "the page"


def test_a_token_that_is_renewed_ends_a_stream_that_is_open(home: Path) -> None:
    sent: list[str] = []
    begun = asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        sent.append("begun")
        begun.set()
        await asyncio.sleep(60)
        sent.append("went on")

    async def follow() -> float:
        begun.clear()
        token = Token()
        scope = {"type": "http", "method": "GET", "path": "/api/jobs/x/events"}
        headers = [(b"host", NAME.encode()), (TOKEN_HEADER.encode(), token.read().encode())]
        door = Door(endless, Access(8501, ("192.168.1.20",), lan=True), token)
        served = asyncio.ensure_future(door({**scope, "headers": headers}, None, None))  # type: ignore[arg-type]
        await asyncio.wait_for(begun.wait(), 60)
        token.renew()
        renewed = time.monotonic()
        await asyncio.wait_for(served, 30)
        return time.monotonic() - renewed

    in_time(lambda: asyncio.run(follow()), 5)
    assert set(sent) == {"begun"}


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1:8501", "localhost:8501", "192.168.1.20", "192.168.1.21:8501"])
def test_only_the_names_on_the_list_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host, TOKEN_HEADER: Token().read()}).status_code == 403


def test_the_token_is_its_owners_alone(home: Path) -> None:
    Token().read()
    assert (home / "api_token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "x"], "add --lan"),
        (["--lan"], "--lan needs --host"),
        (["--lan", "--host", "x", "--cert", "c.pem"], "--cert and --key belong together"),
        (["--lan", "--host", "x", "--cert", "c.pem", "--key", "k.pem"], "there is no file"),
        (["--lan", "--host", "http://192.168.1.20"], "write only its name or address"),
        (["--lan", "--host", "192.168.1.20:8501"], "write only its name or address"),
        (["--lan", "--host", "fe80::1"], "does not listen on IPv6"),
    ],
)
@pytest.mark.parametrize("command", ["chat", "serve", "start-tuning"])
def test_contradictions_are_refused_before_anything_is_served(
    home: Path, capsys: pytest.CaptureFixture[str], command: str, arguments: list[str], told: str
) -> None:
    assert main([command, *arguments]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("given", ["My-PC.Local", "my-pc.local.", " my-pc.local"])
def test_a_host_is_known_by_the_name_that_browsers_send(home: Path, given: str) -> None:
    options = parser().parse_args(["serve", "--lan", "--host", given, "--port", "8501"])
    assert "my-pc.local:8501" in access_of(options).names()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate of `localhost`, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    written = ["-out", str(files[0]), "-keyout", str(files[1])]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run([*command, *named, *written], check=True, capture_output=True)
    return files


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificate, is not installed")
def test_over_tls_clients_and_sockets_are_answered_and_start_tuning_names_the_page(
    home: Path, certificate: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    port, (cert, key) = unused_port(), certificate
    options = ["--lan", "--host", "localhost", "--port", str(port), "--cert", str(cert), "--key", str(key)]
    known = ssl.create_default_context(cafile=str(cert))
    url, headers = f"https://localhost:{port}", {TOKEN_HEADER: Token().read()}
    with (
        subprocess.Popen([sys.executable, "-m", "fine_tuning", "serve", *options]) as process,
        listed("sweep", SweepRequest()),
        httpx.Client(base_url=url, verify=known, timeout=60, trust_env=False) as client,
    ):
        try:
            wait_for(lambda: running() and answers(port))
            assert client.get("/api/jobs").status_code == 401
            (job,) = client.get("/api/jobs", headers=headers).raise_for_status().json()["items"]
            entered = client.post(LOGIN, data={"token": Token().read()})
            assert "Secure" in entered.headers["set-cookie"] and "wss://" in entered.headers["content-security-policy"]
            with pytest.raises(httpx.TransportError):  # the same port without TLS
                httpx.get(f"http://localhost:{port}/api/jobs", headers=headers, trust_env=False)
            address = f"wss://localhost:{port}/api/jobs/{job['id']}/events"
            with open_socket(address, ssl=known, additional_headers=headers, proxy=None) as socket:
                assert job["id"] in str(socket.recv(timeout=60))
            assert main(["start-tuning", "--no-browser"]) == 0
            assert f"The page is at {url}/api/ui\n" in capsys.readouterr().out
        finally:
            process.terminate()
            process.wait(60)
    assert running() is None


def answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(("page", "told"), [(PAGE, "/api/ui"), (TRAIN, "/train")])
@pytest.mark.parametrize("lan", [False, True])
def test_start_tuning_names_the_page_of_the_server_that_runs(
    home: Path, capsys: pytest.CaptureFixture[str], page: str, told: str, lan: bool
) -> None:
    """Without asking the server, which over the network answers nobody without the token."""
    access = Access(8501, ("192.168.1.20", "127.0.0.1"), lan=True) if lan else Access(8501)
    with tended(service_of(), access, page):
        assert main(["start-tuning", "--no-browser"]) == 0
    host = "192.168.1.20" if lan else "127.0.0.1"
    assert capsys.readouterr().out == f"The page is at http://{host}:8501{told}\n"
