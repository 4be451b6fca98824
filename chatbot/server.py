"""The chat's web server: one ASGI app on 127.0.0.1, and before it one door that says who may talk to it and what a page may load."""

import asyncio
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatbot.log_watch import keep_looking
from chatbot.session import stop_all
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.errors import ByoaiError
from fine_tuning.jobs import scheduler
from fine_tuning.jobs.queue import Queue

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
PORT = 8501
APP = Path(__file__).with_name("app.py")

_LOOPBACK = (HOST, "localhost")

# Whatever a model or a person writes, the page loads nothing from elsewhere, and no other page can frame it.
_POLICY = (
    "default-src 'self'",
    "script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval'",  # Streamlit's index.html has an inline script
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:",
    "font-src 'self' data:",
    "connect-src 'self' ws://{host}",
    "object-src 'none'",
    "base-uri 'self'",
    "form-action 'self'",
    "frame-ancestors 'none'",
)
_HEADERS = {
    "content-security-policy": "; ".join(_POLICY),
    "referrer-policy": "no-referrer",  # the address names the chat
    "x-content-type-options": "nosniff",
}

_OPTIONS: dict[str, Any] = {
    "server.address": HOST,
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": False,
    "server.enableAgentApi": False,
    "server.headless": True,  # the browser is opened here, once the server answers
    "browser.gatherUsageStats": False,
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",  # details go to the terminal, not into a page
    "client.showErrorLinks": False,
    "logger.hideWelcomeMessage": True,
    "theme.baseRadius": "medium",
    "theme.paddingTop": "1rem",
    "theme.sidebar.paddingTop": "0.5rem",
    "theme.light.primaryColor": "#4f46e5",
    "theme.light.backgroundColor": "#ffffff",
    "theme.light.secondaryBackgroundColor": "#f4f4f6",
    "theme.light.textColor": "#1c1c22",
    "theme.light.sidebar.backgroundColor": "#f8f8fa",
    "theme.light.sidebar.secondaryBackgroundColor": "#ececf1",
    "theme.dark.primaryColor": "#818cf8",
    "theme.dark.backgroundColor": "#16161a",
    "theme.dark.secondaryBackgroundColor": "#232329",
    "theme.dark.textColor": "#ececf1",
    "theme.dark.sidebar.backgroundColor": "#1c1c21",
    "theme.dark.sidebar.secondaryBackgroundColor": "#2a2a31",
}


def free_port(first: int = PORT) -> int:
    """The first free port from `first` on. ByoaiError if twenty in a row are taken."""
    for port in range(first, min(first + 20, 65_536)):
        with closing(socket.socket()) as probe:
            if os.name != "nt":  # on Windows the option would take a port that is in use
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise ByoaiError(f"no free port on {HOST} from {first} on (20 tried): name another with --port")


def url(port: int) -> str:
    return f"http://{HOST}:{port}"


_config: FineTuningConfig | None = None


def config() -> FineTuningConfig:
    """What the pages go by: what `serve` was given, else config/fine_tuning_config.yaml."""
    return _config or _default_config()


@cache
def _default_config() -> FineTuningConfig:
    return load_config()


def serve(port: int = PORT, *, browser: bool = True, settings: FineTuningConfig | None = None) -> None:
    """Serve the chat on `url(port)` until interrupted; opens it in the browser once it answers.

    Before anything is served: ConfigError (without `settings`, the default file is read), ByoaiError if the port is taken, DataError if the
    log is not one.
    """
    import streamlit
    from starlette.middleware import Middleware

    global _config
    if free_port(port) != port:
        raise ByoaiError(f"port {port} of {HOST} is taken: name another with --port, or none to get the next free one")
    _config = settings or load_config()
    ConversationLogger(_config.log_path).check()

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncGenerator[None]:
        if browser and _has_display():
            asyncio.get_running_loop().call_later(0.5, webbrowser.open, url(port))
        ended, queue = threading.Event(), Queue()
        schedule = partial(scheduler.run, queue=queue, settings=lambda: settings or load_config())
        for name, work in (("log-watch", keep_looking), ("jobs", queue.run), ("schedule", schedule)):
            threading.Thread(target=work, args=(ended,), name=name, daemon=True).start()
        yield
        ended.set()
        stop_all()  # what was said so far is recorded, and no engine is at work while Python ends

    app = streamlit.App(APP, middleware=[Middleware(Door, port=port)], lifespan=lifespan)
    with suppress(KeyboardInterrupt):  # the way to end it
        app.run(config={**_OPTIONS, "server.port": port})


class Door:
    """Refuses what does not come from this very page (DNS rebinding, other sites, other local servers), over HTTP and WebSocket,
    and tells browsers to load nothing from elsewhere."""

    def __init__(self, app: "ASGIApp", port: int = PORT) -> None:
        """`port`: where the page is served, on 127.0.0.1 and by no other name than localhost."""
        self._app = app
        self._hosts = {f"{name}:{port}" for name in _LOOPBACK} | (set(_LOOPBACK) if port == 80 else set())  # 80 is left out of an address

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif (host := self._host_of(scope)) is None:
            await _refuse(scope, receive, send)
        else:
            await self._app(scope, receive, _with_headers(send, host))

    def _host_of(self, scope: "Scope") -> str | None:
        """Return by which of our names a request came; None if by another one or none, or from a page that has another origin.

        What is not a browser sends no Origin; a header that comes twice is read in two ways by two readers.
        """
        hosts, origins = (
            [value.decode("latin-1") for name, value in scope["headers"] if name == wanted] for wanted in (b"host", b"origin")
        )
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return None
        return hosts[0] if origins in ([], [f"http://{hosts[0]}"]) else None


async def _refuse(scope: "Scope", receive: "Receive", send: "Send") -> None:
    from starlette.responses import PlainTextResponse

    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await PlainTextResponse("byoai answers only its own page on this machine", status_code=403)(scope, receive, send)


def _with_headers(send: "Send", host: str) -> "Send":
    extra = [(name.encode(), value.format(host=host).encode()) for name, value in _HEADERS.items()]

    async def answer(message: "Message") -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return answer


def _has_display() -> bool:
    """Whether a window can open: without one, a text browser would take over the terminal."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
