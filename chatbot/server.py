"""Serve the web app and the API as one ASGI app, behind one access control (api/security.py)."""

import asyncio
import gc
import logging
import os
import sys
import threading
import webbrowser
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatbot.log_watch import keep_looking
from chatbot.session import stop_all
from fine_tuning.api.answering import answers_of
from fine_tuning.api.app import create_app
from fine_tuning.api.background import check_start, tended
from fine_tuning.api.security import TRAIN, Access, Door, Token, is_of_api
from fine_tuning.config import FineTuningConfig
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.errors import ByoaiError
from fine_tuning.integration import first_model
from fine_tuning.integration.service import Service

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_logger = logging.getLogger(__name__)

APP = Path(__file__).with_name("app.py")

_OPTIONS: dict[str, Any] = {
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": False,
    "server.enableAgentApi": False,
    "runner.magicEnabled": False,  # no page shows an expression by naming it; finding them doubles the time to compile
    "server.headless": True,  # `serve` opens the browser once the server answers
    "browser.gatherUsageStats": False,
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",  # details go to the terminal, not into a page
    "client.showErrorLinks": False,
    "logger.hideWelcomeMessage": True,
    "theme.baseRadius": "medium",
    "theme.headingFontSizes": ["1.75rem", "1.35rem", "1.1rem", "1rem", "1rem", "1rem"],
    "theme.paddingTop": "1rem",
    "theme.sidebar.paddingTop": "0.5rem",
    "theme.light.primaryColor": "#4f46e5",
    "theme.light.backgroundColor": "#ffffff",
    "theme.light.secondaryBackgroundColor": "#f4f4f6",
    "theme.light.textColor": "#121217",  # captions use 60 % of it: a contrast of 4.5 to 1 on each of these backgrounds
    "theme.light.sidebar.backgroundColor": "#f8f8fa",
    "theme.light.sidebar.secondaryBackgroundColor": "#ececf1",
    "theme.dark.primaryColor": "#6063f0",  # white text on buttons has a contrast of 4.5 to 1
    "theme.dark.linkColor": "#a5b4fc",
    "theme.dark.backgroundColor": "#16161a",
    "theme.dark.secondaryBackgroundColor": "#232329",
    "theme.dark.textColor": "#ececf1",
    "theme.dark.sidebar.backgroundColor": "#1c1c21",
    "theme.dark.sidebar.secondaryBackgroundColor": "#2a2a31",
}


_service: Service | None = None


def service() -> Service:
    """Return the service of the pages: the one given to `serve`, else one with the default configuration file."""
    return _service or _default_service()


@cache
def _default_service() -> Service:
    return Service()


def config() -> FineTuningConfig:
    """Return the settings of the pages."""
    return service().config


def serve(
    access: Access,
    *,
    settings: FineTuningConfig | None = None,
    ollama_url: str | None = None,
    browser: bool = True,
    page: str = "",
) -> None:
    """Serve the web app and the API until interrupted; open `page` in the browser once the server answers.

    Without `settings`, the default configuration file is read. Raises ConfigError for invalid settings,
    the errors of `check_start`, and DataError if the file of the log is not a log, all before anything
    is served.
    """
    import streamlit
    from starlette.middleware import Middleware
    from streamlit.runtime.pages_manager import PagesManager
    from streamlit.web import bootstrap

    from fine_tuning.api.web_server import run

    global _service
    check_start(access)
    _service = Service(settings, ollama_url)
    ConversationLogger(config().log_path).check()

    # app.py defines the pages; else Streamlit would run a page's file alone if it is visited first
    PagesManager.uses_pages_directory = False
    api = create_app(service())

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncGenerator[None]:
        if browser and _has_display():
            asyncio.get_running_loop().call_later(0.5, webbrowser.open, access.url + page)
        ended = threading.Event()
        threading.Thread(target=keep_looking, args=(ended,), name="log-watch", daemon=True).start()
        threading.Thread(target=_say_what_is_missing, name="first-look", daemon=True).start()
        with tended(service(), access, TRAIN):
            gc.collect()
            # Streamlit collects garbage after each run of a page: imported modules need not be scanned
            gc.freeze()
            yield
            ended.set()
            stop_all()  # record what was said so far, and let no engine work while Python exits
            await answers_of(api).parted()

    middleware = [Middleware(Door, access=access, token=Token()), Middleware(_WithApi, api=api)]
    tls = {"server.sslCertFile": access.certificate, "server.sslKeyFile": access.key} if access.tls else {}
    app = streamlit.App(APP, middleware=middleware, lifespan=lifespan)
    bootstrap.load_config_options({**_OPTIONS, "server.address": access.address, "server.port": access.port, **tls})
    # not by App.run, which waits forever for open streams when it is told to stop
    run(app, access)


def _say_what_is_missing() -> None:
    """Log a warning if there is no base model, with the command that downloads one.

    This also connects to the engine before the first page is drawn.
    """
    with suppress(ByoaiError):  # the pages report it
        if missing := service().models().missing:
            _logger.warning("%s", first_model.with_command(missing))


class _WithApi:
    """ASGI app that passes requests under /api and /v1 to the API, and all others to the pages."""

    def __init__(self, app: "ASGIApp", api: "ASGIApp") -> None:
        self._pages, self._api = app, api

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        chosen = self._api if scope["type"] != "lifespan" and is_of_api(scope["path"]) else self._pages
        await chosen(scope, receive, send)


def _has_display() -> bool:
    """Return whether a browser window can be opened. Without a display, a text browser would take over the terminal."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
