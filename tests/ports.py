"""Ports for the servers of tests."""

import errno
import fcntl
import os
import random
import socket
import tempfile
from functools import cache
from pathlib import Path
from typing import IO

PORTS = range(20_000, 32_000)  # below those that systems give to whoever asks for any
_GIVEN: set[int] = set()  # in this process


def unused_port() -> int:
    """Return a port of the loopback address that nobody uses, and no other process of the tests gets.

    Between this call and the server's start the port is nobody's: what the system chose it may
    give away again meanwhile, to a client's end of a connection as well.
    """
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if _is_ours(port) and _is_unused(port):
            return port
    raise OSError(errno.EADDRINUSE, "no port is left for the tests")


def _is_ours(port: int) -> bool:
    """Reserve a port for as long as this process lives: a byte of a file that all tests share.

    The lock keeps out other processes only, so this one notes what it has.
    """
    if port in _GIVEN:
        return False
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except BlockingIOError:
        return False
    _GIVEN.add(port)
    return True


def _is_unused(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@cache
def _reservations() -> IO[bytes]:
    return (Path(tempfile.gettempdir()) / f"byoai-test-ports-{os.getuid()}").open("ab")
