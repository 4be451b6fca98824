"""A frozen Ollama behind a real server: what needs no engine goes on, and the rest fails with a clear error."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from own_ollama import OwnOllama
from ports import unused_port
from served_api import wait_for
from served_app import PATIENCE, service_of, serving
from timing import seconds

from fine_tuning.api import engine_threads
from fine_tuning.api.app import create_app
from fine_tuning.api.security import TOKEN_HEADER, Access, Door, Token
from fine_tuning.engines.base import ModelSpec
from fine_tuning.jobs import store

ASKED = {"model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
WAITING = engine_threads.THREADS + 30  # with the rest, more than asyncio and Starlette have threads
SOON = 3.0  # seconds


@pytest.mark.engine
def test_a_frozen_engine_stops_neither_the_log_nor_uploads_nor_watchers(
    home: Path, base_gguf: Path, own_ollama: OwnOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_ollama.start().create("base:latest", ModelSpec(base_gguf))
    monkeypatch.setenv("OLLAMA_HOST", own_ollama.url)
    monkeypatch.delenv("BYOAI_ENGINE", raising=False)
    monkeypatch.setattr(engine_threads, "PATIENCE", 0.5)
    store.add("plan", {}, id="waits")
    answers: list[httpx.Response] = []
    port = unused_port()
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{port}",
        headers={TOKEN_HEADER: Token().read()},
        timeout=PATIENCE,
        limits=httpx.Limits(max_connections=None),
    )

    def ask(number: int) -> None:
        chats = number % 2 == 0
        answers.append(client.post("/v1/chat/completions", json=ASKED) if chats else client.get("/api/models"))

    def watch() -> None:
        with client.stream("GET", "/api/jobs/waits/events") as told:
            line = next(line for line in told.iter_lines() if line.startswith("data:"))
        assert json.loads(line.removeprefix("data:"))["state"] == "queued"

    def upload() -> None:
        new = client.post("/api/uploads", json={"name": "chats.jsonl", "bytes": 3}).json()
        sent = client.put(
            f"/api/uploads/{new['id']}?offset=0", content=b"abc", headers={"content-type": "application/octet-stream"}
        )
        assert sent.json()["size"] == 3

    with serving(Door(create_app(service_of()), Access(port), Token()), port), client:
        assert client.get("/api/models").status_code == 200
        own_ollama.freeze()
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(WAITING)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(answers) >= WAITING - engine_threads.THREADS)  # the others wait for the engine
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.json()["error"]["type"] for answer in answers} == {"EngineUnavailable"}
        assert "start the engine again" in answers[0].json()["error"]["message"]
        for act in (upload, watch, lambda: client.get("/api/conversations").raise_for_status()):
            assert seconds(act, time.monotonic) < SOON
        own_ollama.thaw()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(answers) == WAITING
        assert client.post("/v1/chat/completions", json=ASKED).status_code == 200


@pytest.mark.engine
def test_a_server_ends_at_ctrl_c_although_the_engine_is_frozen_in_the_middle_of_an_answer(
    home: Path, base_gguf: Path, own_ollama: OwnOllama
) -> None:
    own_ollama.start().create("base:latest", ModelSpec(base_gguf))
    port = unused_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "fine_tuning", "serve", "--port", str(port)],
        env={**os.environ, "OLLAMA_HOST": own_ollama.url, "BYOAI_ENGINE": "ollama"},
        stdout=subprocess.PIPE,
    )
    assert server.stdout and server.stdout.readline()
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE)
    wait_for(lambda: answers_at(client))
    try:
        with client.stream("POST", "/v1/chat/completions", json={**ASKED, "max_tokens": 2000, "stream": True}) as told:
            assert next(told.iter_lines())
            own_ollama.freeze()
            server.send_signal(signal.SIGINT)
            assert server.wait(PATIENCE) in (0, 130)
    finally:
        server.kill()


def answers_at(client: httpx.Client) -> bool:
    with suppress(httpx.TransportError):
        return client.get("/api/versions").is_success
    return False
