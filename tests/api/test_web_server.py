"""A server ends when it is told to, whatever is open, and waits for nobody who is too slow. Real
processes, sockets and answers.
"""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest
from ports import unused_port
from served_api import wait_for
from served_app import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from timing import in_time, undisturbed
from websockets.sync.client import connect as open_socket

from fine_tuning.api.background import running, tended
from fine_tuning.api.security import TOKEN_HEADER, Access, Token
from fine_tuning.api.web_server import LEAST, MOST_HEADERS, ImpatientProtocol, ImpatientSocket
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.engines.base import ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine
from fine_tuning.integration.service import Service
from fine_tuning.jobs import store
from fine_tuning.jobs.doing import listed
from fine_tuning.jobs.kinds import SweepRequest
from fine_tuning.jobs.store import State, find

HOST = "127.0.0.1"
LONG = (
    b'{"model": "base", "stream": true, "messages": [{"role": "user", "content": "Count from 1 to '
    b'500."}], "max_tokens": 2000}'
)


@pytest.mark.parametrize(("kind", "number"), [("pages", signal.SIGTERM), ("api", signal.SIGINT)])
def test_told_to_end_it_ends_within_seconds_and_records_the_answer_in_the_making(
    home: Path, base_gguf: Path, kind: str, number: signal.Signals
) -> None:
    """While a /v1 answer streams and a job is watched over SSE and WebSocket."""
    EmbeddedEngine(home / "engine").create("smollm2:135m", ModelSpec(from_=base_gguf))
    in_time(lambda: end_while_all_is_open(home, kind, number), 6)
    turns = ConversationLogger().turns()
    assert {turn.user_message for turn in turns} == {"Count from 1 to 500."}
    assert all(0 < len(turn.bot_response) < 1900 for turn in turns), turns
    assert running() is None and "Traceback" not in (home.parent / "said.txt").read_text()


def end_while_all_is_open(home: Path, kind: str, number: signal.Signals) -> float:
    """Start a server, open all there is to open, and return the seconds in which it ends. One turn is recorded."""
    before, port = len(ConversationLogger().turns()), unused_port()
    module, more = ("chatbot.server", ", browser=False") if kind == "pages" else ("fine_tuning.api.background", "")
    code = f"from {module} import serve; from fine_tuning.api.security import Access; serve(Access({port}){more})"
    with (
        listed("sweep", SweepRequest()),
        contextlib.ExitStack() as open_ones,
        (home.parent / "said.txt").open("ab") as said,
        subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, "BYOAI_ENGINE": "embedded"}, stderr=said
        ) as process,
    ):
        try:
            wait_for(lambda: running() and not is_free(port), 60)
            (job,) = find((State.RUNNING,))
            told = {TOKEN_HEADER: Token().read(), "X-Byoai-Record": "on", "Content-Type": "application/json"}
            asked = urllib.request.Request(f"http://{HOST}:{port}/v1/chat/completions", LONG, told)
            answer = open_ones.enter_context(urllib.request.urlopen(asked, timeout=60))
            assert b"data:" in answer.readline() and answer.read(400)
            events = open_ones.enter_context(
                urllib.request.urlopen(f"http://{HOST}:{port}/api/jobs/{job.id}/events", timeout=60)
            )
            assert events.readline()
            watcher = open_ones.enter_context(open_socket(f"ws://{HOST}:{port}/api/jobs/{job.id}/events", proxy=None))
            assert watcher.recv(timeout=60)
            if kind == "pages":
                address = f"{HOST}:{port}"
                opened = open_socket(f"ws://{address}/_stcore/stream", origin=f"http://{address}", proxy=None)  # type: ignore[arg-type]
                page = open_ones.enter_context(opened)
                assert page.ping().wait(60)
            begun = time.monotonic()
            process.send_signal(number)
            process.wait(60)
            took = time.monotonic() - begun
        finally:
            process.kill()
    assert len(ConversationLogger().turns()) == before + 1
    return took


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def test_two_hundred_watchers_that_leave_leave_nothing_behind(home: Path) -> None:
    """Politely, or as one whose machine went down: the server holds no more files, threads and
    connections than before.
    """
    in_time(end_after_two_hundred, 3)  # no watcher is waited for


