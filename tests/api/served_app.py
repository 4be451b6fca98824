"""The API as a server has it, behind its door, with a client that knows the token. Its jobs' workers do nothing."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi.testclient import TestClient

from fine_tuning.api.app import create_app
from fine_tuning.api.security import TOKEN_HEADER, Access, Door, Token
from fine_tuning.config import FineTuningConfig
from fine_tuning.integration.service import Current, Service
from fine_tuning.jobs.queue import Queue

OWN = "http://127.0.0.1:8501"
PATIENCE = 60.0  # seconds


def service_of(settings: FineTuningConfig | None = None) -> Service:
    service = Service(settings or Current())
    service.queue = Queue(program=("true",))
    return service


def door_of(service: Service) -> Door:
    return Door(create_app(service), Access(8501), Token())


def client_of(settings: FineTuningConfig | None = None) -> TestClient:
    return TestClient(door_of(service_of(settings)), base_url=OWN, headers={TOKEN_HEADER: Token().read()})


@contextmanager
def serving(app: Any, port: int, **options: Any) -> Iterator[None]:
    """Serve an ASGI app in a thread within the `with` block; `options`: uvicorn's."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    yield
    server.should_exit = True
    thread.join(PATIENCE)
