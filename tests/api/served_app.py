"""The API as a server has it, behind its door, with a client that knows the token. Its jobs' workers do nothing."""

from fastapi.testclient import TestClient

from fine_tuning.api.app import create_app
from fine_tuning.api.security import TOKEN_HEADER, Access, Door, Token
from fine_tuning.config import FineTuningConfig
from fine_tuning.integration.service import Current, Service
from fine_tuning.jobs.queue import Queue

OWN = "http://127.0.0.1:8501"


def door_of(settings: FineTuningConfig | None = None) -> Door:
    service = Service(settings or Current())
    service.queue = Queue(program=("true",))
    return Door(create_app(service), Access(8501), Token())


def client_of(settings: FineTuningConfig | None = None) -> TestClient:
    return TestClient(door_of(settings), base_url=OWN, headers={TOKEN_HEADER: Token().read()})
