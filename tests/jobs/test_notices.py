"""Notices: whoever the settings name is told once that a job has ended, however it did; nobody else
is, and no job suffers from it.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_queue import LONG, begun
from timing import in_time
from waiting import PATIENCE, wait_for

from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.config.notify import Notify
from fine_tuning.errors import ByoaiError, ConfigError
from fine_tuning.events import Watch
from fine_tuning.jobs import notices, store
from fine_tuning.jobs.doing import listed
from fine_tuning.jobs.kinds import RetrainRequest
from fine_tuning.jobs.notices import Notice, deliver, may_be_called
from fine_tuning.jobs.processes import this_process
from fine_tuning.jobs.queue import Queue, settle
from fine_tuning.jobs.store import Job, State

NOTICE = Notice("20261128-1", "retrain", "failed", "the disk is full: make room")
SECRET = "hook-s3cr3t"


class Received(list[tuple[str, dict[str, Any]]]):
    """What a server was sent: path and JSON of each."""

    port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{SECRET}?token={SECRET}"


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[Received]:
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, json.loads(body)))
            answer(self)

        def do_GET(self) -> None:
            received.append(("GET " + self.path, {}))
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        received.port = server.server_address[1]
        yield received
        server.shutdown()


def answering(status: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()

    return answer


def to(received: Received, **more: Any) -> dict[str, Any]:
    return {"url": received.url, "allow_hosts": ["127.0.0.1"], **more}


def script(folder: Path, code: str) -> list[str]:
    file = folder / "program.py"
    file.write_text(code)
    return [sys.executable, str(file)]


def writes(folder: Path) -> list[str]:
    """A command that appends its arguments and its environment to a file."""
    code = (
        "import json, os, sys\n"
        "told = {key: os.environ[f'BYOAI_{key}'] for key in ('JOB', 'KIND', 'STATE', 'REASON')}\n"
        f"open({str(folder / 'told')!r}, 'a').write(json.dumps([sys.argv[1:], told]) + '\\n')\n"
    )
    return script(folder, code)


def told(folder: Path) -> list[Any]:
    file = folder / "told"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


# Once for each end, of every kind


@pytest.mark.parametrize(
    ("request_", "state", "reason"),
    [
        ({}, "completed", "counted to 3"),
        ({"fails": "no such thing: get one"}, "failed", "no such thing: get one"),
        ({"fails": "the key is sk-abcdefghijklmnop1234567890ABCD"}, "failed", "the key is [SECRET]"),
        ({"ends": "exit", "says": "its last words"}, "failed", "its last words"),
        ({"ends": "SIGKILL"}, "interrupted", "its process was killed"),
        ({"ends": "SIGSEGV"}, "failed", "its process crashed (SIGSEGV)"),
        ({"ends": "SIGTERM", "counts": 100}, "interrupted", "its process was told to end"),
    ],
)
def test_command_and_url_are_told_once_of_every_end(
    queue: Queue, tmp_path: Path, request_: dict[str, Any], state: str, reason: str
) -> None:
    with serving(answering(204)) as received:
        notify = to(received, command=[*writes(tmp_path), "{state} {job}", "{reason}"])
        job = queue.wait(queue.submit("small", {**request_, "config": {"notify": notify}}).id, PATIENCE)
        wait_for(lambda: received and told(tmp_path))
        queue.jobs()
        settle()
        time.sleep(0.5)
        assert len(received) == len(told(tmp_path)) == 1
    ((path, body),), ((arguments, environment),) = received, told(tmp_path)
    assert path == f"/{SECRET}?token={SECRET}" and body["reason"].startswith(reason)
    assert body == {"job": job.id, "kind": "small", "state": state, "reason": job.reason}
    assert arguments == [f"{state} {job.id}", job.reason]
    assert environment == {"JOB": job.id, "KIND": "small", "STATE": state, "REASON": job.reason}
    assert "no notice" not in job.log.read_text()


@pytest.mark.parametrize("grace", [0.2, 20])
def test_a_cancelled_one_is_told_where_that_is_asked_for(queue: Queue, tmp_path: Path, grace: float) -> None:
    asked = {**LONG, "deaf": grace < 1, "config": {"notify": {"on": ["cancelled"], "command": writes(tmp_path)}}}
    job = begun(queue, queue.submit("small", asked))
    queue.cancel(job.id, grace=grace)
    assert queue.wait(job.id, PATIENCE).state == State.CANCELLED
    wait_for(lambda: told(tmp_path))
    time.sleep(0.5)
    assert [each[1]["STATE"] for each in told(tmp_path)] == ["cancelled"]


@pytest.mark.parametrize("on", [["failed"], ["interrupted", "cancelled"], []])
def test_other_ends_are_not_told(queue: Queue, tmp_path: Path, on: list[str]) -> None:
    job = queue.wait(
        queue.submit("small", {"config": {"notify": {"on": on, "command": writes(tmp_path)}}}).id, PATIENCE
    )
    time.sleep(0.7)
    assert job.state == State.COMPLETED and told(tmp_path) == []


def test_each_attempt_of_one_that_is_resumed_is_told(queue: Queue, tmp_path: Path, home: Path) -> None:
    asked = {
        "counts": 2,
        "ends": "SIGKILL",
        "run": str(home / "runs" / "r"),
        "config": {"notify": {"command": writes(tmp_path)}},
    }
    job = queue.wait(queue.submit("small", asked).id, PATIENCE)
    queue.resume(job.id)
    queue.wait(job.id, PATIENCE)
    queue.resume(job.id)
    assert queue.wait(job.id, PATIENCE).state == State.COMPLETED
    wait_for(lambda: len(told(tmp_path)) == 3)
    assert sorted(each[1]["STATE"] for each in told(tmp_path)) == ["completed", "interrupted", "interrupted"]


@pytest.mark.parametrize(
    ("raised", "state"), [(None, "completed"), (ByoaiError("it broke"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_work_of_a_terminal_is_told_too(home: Path, tmp_path: Path, raised: BaseException | None, state: str) -> None:
    request = RetrainRequest(config=FineTuningConfig(notify={"command": writes(tmp_path)}))
    with suppress(ByoaiError, KeyboardInterrupt), listed("retrain", request, Watch()):
        if raised:
            raise raised
    wait_for(lambda: told(tmp_path))
    assert [each[1]["STATE"] for each in told(tmp_path)] == [state] and store.find()[0].state == state


def test_one_whose_program_was_killed_is_told_by_whoever_finds_it(home: Path, tmp_path: Path) -> None:
    config = FineTuningConfig(notify={"command": writes(tmp_path)}).model_dump(mode="json")
    dead = replace(this_process(), pid=this_process().pid, started=1.0)
    job = store.add("retrain", {"config": config}, here=dead)
    threads = [threading.Thread(target=settle) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    wait_for(lambda: told(tmp_path))
    time.sleep(0.5)
    assert [each[1]["JOB"] for each in told(tmp_path)] == [job.id] and store.get(job.id).state == State.INTERRUPTED


def test_what_cannot_even_be_started_is_told(queue: Queue, tmp_path: Path) -> None:
    Queue(("/no/such/python",)).submit("small", {"config": {"notify": {"command": writes(tmp_path)}}})
    wait_for(lambda: told(tmp_path))
    assert "could not be started" in told(tmp_path)[0][1]["REASON"]


@pytest.mark.parametrize(
    "request_", [{}, {"config": None}, {"config": {}}, {"config": {"notify": {"on": ["never"]}}}, {"config": "x"}]
)
def test_a_request_without_settings_is_no_matter(home: Path, request_: dict[str, Any]) -> None:
    job = store.add("retrain", request_, here=this_process())
    notices.send(replace(job, state=State.FAILED, reason="x"))
    assert not job.log.exists()


# What goes wrong is written into the log, and into it alone


def test_what_cannot_be_delivered_is_a_line_in_the_log_and_changes_nothing(queue: Queue) -> None:
    with serving(answering(500)) as received:
        notify = to(received, command=["/no/such/program"])
        job = queue.wait(queue.submit("small", {"config": {"notify": notify}}).id, PATIENCE)
        wait_for(lambda: job.log.read_text().count("no notice") == 2, what="the faults")
    assert store.get(job.id) == job and (job.state, job.reason, job.exit_code) == (State.COMPLETED, "counted to 3", 0)
    assert "/no/such/program could not be started: No such file" in job.log.read_text()
    assert "127.0.0.1 responded with status 500" in job.log.read_text() and SECRET not in job.log.read_text()


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("raise SystemExit(7)", "ended with exit code 7"),
        ("import sys; sys.exit('no display')", "ended with exit code 1: no display"),
        ("import os; os.kill(os.getpid(), 9)", "ended with exit code -9"),
        ("print('x' * 100_000); raise SystemExit(2)", "ended with exit code 2"),
        ("import time; time.sleep(60)", "took longer than 1 seconds"),
        (
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
            "took longer than 1 seconds",
        ),
    ],
)
def test_a_command_that_fails_or_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, fault: str) -> None:
    if "took longer" in fault:  # any other one may start as slowly as it likes
        monkeypatch.setattr(notices, "_PATIENCE", 1)
    (said,) = deliver(Notify(command=tuple(script(tmp_path, code))), NOTICE)
    assert fault in said


def test_no_shell_reads_the_command_and_no_fact_becomes_an_option(tmp_path: Path) -> None:
    command = [
        *writes(tmp_path),
        "$(id); {reason} && rm -rf ~",
        "{reason}",
        "-t",
        "--{state}",
        "{nothing}",
        "{job}{job}",
    ]
    assert deliver(Notify(command=tuple(command)), replace(NOTICE, reason="--help {job}", job="j1")) == []
    ((arguments, _),) = told(tmp_path)
    assert arguments == ["$(id); --help {job} && rm -rf ~", " --help {job}", "-t", "--failed", "{nothing}", "j1j1"]


@given(st.text())
def test_any_reason_becomes_a_line_that_an_environment_can_hold(reason: str) -> None:
    job = Job(  # type: ignore[arg-type]
        **{
            **dict.fromkeys(Job.__dataclass_fields__, None),
            "id": "1",
            "kind": "k",
            "state": State.FAILED,
            "reason": reason,
        }
    )
    line = Notice.of(job).reason
    assert len(line) <= 500 and line.isprintable() and line.encode()[:1] == os.fsencode(line)[:1]


# The URL


def fault_of(notify: dict[str, Any]) -> str:
    (fault,) = deliver(Notify.model_validate(notify), NOTICE)
    assert SECRET not in fault
    return fault


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int) -> None:
    with serving(answering(200)) as elsewhere, serving(answering(status, Location=elsewhere.url)) as received:
        assert f"responded with status {status}; redirects are not followed" in fault_of(to(received))
    assert len(received) == 1 and not elsewhere


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_success_is_success(status: int) -> None:
    with serving(answering(status)) as received:
        assert deliver(Notify.model_validate(to(received)), NOTICE) == []
    assert received[0][1] == {"job": "20261128-1", "kind": "retrain", "state": "failed", "reason": NOTICE.reason}


def test_no_proxy_of_the_environment_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answering(200)) as proxy, serving(answering(200)) as received:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert deliver(Notify.model_validate(to(received)), NOTICE) == []
    assert len(received) == 1 and not proxy


def drip(handler: BaseHTTPRequestHandler) -> None:
    for _ in range(100):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n"[:1])
        handler.wfile.flush()
        time.sleep(0.2)


@pytest.mark.parametrize("answer", [lambda handler: time.sleep(20), drip], ids=["silent", "drip"])
def test_a_host_that_does_not_answer_is_left(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    monkeypatch.setattr(notices, "_ANSWER", 1.0)

    def left() -> float:
        started = time.monotonic()
        with serving(answer) as received:
            fault = fault_of(to(received))
        assert "did not respond within 1 seconds" in fault or "timed out" in fault
        return time.monotonic() - started

    in_time(left, 5)


def test_no_http_at_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            link, _ = server.accept()
            with link:
                while not link.recv(10_000).endswith(b"}"):
                    pass
                link.sendall(f"220 {SECRET} ESMTP\r\n".encode())

        threading.Thread(target=answer, daemon=True).start()
        notify = {"url": f"http://127.0.0.1:{server.getsockname()[1]}/{SECRET}", "allow_hosts": ["127.0.0.1"]}
        assert "did not respond in HTTP" in fault_of(notify)
    with socket.socket() as held:  # a port that nobody can listen on
        held.bind(("127.0.0.1", 0))
        for scheme in ("http", "https"):
            url = f"{scheme}://127.0.0.1:{held.getsockname()[1]}/{SECRET}"
            assert "cannot be reached" in fault_of({**notify, "url": url})


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:{}/",
        "http://LOCALHOST:{}/",
        "http://localhost.:{}/",
        "http://127.0.0.1:{}/",
        "http://127.1:{}/",
        "http://2130706433:{}/",
    ],
)
def test_the_machine_itself_hears_of_it_only_where_it_is_listed_by_name(url: str) -> None:
    with serving(answering(200)) as received:
        url = url.format(received.port)
        host = url.removeprefix("http://").rpartition(":")[0]
        plain = host.lower().rstrip(".") in ("localhost", "127.0.0.1")
        assert bool(deliver(Notify.model_validate({"url": url, "allow_hosts": [host]}), NOTICE)) is not plain
        assert deliver(Notify.model_validate({"url": url, "allow_hosts": [host, "127.0.0.1"]}), NOTICE) == []
    assert len(received) == 1 + plain


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.8.8.8",
            "10.0.0.5",
            "172.16.3.4",
            "192.168.1.5",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "192.0.2.1",
        ),
        *(
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fe80::1%eth0",
            "fc00::1",
            "fd12:3456::1",
            "ff02::1",
            "2001:db8::1",
        ),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::1", "no address"),
    ],
)
def test_addresses_that_are_not_public_are_refused_unless_they_are_listed(address: str) -> None:
    assert not may_be_called("hooks.example.org", address, ("hooks.example.org", "localhost"))
    inner = {"::ffff:127.0.0.1": "127.0.0.1", "fe80::1%eth0": "fe80::1"}.get(address, address)
    if address != "no address":
        assert may_be_called("hooks.example.org", address, ("hooks.example.org", inner))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_public_addresses_are_called(address: str) -> None:
    assert may_be_called("hooks.example.org", address, ("hooks.example.org",))


def test_a_name_that_leads_home_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a rebinding attack does: asked once, and called at the very address that was judged."""
    real, asked = socket.getaddrinfo, []

    def look_up(host: str, *more: Any, **other: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if host == "hooks.example.org" else host, *more, **other)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with serving(answering(200)) as received:
        notify = {"url": f"http://hooks.example.org:{received.port}/{SECRET}", "allow_hosts": ["hooks.example.org"]}
        assert "has the address 127.0.0.1, which is not public" in fault_of(notify)
        assert not received and asked == ["hooks.example.org"]
        assert (
            deliver(Notify.model_validate({**notify, "allow_hosts": ["hooks.example.org", "127.0.0.1"]}), NOTICE) == []
        )
        assert len(received) == 1 and asked.count("hooks.example.org") == 2


