"""Control access to every route, page and WebSocket: hosts, origins, tokens, and policies for browsers."""

import asyncio
import contextlib
import hmac
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tuning import paths
from fine_tuning.errors import ByoaiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost")  # not [::1], where another program may listen on the same port
TOKEN_HEADER = "x-byoai-token"
RECORD = ":record"  # suffix of an API key of /v1 that asks for recording
COOKIE = "byoai_token"
LOGIN = "/login"
PAGE = "/api/ui"  # path of the light page
TRAIN = "/train"  # path of the training page of the web app
MOST = 16 * 2**20  # maximum bytes of a body, except uploads
CHANGES = ("POST", "PUT", "PATCH", "DELETE")  # the methods that change something

_API, _OPENAI = "/api", "/v1"
_JSON, _BYTES = "application/json", "application/octet-stream"
_LOGINS, _PERIOD = 5, 60.0  # maximum number of wrong tokens at the log-in, within this many seconds
_GLANCE = 1.0  # seconds between checks that an open connection's token is still valid

# The content security policy of all pages: they load nothing from other servers, whatever a model or a person
# writes, and cannot be shown in a frame of another page.
_POLICY = (
    "default-src 'self'",
    "script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval'",  # Streamlit's index.html has an inline script
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:",
    "font-src 'self' data:",
    "connect-src 'self' {socket}://{host}",
    "object-src 'none'",
    "base-uri 'self'",
    "form-action 'self'",
    "frame-ancestors 'none'",
)