def end_after_two_hundred() -> float:
    """Return the seconds in which a server ends that two hundred had watched."""
    port = unused_port()
    code = (
        "from fine_tuning.api.background import serve; from fine_tuning.api.security import Access; "
        f"serve(Access({port}))"
    )
    with listed("sweep", SweepRequest()), subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            wait_for(lambda: running() and not is_free(port), 60)
            (job,) = find((State.RUNNING,))
            server = psutil.Process(process.pid)

            def watch(count: int) -> None:
                key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="
                upgrade = f"Connection: Upgrade\r\nUpgrade: websocket\r\n{key}"
                ask = f"GET /api/jobs/{job.id}/events HTTP/1.1\r\nHost: {HOST}:{port}\r\n{upgrade}\r\n\r\n"
                lines = [begin(port, ask.encode()) for _ in range(count)]
                assert all(b"101" in line.recv(1000) for line in lines)
                wait_for(lambda: len(server.net_connections()) >= count)
                for number, line in enumerate(lines):
                    if number % 2:
                        line.sendall(b"\x88\x80\0\0\0\0")  # a closing frame
                    else:
                        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    line.close()

            def held() -> tuple[int, int, int]:
                return server.num_fds(), server.num_threads(), len(server.net_connections())

            watch(8)  # what is made once is there now
            wait_for(lambda: len(server.net_connections()) == 1)
            before = held()
            for _ in range(2):
                watch(100)
                wait_for(lambda: len(server.net_connections()) == 1)
            time.sleep(0.5)
            files, threads, connections = held()
            # pools: of threads, and of SQLite's files, which it keeps for the next connections while one stays open
            assert files <= before[0] + 20 and connections == 1 and threads <= before[1] + 40
            process.terminate()
            begun = time.monotonic()
            process.wait(60)
            return time.monotonic() - begun
        finally:
            process.kill()


def test_a_server_that_ends_leaves_the_note_of_another(home: Path) -> None:
    """Two servers of one data folder: `start-tuning` finds the one that still runs."""
    port = unused_port()
    code = (
        "from fine_tuning.api.background import serve; from fine_tuning.api.security import Access; "
        f"serve(Access({port}))"
    )
    page = f"http://127.0.0.1:{port}/api/ui"
    with contextlib.ExitStack() as process:
        with tended(Service(), Access(1)):
            process.callback(subprocess.Popen([sys.executable, "-c", code]).kill)
            wait_for(lambda: running() == page)
        assert running() == page


def test_a_flood_of_connections_keeps_no_work_from_its_files(home: Path) -> None:
    """More connections than files that the server may open: it still records, and starts a job of its own."""
    port = unused_port()
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300)); "
        "from fine_tuning.api.background import serve; from fine_tuning.api.security import Access; "
        f"serve(Access({port}))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process, contextlib.ExitStack() as stack:
        try:
            wait_for(lambda: running() and not is_free(port), 60)
            for _ in range(400):
                stack.enter_context(socket.create_connection((HOST, port), timeout=60))
            wait_for(lambda: psutil.Process(process.pid).num_fds() >= 200)
            id = store.add("plan", {}, detached=False).id  # which only a server starts
            wait_for(lambda: store.get(id).over)
            assert "could not be started" not in store.get(id).reason
        finally:
            process.kill()


# Who is too slow

PATIENCE = 1.0  # second instead of 20


