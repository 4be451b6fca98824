"""The command mlflow: serve MLflow's pages about the runs to browsers on this machine only."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path

from fine_tuning.cli.options import Commands, port
from fine_tuning.errors import ByoaiError

_HOST = "127.0.0.1"
_START = 120.0  # timeout in seconds: MLflow is slow to load, and creates its tables the first time
_LOOK = 5.0  # seconds between updates of running jobs


def add_commands(commands: Commands) -> None:
    """Add the command of this module to the program."""
    command = commands.add(
        "mlflow",
        _mlflow,
        "open MLflow's pages about the runs: settings, curves, figures",
        "Only this machine can reach them. They need the extra byoai[mlflow].",
        json=False,
    )
    command.add_argument(
        "--port", type=port, default=5000, metavar="N", help="port of the pages (default: %(default)s)"
    )
    command.add_argument("--no-browser", action="store_true", help="serve the pages without opening a browser")


def _mlflow(options: argparse.Namespace) -> None:
    from fine_tuning.api.background import is_free
    from fine_tuning.jobs.tracking import INSTALL, Tracker, is_installed

    if not is_installed():
        raise ByoaiError(f"MLflow is not installed (byoai works without it). To install it: {INSTALL}")
    if not is_free(options.port, _HOST):
        raise ByoaiError(f"another program uses port {options.port}: choose another one with --port")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM also stops the server
    print("bringing MLflow's store up to date ...", flush=True)
    tracker = Tracker()
    tracker.catch_up()
    address = f"http://{_HOST}:{options.port}"
    with _served(options.port) as server:
        _wait(server, address)
        print(f"MLflow is at {address} (Ctrl-C ends it)", flush=True)
        if not options.no_browser:
            webbrowser.open(address)
        while server.poll() is None:
            time.sleep(_LOOK)
            with contextlib.suppress(ByoaiError):  # for example a full disk; the next update tries again
                tracker.catch_up()
    raise _ended()


@contextlib.contextmanager
def _served(port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run MLflow's server, in a process of its own, within the `with` block; yield the process.

    The server accepts only requests whose header Host is its own address.
    """
    from fine_tuning.jobs.tracking import store_uri

    options = {
        "backend-store-uri": store_uri(),
        "default-artifact-root": (_folder() / "artifacts").as_uri(),
        "host": _HOST,
        "port": str(port),
        "workers": "1",
        "allowed-hosts": f"{_HOST}:{port},localhost:{port}",
        "x-frame-options": "DENY",
    }
    told = [part for name, value in options.items() for part in (f"--{name}", value)]
    # Switch off features that byoai does not use and that would widen the attack surface.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_ENABLE_AI_GATEWAY": "false"}
    with _log().open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "mlflow", "server", *told, "--no-serve-artifacts"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=_folder(),
            env=environment,
        )
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


def _wait(server: "subprocess.Popen[bytes]", address: str) -> None:
    """Wait until the server answers. Raises ByoaiError if it ends or takes too long."""
    import urllib.request  # imported here, since it would slow down `byoai --help`

    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # without a proxy, for a local server
    deadline = time.monotonic() + _START
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), direct.open(f"{address}/health", timeout=5):
            return
        time.sleep(0.3)
    raise _ended()


def _ended() -> ByoaiError:
    return ByoaiError(f"MLflow's server ended or did not start: its log {_log()} says why")


def _log() -> Path:
    return _folder() / "server.log"


def _folder() -> Path:
    from fine_tuning import paths

    return paths.tracking_dir()
