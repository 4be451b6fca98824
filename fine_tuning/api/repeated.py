"""Cache responses of the API that clients request repeatedly, until the data that they depend on change."""

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from fine_tuning import paths
from fine_tuning.config import overlay as config_overlay
from fine_tuning.errors import ByoaiError
from fine_tuning.integration.service import Service
from fine_tuning.state import Changes

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MOST = 64  # maximum number of cached responses
_LARGEST = 1 << 18  # maximum bytes of a cached response
_GLANCE = 0.5  # seconds for which the progress of jobs is cached


class Repeated:
    """ASGI middleware that caches responses, each with the state of the data that it depends on.

    A request gets the cached response if the data are still in that state.
    """

    def __init__(self, app: "ASGIApp", service: Service) -> None:
        self._app, self._service, self._changes = app, service, Changes()
        self._overlay = config_overlay.place()
        self._log = paths.home()  # the log's file
        self._log_by: object = None  # the state of the settings that named it
        self._kept: OrderedDict[tuple[str, bytes], tuple[object, list[Message]]] = OrderedDict()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        now = self._made_of(scope["path"]) if scope["type"] == "http" and scope["method"] == "GET" else None
        if now is None:
            return await self._app(scope, receive, send)
        key = scope["path"], scope["query_string"]
        made, answer = self._kept.get(key, (None, []))
        if made == now:
            for message in answer:
                await send(message)
            return None
        told: list[Message] = []

        async def tell(message: "Message") -> None:
            told.append(message)
            await send(message)

        await self._app(scope, receive, tell)
        return self._keep(key, now, told)

    def _made_of(self, path: str) -> object:
        """Return the state of the data that the response at `path` depends on. States of unchanged data are equal.

        Return None if responses at this path are not cached, or the state cannot be read.
        """
        try:
            match path:
                case "/api/settings":
                    return self._settings()
                case "/api/versions":
                    return self._changes.version()
                case "/api/jobs":  # progress and liveness of jobs are not in the database
                    return self._changes.version(), time.monotonic() // _GLANCE
                case "/api/conversations" | "/api/turns":
                    return self._changes.version(), self._said()
        except (ByoaiError, OSError):
            pass  # the app reports the error
        return None

    def _settings(self) -> object:
        return paths.stamp(paths.DEFAULT_CONFIG), paths.stamp(self._overlay)

    def _said(self) -> object:
        if (settings := self._settings()) != self._log_by:
            self._log, self._log_by = self._service.config.log_path, settings
        return self._log, paths.stamp(self._log)

    def _keep(self, key: tuple[str, bytes], made: object, told: "list[Message]") -> None:
        self._kept.pop(key, None)
        if len(told) == 2 and told[0]["status"] == 200 and len(told[1].get("body", b"")) <= _LARGEST:
            self._kept[key] = made, told
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)
