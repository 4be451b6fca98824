"""Ports for the servers of tests."""

import socket


def unused_port() -> int:
    """Return a port of the loopback address that the system chose.

    Tests that run side by side get different ones: a search from a fixed number on may give the
    same port to two, and each would take the other's server for its own.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