# The settings


@pytest.mark.parametrize(
    ("notify", "said"),
    [
        ({"url": f"https://hooks.example.org/{SECRET}"}, "notify.allow_hosts: [hooks.example.org]"),
        (
            {"url": f"https://hooks.example.org.evil.com/{SECRET}", "allow_hosts": ["hooks.example.org"]},
            "[hooks.example.org.evil.com]",
        ),
        ({"url": f"https://sub.example.org/{SECRET}", "allow_hosts": ["example.org"]}, "[sub.example.org]"),
        (
            {"url": f"https://hooks.example.org:{SECRET}@evil.com/", "allow_hosts": ["evil.com"]},
            "a user name or a password",
        ),
        ({"url": f"https://user@evil.com/{SECRET}", "allow_hosts": ["evil.com"]}, "a user name or a password"),
        (
            {"url": f"https://evil.com\\@hooks.example.org/{SECRET}", "allow_hosts": ["hooks.example.org"]},
            "characters that are not allowed in a URL",
        ),
        (
            {"url": f"https://hooks.example.org/\r\nX: {SECRET}", "allow_hosts": ["hooks.example.org"]},
            "characters that are not allowed in a URL",
        ),
        ({"url": f"https://höoks.example/{SECRET}", "allow_hosts": ["höoks.example"]}, "is not a host"),
        ({"url": f"file:///etc/{SECRET}"}, "must begin with https://HOST"),
        ({"url": f"gopher://x/{SECRET}", "allow_hosts": ["x"]}, "must begin with https://HOST"),
        ({"url": f"//x/{SECRET}", "allow_hosts": ["x"]}, "must begin with https://HOST"),
        ({"url": f"https://x:99999/{SECRET}", "allow_hosts": ["x"]}, "an invalid host or port"),
        ({"url": f"https://[::1/{SECRET}", "allow_hosts": ["::1"]}, "an invalid host or port"),
        ({"url": f"https:///{SECRET}"}, "must begin with https://HOST"),
        ({"allow_hosts": ["https://x.org"]}, "is not a host"),
        ({"allow_hosts": ["x.org:443"]}, "is not a host"),
        ({"allow_hosts": ["*"]}, "is not a host"),
        ({"allow_hosts": ["*.example.org"]}, "is not a host"),
        ({"command": "notify-send done"}, "notify.command"),
        ({"command": [" ", "x"]}, "command is blank"),
        ({"on": ["done"]}, "notify.on"),
    ],
)
def test_settings_that_cannot_be_meant_are_faults_and_no_secret_is_shown(notify: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides={f"notify.{key}": value for key, value in notify.items()})
    assert said in str(caught.value) and SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://hooks.example.org/x", "Hooks.Example.org."),
        ("https://HOOKS.example.org:8443/x?y=1", "hooks.example.org"),
        ("http://[::1]:8080/x", "[::1]"),
        ("http://[::1]:8080/x", "0:0:0:0:0:0:0:1"),
        ("http://192.168.1.5/x", "192.168.1.5"),
        ("http://ntfy_server.lan/x", "ntfy_server.lan"),
    ],
)
def test_a_host_is_known_however_it_is_written(url: str, host: str) -> None:
    assert load_config(overrides={"notify.url": url, "notify.allow_hosts": [host]}).notify.url == url


def test_notices_change_nothing_of_a_run_that_is_gone_on_with(home: Path) -> None:
    from fine_tuning.resuming import _learned_as

    plain = FineTuningConfig().model_dump(mode="json")
    other = FineTuningConfig(notify={"command": ["true"]}, tracking={"mlflow": "off"}).model_dump(mode="json")
    assert plain != other and _learned_as(plain) == _learned_as(other)


def test_a_signal_to_the_workers_group_does_not_reach_the_notice(queue: Queue, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("begun", "done")]
    slow = script(tmp_path, f"import time; open({files[0]!r}, 'w'); time.sleep(1); open({files[1]!r}, 'w')")
    job = queue.submit("small", {"config": {"notify": {"command": slow}}})
    wait_for((tmp_path / "begun").exists)
    process = store.get(job.id).process
    assert process and store.get(job.id).over
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    wait_for((tmp_path / "done").exists)
