"""The served pages, and a browser before them."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit
from browsing import BASE, DESK, GREEDY, SOON, Serve
from playwright.sync_api import Browser, Page
from ports import unused_port
from streamlit import config
from streamlit.runtime.scriptrunner import script_cache
from streamlit.testing.v1 import local_script_runner

from chatbot import server
from fine_tuning.api.security import Access
from fine_tuning.engines.base import Engine, ModelSpec
from fine_tuning.engines.embedded import EmbeddedEngine


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    """As in the server, pages are compiled once, and as it compiles them: AppTest would do it anew for each run."""
    compiled, magic = script_cache.ScriptCache(), "runner.magicEnabled"
    config.set_option(magic, server._OPTIONS[magic])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_script_runner, "ScriptCache", lambda: compiled)
        yield


@pytest.fixture
def requests() -> list[str]:
    """Every address that the page asked for."""
    return []


@pytest.fixture
def page(chromium: Browser, requests: list[str]) -> Iterator[Page]:
    context = chromium.new_context(**DESK)
    page = context.new_page()
    page.set_default_timeout(SOON)
    page.on("request", lambda request: requests.append(request.url))
    page.on("websocket", lambda websocket: requests.append(websocket.url))
    yield page
    context.close()


@pytest.fixture
def servers() -> list[subprocess.Popen[bytes]]:
    """The servers that `serve` started, the newest last."""
    return []


@pytest.fixture
def serve(home: Path, servers: list[subprocess.Popen[bytes]]) -> Iterator[Serve]:
    """serve(OLLAMA_HOST=...) starts the chat on the test's data folder; its address. `settings`:
    changes of the configuration; `port`: where it answers, by default a free port.
    """

    def start(settings: dict[str, object] | None = None, port: int | None = None, **environment: str) -> str:
        port = port or unused_port()
        config = f"__import__('fine_tuning.config').config.load_config(overrides={settings!r})" if settings else "None"
        code = "from chatbot.server import serve; from fine_tuning.api.security import Access; "
        code += f"serve(Access({port}), browser=False, settings={config})"
        if before := environment.pop("BEFORE", ""):
            code = f"{before}; {code}"
        servers.append(
            subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "BYOAI_HOME": str(home), **environment})
        )
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and servers[-1].poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(Access(port).url + "/_stcore/health"):
                return Access(port).url
            time.sleep(0.1)
        pytest.fail("the chat did not start")

    yield start
    for process in servers:
        process.terminate()
        process.wait(60)


@pytest.fixture
def embedded(home: Path, base_gguf: Path, known_machine: None) -> Engine:
    """The store that the page's embedded engine reads, with the base in it."""
    engine = EmbeddedEngine(home / "engine")
    engine.create(BASE, ModelSpec(from_=base_gguf, parameters=GREEDY))
    return engine


@pytest.fixture
def site(serve: Serve, embedded: Engine) -> str:
    return serve(BYOAI_ENGINE="embedded")


@pytest.fixture
def fresh_app(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let AppTest find the embedded engine, and nothing that another test left in this process."""
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.setenv("BYOAI_ENGINE", "embedded")
    server._default_service.cache_clear()
    streamlit.cache_resource.clear()
    streamlit.cache_data.clear()
    yield
    streamlit.cache_resource.clear()
    streamlit.cache_data.clear()
