"""What a server needs besides its routes: a free port, the thread that tends the jobs, and the server without pages."""

import os
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial

from fine_tuning.api.security import LOOPBACK, Access, Door, Token
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.errors import ByoaiError
from fine_tuning.integration.service import Current, Service
from fine_tuning.jobs import scheduler

PORT = 8501
_TRIED = 20  # ports


def free_port(first: int = PORT, address: str = LOOPBACK[0]) -> int:
    """Return the first free port from `first` on. ByoaiError if twenty in a row are taken."""
    for port in range(first, min(first + _TRIED, 65_536)):
        if _is_free(port, address):
            return port
    raise ByoaiError(f"no free port on {address} from {first} on ({_TRIED} tried): name another with --port")


def check_port(access: Access) -> None:
    """Raise ByoaiError if the port is taken."""
    if not _is_free(access.port, access.address):
        raise ByoaiError(f"port {access.port} of {access.address} is taken: name another with --port, or none to get the next free one")


def _is_free(port: int, address: str) -> bool:
    with closing(socket.socket()) as probe:
        if os.name != "nt":  # on Windows the option would take a port that is in use
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


@contextmanager
def tended(service: Service, settings: Callable[[], FineTuningConfig] = load_config) -> Iterator[None]:
    """Begin and end jobs meanwhile, and start retrains by the schedule. What is not detached is stopped at the end."""
    ended = threading.Event()
    schedule = partial(scheduler.run, queue=service.queue, settings=settings)
    threads = [
        threading.Thread(target=work, args=(ended,), name=name, daemon=True)
        for name, work in (("jobs", service.queue.run), ("schedule", schedule))
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(timeout=5)


def serve(access: Access, settings: FineTuningConfig | None = None) -> None:
    """Serve the API without pages until interrupted. ByoaiError if the port is taken, DataError if the log is not one."""
    import uvicorn
    from fastapi import FastAPI

    from fine_tuning.api.app import create_app

    check_port(access)
    service = Service(settings or Current())
    ConversationLogger(service.config.log_path).check()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        with tended(service, lambda: settings or load_config()):
            yield

    app = create_app(service, lifespan)
    uvicorn.run(
        Door(app, access, Token()),
        host=access.address,
        port=access.port,
        log_level="warning",
        server_header=False,
        ssl_certfile=access.certificate,
        ssl_keyfile=access.key,
    )
