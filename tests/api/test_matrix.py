"""One gate for every route: each, with every method and as a socket, answers only who belongs here."""

import asyncio
import itertools
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from chatbot.server import APP
from fine_tuning.api.app import ROUTERS
from fine_tuning.api.security import CHANGES, TOKEN_HEADER, Access, Door, Token, is_of_api

OWN = "127.0.0.1:8501"
HOSTS = {"evil": "evil.test:8501", "IPv6": "[::1]:8501", "own": OWN, "none": None}
ORIGINS = {"none": None, "null": "null", "evil": "http://evil.test", "own": f"http://{OWN}"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS")
BODIES = {
    "json": "application/json",
    "bytes": "application/octet-stream",
    "form": "application/x-www-form-urlencoded",
    "text": "text/plain",
}


@cache
def routes() -> list[str]:
    """Return every path of the API and of the pages, parameters filled in."""
    # In a process of its own: a process can make the pages' app once.
    code = (
        "import streamlit; print(*(getattr(route, 'path', '/') for route in "
        f"streamlit.App({str(APP)!r})._build_starlette_app().routes))"
    )
    pages = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    api = [str(getattr(route, "path", "")) for router in ROUTERS for route in router.routes]
    assert len(pages) > 5 and len(api) > 5
    return sorted(
        {
            path.replace("{", "").replace("}", "").replace(":path", "")
            for path in ["/", "/api/openapi.json", *api, *pages]
        }
    )


def reached(path: str, method: str, headers: dict[str, str | None], token: Token) -> bool:
    """Whether the door lets a request through to what lies behind it."""
    inside: list[str] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        inside.append(scope["path"])

    async def send(message: Any) -> None:
        assert (
            inside or message.get("status", 403) in (401, 403, 415) or message.get("code") == 1008 or "body" in message
        )

    given = [(name.encode(), value.encode()) for name, value in headers.items() if value is not None]
    kind = {"type": "websocket"} if method == "WS" else {"type": "http", "method": method}
    asyncio.run(Door(behind, Access(8501), token)({**kind, "path": path, "headers": given}, None, send))  # type: ignore[arg-type]
    return bool(inside)


@pytest.mark.parametrize("path", routes())
def test_only_what_belongs_here_reaches_a_route(home: Path, path: str) -> None:
    token = Token()
    for host, origin, method in itertools.product(HOSTS, ORIGINS, METHODS):
        headers = {
            "host": HOSTS[host],
            "origin": ORIGINS[origin],
            "content-type": BODIES["json"],
            TOKEN_HEADER: token.read(),
        }
        assert reached(path, method, headers, token) == (host == "own" and origin in ("none", "own")), (
            host,
            origin,
            method,
        )


@pytest.mark.parametrize("path", [path for path in routes() if is_of_api(path)])
def test_a_change_needs_a_body_that_no_form_can_send_and_under_api_the_token(home: Path, path: str) -> None:
    token = Token()
    for method, body, secret in itertools.product(CHANGES, BODIES, (token.read(), "wrong", "", None)):
        headers = {"host": OWN, "content-type": BODIES[body], TOKEN_HEADER: secret}
        fits = body in ("json", "bytes") and (secret == token.read() or path.startswith("/v1"))
        assert reached(path, method, headers, token) == fits, (method, body, secret)
