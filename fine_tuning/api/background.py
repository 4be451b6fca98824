"""Run a server: find a free port, run jobs and the schedule in threads, and serve the API without the chat pages."""

import errno
import os
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path

from fine_tuning import paths
from fine_tuning.api.security import LOOPBACK, PAGE, Access, Door, Token
from fine_tuning.config import FineTuningConfig
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.errors import ByoaiError
from fine_tuning.integration.service import Service
from fine_tuning.jobs import processes, scheduler
from fine_tuning.jobs.store import Process

PORT = 8501
_TRIED = 20  # number of ports to try
_WAITING = 2048  # connections that the system accepts before the server does


def free_port(first: int = PORT, address: str = LOOPBACK[0]) -> int:
    """Return the first free port of `address` from `first` on.

    Raises ByoaiError if twenty consecutive ports are taken.
    """
    for port in range(first, min(first + _TRIED, 65_536)):
        if is_free(port, address):
            return port
    raise ByoaiError(
        f"no free port was found on {address} ({_TRIED} ports from {first} on were tried): choose another with --port"
    )


def check_start(access: Access) -> None:
    """Check what a server needs before it starts.

    Raises ByoaiError if the port of `access` cannot be used, the data folder cannot be written, or
    its token cannot be read.
    """
    paths.check_writable(paths.home())
    Token().read()
    check_port(access)


def check_port(access: Access) -> None:
    """Raise ByoaiError if the port of `access` is taken, or this user may not use it."""
    if (error := _refusal(access.port, access.address)) is not None:
        raise _explained(access, error)


def _explained(access: Access, error: OSError) -> ByoaiError:
    if error.errno == errno.EACCES:
        return ByoaiError(f"this user may not use port {access.port}: choose one from 1024 on with --port")
    return ByoaiError(
        f"port {access.port} of {access.address} is already in use: choose another with --port, or leave out --port "
        "to get the next free one"
    )


def is_free(port: int, address: str) -> bool:
    return _refusal(port, address) is None


def _refusal(port: int, address: str) -> OSError | None:
    """Return the error with which the system refuses a port; None if it can be used."""
    with closing(socket.socket()) as probe:
        try:
            _take(probe, port, address)
        except OSError as error:
            return error
    return None


def _take(found: socket.socket, port: int, address: str) -> None:
    if os.name != "nt":  # on Windows the option would allow binding a port that is in use
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind((address, port))


@contextmanager
def listening(access: Access) -> Iterator[socket.socket]:
    """Yield a socket that listens on the port of `access`, and close it after the `with` block.

    A server takes its port with this before it starts anything else, so that of two servers that found
    the same port free only one gets it. Raises ByoaiError as `check_port` does.
    """
    with closing(socket.socket()) as found:
        try:
            _take(found, access.port, access.address)
            found.listen(_WAITING)
        except OSError as error:
            raise _explained(access, error) from error
        yield found


def running() -> str | None:
    """Return the URL of the page to train on of this data folder's running server; None if no server is running."""
    process, page = _noted()
    return page if process and processes.is_alive(process) else None


def _noted() -> tuple[Process | None, str]:
    """Return the process that server.json names, and its page; (None, "") if the file is missing or damaged."""
    try:
        noted = paths.read_json(_note())
        return Process(int(noted["pid"]), float(noted["started"])), str(noted["page"])
    except (ByoaiError, ValueError, KeyError, TypeError, OverflowError):
        return None, ""


def _note() -> Path:
    return paths.home() / "server.json"


@contextmanager
def tended(service: Service, access: Access, page: str = PAGE) -> Iterator[None]:
    """Run jobs and the schedule in threads within the `with` block, with the server's process in server.json.

    At the end of the block, jobs that are not detached are stopped.

    Args:
        service: The source of the queue and the settings.
        access: The server's names and port.
        page: The path of the page to train on. It is noted for `start-tuning`, which cannot ask a
            server for it that wants a token, or whose certificate it does not know.
    """
    ended, me = threading.Event(), processes.this_process()
    schedule = partial(scheduler.run, queue=service.queue, settings=lambda: service.config)
    work: dict[str, Callable[[threading.Event], None]] = {"jobs": service.queue.run, "schedule": schedule}
    threads = [threading.Thread(target=target, args=(ended,), name=name, daemon=True) for name, target in work.items()]
    Token().read()  # creates the token, so that programs can read it
    paths.write_json(_note(), {"pid": me.pid, "started": me.started, "page": access.url + page})
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(timeout=5)
        if _noted()[0] == me:  # else another server of this data folder has noted itself
            _note().unlink(missing_ok=True)


def serve(access: Access, settings: FineTuningConfig | None = None, ollama_url: str | None = None) -> None:
    """Serve the API without the chat pages until interrupted.

    Args:
        access: The port, and who may reach it.
        settings: The configuration; by default the configuration file with the user's settings.
        ollama_url: The URL of Ollama; by default OLLAMA_HOST, or else the URL in the
            configuration.

    Raises the errors of `check_start`, and DataError for a damaged log.
    """
    from fastapi import FastAPI

    from fine_tuning.api.answering import answers_of
    from fine_tuning.api.app import create_app
    from fine_tuning.api.web_server import run

    check_start(access)
    service = Service(settings, ollama_url)
    ConversationLogger(service.config.log_path).check()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        with tended(service, access):
            yield
            await answers_of(app).parted()

    run(Door(create_app(service, lifespan), access, Token()), access)