async def echo(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def refuse(_: Request) -> Response:
    return PlainTextResponse("no", 403)  # the body is left where it is


async def late(request: Request) -> Response:
    await asyncio.sleep(2.5 * PATIENCE)  # what has come meanwhile waits in the app, and what comes then in the client
    return await echo(request)


async def tell(_: Request) -> Response:
    async def pieces() -> AsyncIterator[str]:
        for _ in range(6):
            await asyncio.sleep(PATIENCE / 2)
            yield "still here\n"

    return StreamingResponse(pieces())


PIECE = "x" * 10_000
FLOOD = 3000 * len(PIECE)  # bytes, more than the system buffers


async def flood(_: Request) -> Response:
    async def pieces() -> AsyncIterator[str]:
        with counted_open():
            for _ in range(3000):
                yield PIECE

    return StreamingResponse(pieces())


async def flood_socket(websocket: WebSocket) -> None:
    await websocket.accept()
    with counted_open(), contextlib.suppress(WebSocketDisconnect):
        for _ in range(3000):
            await websocket.send_text(PIECE)
        await websocket.close()


open_floods: list[object] = []


@contextlib.contextmanager
def counted_open() -> Iterator[None]:
    open_floods.append(None)
    try:
        yield
    finally:
        open_floods.pop()


async def talk(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        await websocket.send_text(await websocket.receive_text())


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    class Quick(ImpatientProtocol):
        window = unread = PATIENCE

    class QuickSocket(ImpatientSocket):
        unread = PATIENCE

    routes = [Route(f"/{act.__name__}", act, methods=["GET", "POST"]) for act in (echo, refuse, late, tell, flood)]
    sockets = [WebSocketRoute(f"/{act.__name__}", act) for act in (talk, flood_socket)]
    port = unused_port()
    with serving(Starlette(routes=[*routes, *sockets]), port, http=Quick, ws=QuickSocket):
        yield port


def begin(port: int, sent: bytes) -> socket.socket:
    line = socket.create_connection((HOST, port), timeout=60)
    line.sendall(sent)
    return line


def request(path: str, length: int | None = None, body: bytes = b"", more: bytes = b"") -> bytes:
    announced = b"" if length is None else b"Content-Length: %d\r\n" % length
    return (
        (b"GET" if length is None else b"POST")
        + b" /"
        + path.encode()
        + b" HTTP/1.1\r\nHost: x\r\n"
        + announced
        + more
        + b"\r\n"
        + body
    )


def closed_after(line: socket.socket, drip: bytes) -> float:
    """The seconds until the other side has closed, while bytes drip, one in a tenth of the patience."""
    begun = time.monotonic()
    line.settimeout(PATIENCE / 10)
    while time.monotonic() - begun < 20:
        try:
            if not line.recv(1000):
                break
        except TimeoutError:
            with contextlib.suppress(OSError):
                line.sendall(drip)
        except ConnectionError:
            break
    return time.monotonic() - begun


@pytest.mark.parametrize(
    ("sent", "drip"),
    [
        (b"", b""),
        (b"GET / HT", b""),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"a"),
        (request("echo", 1000, b"begun"), b"a"),
        (request("echo", 1000, b"begun"), b""),
        (request("echo", None, b"", b"Transfer-Encoding: chunked\r\n").replace(b"GET", b"POST"), b"1\r\na\r\n"),
        (request("refuse", 100_000, b"begun"), b"a"),
        (request("echo") + b"GET /echo HT", b""),
        (request("echo") + b"GET /echo HTTP/1.1\r\nX-Slow: ", b"a"),
        (request("echo", 3, b"abc") + request("echo", 1000), b"a"),
    ],
)
def test_who_sends_a_request_too_slowly_is_shut_out(port: int, sent: bytes, drip: bytes) -> None:
    with begin(port, sent) as line:
        assert closed_after(line, drip) < 10 * PATIENCE


@pytest.mark.parametrize(
    ("sent", "more"),
    [
        (b"GET /echo?", b"a"),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nX-Long: ", b"a"),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\n", b"X-Many: a\r\n"),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Trailer: ", b"a"),
    ],
)
def test_headers_without_end_are_refused(port: int, sent: bytes, more: bytes) -> None:
    with begin(port, sent) as line:
        time.sleep(PATIENCE / 5)  # what is read at once with a piece of a body is not counted
        line.sendall(more * (MOST_HEADERS // len(more)))
        time.sleep(PATIENCE / 5)  # what the server has not read when it closes would reset the connection
        line.sendall(more * 100)
        assert rest(line, b"too long").startswith(b"HTTP/1.1 400")


def test_many_small_pieces_of_a_body_are_no_long_header(port: int) -> None:
    count = MOST_HEADERS // 4
    pieces = b"1\r\na\r\n" * count + b"0\r\n\r\n"
    with begin(port, b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n") as line:
        line.sendall(pieces)
        assert str(count).encode() in rest(line, str(count).encode())


def test_a_connection_that_is_not_used_any_more_is_closed(port: int) -> None:
    def idle() -> float:
        with begin(port, request("echo")) as line:
            assert b"200" in line.recv(1000)
            return closed_after(line, b"")

    in_time(idle, 7)  # uvicorn's 5 s


def test_a_hundred_slow_ones_keep_nobody_else_out(port: int) -> None:
    with contextlib.ExitStack() as slow:
        lines = [slow.enter_context(begin(port, b"GET /echo HTTP/1.1\r\nX-Slow: ")) for _ in range(100)]
        with begin(port, request("echo")) as line:
            assert b"200" in line.recv(1000)
        assert max(closed_after(line, b"") for line in lines) < 10 * PATIENCE


UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)


@pytest.mark.parametrize("sent", [request("flood"), request("flood_socket", more=UPGRADE)])
def test_who_does_not_read_is_dropped_and_others_get_all(port: int, sent: bytes) -> None:
    with contextlib.ExitStack() as unread:
        lines = [unread.enter_context(begin(port, sent)) for _ in range(5)]
        wait_for(lambda: len(open_floods) == 5)
        with begin(port, sent) as line:
            assert received(line) >= FLOOD
        wait_for(lambda: not open_floods)
        assert max(map(received, lines)) < FLOOD


def received(line: socket.socket) -> int:
    """How many bytes come before the other side closes, or all have come."""
    count = 0
    while count < FLOOD and (piece := line.recv(100_000)):
        count += len(piece)
    return count


def rest(line: socket.socket, until: bytes) -> bytes:
    said = b""
    while until not in said and (piece := line.recv(4000)):
        said += piece
    return said


def send_a_body_in_two_parts(port: int) -> None:
    with begin(port, request("echo", 6, b"abc")) as line:
        time.sleep(PATIENCE / 2)
        line.sendall(b"def")
        assert rest(line, b"\r\n\r\n6")


def wait_for_a_long_answer(port: int) -> None:
    with begin(port, request("tell")) as line:
        assert rest(line, b"0\r\n\r\n").count(b"still here") == 6


def send_what_the_app_does_not_take(port: int) -> None:
    size = 40 * LEAST
    with begin(port, request("late", size)) as line:
        line.sendall(bytes(size))
        assert str(size).encode() in rest(line, str(size).encode())


def wait_until_the_middle_of_a_window(port: int) -> None:
    size = 40 * LEAST
    with begin(port, request("late", size, bytes(size // 4))) as line:
        time.sleep(3.3 * PATIENCE)  # and send the rest in the next one
        line.sendall(bytes(size * 3 // 4))
        assert str(size).encode() in rest(line, str(size).encode())


def send_as_fast_as_it_must_be(port: int) -> None:
    with begin(port, request("echo", 3 * LEAST)) as line:
        for _ in range(6):
            line.sendall(bytes(LEAST // 2))
            time.sleep(PATIENCE / 3)
        assert str(3 * LEAST).encode() in rest(line, str(3 * LEAST).encode())


def say_nothing_on_a_socket(port: int) -> None:
    with open_socket(f"ws://{HOST}:{port}/talk", proxy=None) as talked:
        time.sleep(2 * PATIENCE)
        talked.send("still here")
        assert talked.recv(timeout=60) == "still here"


@pytest.mark.parametrize(
    "act",
    [
        send_a_body_in_two_parts,
        wait_for_a_long_answer,
        send_what_the_app_does_not_take,
        wait_until_the_middle_of_a_window,
        send_as_fast_as_it_must_be,
        say_nothing_on_a_socket,
    ],
)
def test_who_is_merely_unhurried_or_waits_for_the_server_is_served(port: int, act: Callable[[int], None]) -> None:
    undisturbed(lambda: act(port), PATIENCE / 10)