class Token:
    """The secret of a data folder, stored in data/api_token (mode 0600).

    Requests that change something must send it; if the server is open to the network, all requests
    must.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or paths.home() / "api_token"

    def read(self) -> str:
        """Return the token; create it if there is none yet. Raises ByoaiError if the file cannot be read."""
        if found := self._read():
            return found
        with paths.locked(self._file):  # of several programs that start at once, one creates it
            return self._read() or self.renew()

    def _read(self) -> str:
        try:
            return self._file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            raise ByoaiError(
                f"cannot read the token in {self._file}: {getattr(error, 'strerror', None) or 'it is damaged'}. Delete "
                "the file, and byoai makes a new one"
            ) from error

    def exists(self) -> bool:
        return self._file.exists()

    def renew(self) -> str:
        """Replace the token by a new one, and return it. Connections that use the old one are closed."""
        new = secrets.token_urlsafe(32)
        paths.atomic_write(self._file, new + "\n")
        return new

    def fits(self, given: str | None) -> bool:
        """Return whether `given` is the token. If the token cannot be read, nothing is."""
        try:
            return given is not None and hmac.compare_digest(given.encode(), self.read().encode())
        except (ByoaiError, OSError):
            return False


@dataclass(frozen=True)
class Access:
    """The names and port of the server, and whether other machines may reach it."""

    port: int
    hosts: tuple[str, ...] = LOOPBACK  # the server's host names, without a port
    lan: bool = False  # whether other machines may reach it; every request then needs the token
    certificate: str | None = None  # file with the TLS certificate
    key: str | None = None  # file with the TLS key

    @property
    def tls(self) -> bool:
        return self.certificate is not None

    @property
    def address(self) -> str:
        return "0.0.0.0" if self.lan else LOOPBACK[0]

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.hosts[0]}:{self.port}"

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    def names(self) -> frozenset[str]:
        """Return the accepted values of the header `Host`: each host name with the port.

        If the port is the scheme's default, the names without a port are included too, since
        browsers leave the default port out.
        """
        usual = 443 if self.tls else 80
        return frozenset(
            {f"{host}:{self.port}" for host in self.hosts} | (set(self.hosts) if self.port == usual else set())
        )


@dataclass
class _Logins:
    """Limits the number of failed log-ins."""

    wrong: deque[float] = field(default_factory=lambda: deque(maxlen=_LOGINS))  # times of the last ones

    def may_try(self) -> bool:
        return len(self.wrong) < _LOGINS or time.monotonic() - self.wrong[0] > _PERIOD


@dataclass(frozen=True)
class Refusal:
    status: int
    message: str


class Door:
    """ASGI middleware that rejects HTTP and WebSocket requests of other sites and unauthorised programs.

    - The header `Host` must be one of the server's names with its port (against DNS rebinding), and
      `Origin` must be absent or the server's own (against other sites and other local servers).
    - A request that changes something needs a JSON body, or bytes for an upload. Under /api it also
      needs the token, in `X-Byoai-Token` or as `Authorization: Bearer`. /v1 needs no token on this
      machine, since answering changes nothing; `recording` checks the token itself.
    - If `Access.lan` is set, every request needs the token. A browser gets it as a cookie on the
      page /login.
    """

    def __init__(self, app: "ASGIApp", access: Access, token: Token) -> None:
        self._app, self._access, self._token = app, access, token
        self._names, self._logins = access.names(), _Logins()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        headers = _Headers(scope)
        refusal = self._refusal(scope, headers)
        if refusal is None and self._access.lan:
            if scope["path"] == LOGIN and scope["type"] == "http":
                return await self._log_in(scope, receive, send)
            refusal = self._stranger(headers)
        if refusal is not None:
            return await self._refuse(refusal, scope, receive, send)
        shown = send
        if scope["type"] == "http":
            shown = _with_headers(send, headers.one("host") or "", self._access.tls)
        if scope["type"] == "http" and not _is_upload(scope):
            receive = _bounded(receive)
        if self._access.lan:
            return await self._while_known(headers.secrets(), scope, receive, shown)
        return await self._app(scope, receive, shown)

    def _refusal(self, scope: "Scope", headers: "_Headers") -> Refusal | None:
        host = headers.one("host")
        if host not in self._names:
            return Refusal(
                403, "byoai does not answer under this host name: use one of " + ", ".join(sorted(self._names))
            )
        if headers.all("origin") not in ([], [f"{self._access.scheme}://{host}"]):
            return Refusal(403, "byoai answers only requests from its own pages and from programs on this machine")
        if _is_from_elsewhere(scope, headers):
            return Refusal(403, "byoai answers only requests from its own pages: open it in a window of its own")
        if announced_length(headers.one("content-length")) > MOST and not _is_upload(scope):
            return Refusal(
                413, f"a request body may have at most {MOST // 2**20} MiB: send a file as an upload (/api/uploads)"
            )
        if scope["type"] == "http" and scope["method"] in CHANGES and is_of_api(scope["path"]):
            return self._unfit_change(scope, headers)
        return None

    def _unfit_change(self, scope: "Scope", headers: "_Headers") -> Refusal | None:
        kind = (headers.one("content-type") or "").partition(";")[0].strip().lower()
        bodiless = scope["method"] == "DELETE" and kind == "" and headers.one("content-length") in (None, "0")
        if kind not in (_JSON, _BYTES) and not bodiless:
            return Refusal(415, f"send the body as {_JSON} (an upload as {_BYTES}), and say so in Content-Type")
        if _is_under(scope["path"], _API) and not any(map(self._token.fits, headers.tokens())):
            return Refusal(
                401, f"a change needs the token of the data folder (its file api_token) in the header {TOKEN_HEADER}"
            )
        return None

    def _stranger(self, headers: "_Headers") -> Refusal | None:
        if any(map(self._token.fits, headers.secrets())):
            return None
        return Refusal(401, f"log in first, at {LOGIN}, or send the token in the header {TOKEN_HEADER}")

    async def _while_known(self, given: list[str], scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Serve a request until it ends, or until none of its tokens `given` is valid any more."""
        served = asyncio.ensure_future(self._app(scope, receive, send))
        try:
            while not (await asyncio.wait([served], timeout=_GLANCE))[0]:
                if not any(map(self._token.fits, given)):
                    if scope["type"] == "websocket":
                        await send({"type": "websocket.close", "code": 1008})
                    break
        finally:
            served.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await served

    async def _refuse(self, refusal: Refusal, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.responses import RedirectResponse

        from fine_tuning.api.errors import answer

        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        if (
            refusal.status == 401
            and scope["method"] == "GET"
            and (scope["path"] == PAGE or not is_of_api(scope["path"]))
        ):
            return await RedirectResponse(LOGIN, 303)(scope, receive, send)
        headers = {"www-authenticate": "Bearer"} if refusal.status == 401 else None
        return await answer(refusal.status, refusal.message, "Refused", headers=headers)(scope, receive, send)

    async def _log_in(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request for the log-in page: show it, or set the cookie if the right token was posted."""
        from starlette.requests import Request
        from starlette.responses import HTMLResponse, RedirectResponse, Response

        from fine_tuning.api.pages import login_page

        request, told, status = Request(scope, receive), "", 200
        found: Response | None = None
        if request.method == "POST":
            given = await _field(request, "token")
            if self._token.fits(given):  # accepted even after too many wrong tokens of others
                found = RedirectResponse("/", 303)
                found.set_cookie(
                    COOKIE,
                    self._token.read(),
                    httponly=True,
                    samesite="strict",
                    secure=self._access.tls,
                    max_age=30 * 86_400,
                )
            elif not self._logins.may_try():
                told, status = "Too many wrong tokens: wait a minute.", 429
            else:
                self._logins.wrong.append(time.monotonic())
                told, status = "That is not the token. The terminal that started byoai shows it.", 401
        shown = _with_headers(send, request.headers["host"], self._access.tls)
        await (found or HTMLResponse(login_page(told), status))(scope, receive, shown)


class _Headers:
    """The headers of a request.

    `all` returns every value of a header. `one` returns its only value, and treats a repeated header
    as missing, since it is ambiguous.
    """

    def __init__(self, scope: "Scope") -> None:
        self._found: list[tuple[bytes, bytes]] = scope["headers"]

    def all(self, wanted: str) -> list[str]:
        return [value.decode("latin-1") for name, value in self._found if name == wanted.encode()]

    def one(self, wanted: str) -> str | None:
        found = self.all(wanted)
        return found[0] if len(found) == 1 else None

    def tokens(self) -> list[str]:
        """Return the tokens in the headers `X-Byoai-Token` and `Authorization`, which other sites' pages cannot set."""
        bearer = bearer_of(self.one("authorization") or "")
        return [*self.all(TOKEN_HEADER), *([bearer.removesuffix(RECORD)] if bearer else [])]

    def secrets(self) -> list[str]:
        """Return all tokens of a request: those of `tokens`, and that of the log-in cookie."""
        cookies = [part.strip().partition("=") for header in self.all("cookie") for part in header.split(";")]
        # not parsed by http.cookies, since cookies of other programs on this host may have any form
        return [*self.tokens(), *(value for name, _, value in cookies if name == COOKIE)]


def bearer_of(authorization: str) -> str:
    """Return KEY if the value of an `Authorization` header is `Bearer KEY`; "" for any other value."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def announced_length(told: str | None) -> int:
    """Return the length of a body in bytes by the value of Content-Length; 0 if it is missing or invalid."""
    return int(told) if told and told.isascii() and told.isdecimal() and len(told) < 20 else 0


def _is_upload(scope: "Scope") -> bool:
    """Return whether a request sends a part of an upload. Such a body has other limits, and is not held in memory."""
    return scope.get("method") == "PUT" and _is_under(scope["path"], f"{_API}/uploads")


def _is_from_elsewhere(scope: "Scope", headers: "_Headers") -> bool:
    """Return whether another site's page makes the request.

    Opening one of byoai's pages by a link on another site is allowed, and therefore returns False.
    """
    if headers.one("sec-fetch-site") not in ("cross-site", "same-site"):
        return False
    return headers.one("sec-fetch-mode") != "navigate" or (is_of_api(scope["path"]) and scope["path"] != PAGE)


def _bounded(receive: "Receive") -> "Receive":
    """Return an ASGI `receive` that reports a disconnect when a body exceeds MOST bytes, even if it announced fewer."""
    received = 0

    async def part() -> "Message":
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        return message if received <= MOST else {"type": "http.disconnect"}

    return part


def is_of_api(path: str) -> bool:
    """Return whether a path belongs to the API rather than to a page."""
    return _is_under(path, _API, _OPENAI)


def _is_under(path: str, *roots: str) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


async def _field(request: object, name: str, most: int = 4096) -> str | None:
    """Return the value of a field of a posted form; None if it is missing or the form has more than `most` bytes."""
    from urllib.parse import parse_qs

    body = b""
    async for piece in request.stream():  # type: ignore[attr-defined]
        body += piece
        if len(body) > most:
            return None
    return parse_qs(body.decode("latin-1")).get(name, [None])[0]


def _with_headers(send: "Send", host: str, tls: bool) -> "Send":
    policy = "; ".join(_POLICY).format(host=host, socket="wss" if tls else "ws")
    extra = [
        (b"content-security-policy", policy.encode()),
        (b"referrer-policy", b"no-referrer"),  # since the URL identifies the chat
        (b"x-content-type-options", b"nosniff"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]

    async def answer(message: "Message") -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return answer
