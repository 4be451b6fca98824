import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ports import unused_port
from timing import seconds

from fine_tuning.config import FineTuningConfig
from fine_tuning.engines.base import Engine
from fine_tuning.engines.connect import _PATIENCE, connect
from fine_tuning.engines.ollama import OllamaEngine
from fine_tuning.engines.ollama_url import auth_of, server_url
from fine_tuning.errors import ConfigError, EngineTooOld, EngineUnavailable


def _configured(url: str) -> FineTuningConfig:
    return FineTuningConfig.model_validate({"deployment": {"ollama_base_url": url}})


@pytest.fixture(autouse=True)
def nothing_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OLLAMA_HOST", "BYOAI_ENGINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def closed() -> str:
    """A URL at which nothing listens."""
    return f"http://127.0.0.1:{unused_port()}"


@pytest.fixture
def answers() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A web server's URL, and what it says to everything."""
    say = {"body": b"<html>"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            say["signed"] = (self.headers["Authorization"] or "").encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(say["body"])

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", say
        server.shutdown()


def test_without_a_server_the_embedded_engine_takes_over(closed: str, home: Path) -> None:
    engine = connect(config=_configured(closed))
    assert (engine.name, engine.where) == ("embedded", str(home / "engine"))


def test_a_url_that_was_asked_for_and_does_not_answer_is_an_error(closed: str) -> None:
    with pytest.raises(EngineUnavailable, match=rf"does not answer at {closed}\. Start it with `ollama serve`"):
        connect(closed)


def test_a_server_that_accepts_and_says_nothing_is_not_waited_for() -> None:
    made: list[Engine] = []
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        # twenty times the patience that a server gets; that of the client itself is longer still
        assert seconds(lambda: made.append(connect(config=_configured(url))), time.perf_counter) < 20 * _PATIENCE
    (engine,) = made
    assert engine.name == "embedded"


def test_something_else_at_the_url_is_called_so(answers: tuple[str, dict[str, bytes]]) -> None:
    url, say = answers
    for body in (b"<html>", b"[]", b'{"other": 1}'):
        say["body"] = body
        with pytest.raises(EngineUnavailable, match=r"The server at .* Check the URL"):
            connect(url)


@pytest.mark.parametrize("version", ["0.17.0", "0.5.13", "0.17.0-rc9"])
def test_an_old_server_is_refused_even_when_it_was_not_asked_for(
    answers: tuple[str, dict[str, bytes]], version: str
) -> None:
    url, say = answers
    say["body"] = f'{{"version": "{version}"}}'.encode()
    with pytest.raises(EngineTooOld, match=rf"is {version}, and byoai needs 0\.17\.1 or newer"):
        connect(config=_configured(url))


@pytest.mark.parametrize("version", ["0.17.1", "0.32.15", "1.0", "0.0.0", "0.18.0-rc1"])
def test_newer_servers_and_builds_without_a_number_are_taken(
    answers: tuple[str, dict[str, bytes]], version: str
) -> None:
    url, say = answers
    say["body"] = f'{{"version": "{version}"}}'.encode()
    assert connect(config=_configured(url)).where == url


def test_an_argument_goes_before_the_environment_and_that_before_the_configuration(
    answers: tuple[str, dict[str, bytes]], closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, say = answers
    say["body"] = b'{"version": "0.32.15"}'
    monkeypatch.setenv("OLLAMA_HOST", url.removeprefix("http://"))
    assert connect(config=_configured(closed)).where == url
    with pytest.raises(EngineUnavailable):
        connect(closed)
    monkeypatch.setenv("OLLAMA_HOST", closed)
    assert connect(url).where == url
    assert connect(config=_configured(url)).name == "embedded"


def test_either_engine_can_be_forced(
    answers: tuple[str, dict[str, bytes]], closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, say = answers
    say["body"] = b'{"version": "0.32.15"}'
    assert connect(config=_configured(url), prefer="embedded").name == "embedded"
    with pytest.raises(EngineUnavailable):
        connect(config=_configured(closed), prefer="ollama")
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    assert connect(config=_configured(url)).name == "embedded"
    assert connect(url).name == "ollama"  # an explicit URL says more than the environment
    monkeypatch.setenv("BYOAI_ENGINE", "vllm")
    with pytest.raises(ConfigError, match="must be 'ollama', 'embedded'"):
        connect()


def test_the_key_of_an_account_at_ollama_com_goes_to_no_other_server(
    answers: tuple[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "the-key")
    url, say = answers
    say["body"] = b'{"version": "0.32.15", "models": []}'
    engine = OllamaEngine(url)
    for ask in (engine.version, engine.list_models, engine.loaded):
        say["signed"] = b"nothing asked"
        ask()
        assert say["signed"] == b""
    OllamaEngine(url.replace("//", "//ada:word@")).loaded()
    assert say["signed"].startswith(b"Basic ")


@pytest.mark.parametrize(
    ("url", "knows"),
    [
        ("https://ollama.com", True),
        ("https://ollama.com:443", True),
        ("https://api.ollama.com/", True),
        ("http://ollama.com", False),  # anybody on the way could read it
        ("https://ollama.com.evil.test", False),
        ("https://notollama.com", False),
        ("https://evil.test/ollama.com", False),
        ("http://127.0.0.1:11434", False),
        ("https://10.0.0.7", False),
    ],
)
def test_which_server_is_ollama_com(url: str, knows: bool) -> None:
    assert (auth_of(server_url(url)) is None) == knows


@pytest.mark.engine
def test_the_real_server_is_found(ollama_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama_url)
    engine = connect()
    assert (engine.name, engine.where) == ("ollama", ollama_url)
