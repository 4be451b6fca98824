"""Turn a value of OLLAMA_HOST into the URL of an Ollama server."""

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

import httpx

from fine_tuning.errors import EngineError

DEFAULT_URL = "http://127.0.0.1:11434"


def server_url(host: str) -> str:
    """Return the URL to connect to for a value of OLLAMA_HOST.

    The rules are Ollama's (envconfig.ConnectableHost): an empty value means the default address,
    and `0.0.0.0` this machine. A user name and a password are kept. Raises EngineError for an
    invalid value.
    """
    given, host = host, host.strip().strip("\"'").strip()
    scheme, separator, rest = host.partition("://")
    if not separator:
        scheme, rest = "http", host
    authority, _, path = rest.partition("/")
    user, at, authority = authority.rpartition("@")
    name, port = _name_and_port(authority, given)
    scheme, path = scheme.lower(), path.rstrip("/")
    if scheme not in ("http", "https") or re.search(r"[^!-~]|[\"'?#\\\[\]]", user + path):
        raise bad_url(given)
    if found := re.search(r"(^|/)(v1|api)(/|$)", path):
        raise EngineError(
            f"{_masked(given)} is Ollama's address for clients of other APIs, which byoai does not use. Write it "
            f"without /{found[2]}, as http://host:port"
        )
    default_port = {"http": 80, "https": 443}[scheme] if separator else 11434
    return f"{scheme}://{user}{at}{name}:{port or default_port}" + (f"/{path}" if path else "")


def _name_and_port(authority: str, given: str) -> tuple[str, int]:
    """Return the host of `authority` ("host:port") as it is written in a URL, and the port (0 if none is given).

    An address that means all interfaces becomes the loopback address. Raises EngineError for an
    invalid host or port, with a message about `given`, the whole value.
    """
    bare = authority.count(":") > 1 and not authority.startswith("[")  # IPv6 without brackets
    bracketed = re.fullmatch(r"\[(.*)\](?::(.*))?", f"[{authority}]" if bare else authority, re.DOTALL)
    name, port = (bracketed[1], bracketed[2] or "") if bracketed else authority.partition(":")[::2]
    try:
        if not re.fullmatch(r"[0-9]{0,5}", port) or int(port or 0) > 65_535:
            raise ValueError(port)
        if bracketed:
            name = f"[{'::1' if ipaddress.IPv6Address(name).is_unspecified else name}]"
        elif name:
            # in the form that the DNS uses
            labels = httpx.URL(scheme="http", host=name).raw_host.decode("ascii").removesuffix(".").split(".")
            if len(name) > 253 or not all(re.fullmatch(r"[a-z0-9_-]{1,63}", label) for label in labels):
                raise ValueError(name)
    except (ValueError, httpx.InvalidURL):
        raise bad_url(given) from None
    return "127.0.0.1" if name in ("", "0.0.0.0") else name, int(port or 0)


def without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def bad_url(given: str) -> EngineError:
    return EngineError(f"{_masked(given)} is not a URL of an Ollama server: write http://host:port")


def _masked(given: str) -> str:
    """Return a URL for a message: in quotes, shortened, and without a user name and password."""
    return repr(re.sub(r"(?s)^(.*?://)?.*@", r"\1…@", given)[:200])


def auth_of(url: str) -> tuple[str, str] | Callable[[httpx.Request], httpx.Request] | None:
    """Return httpx's `auth` argument for requests to the server at `url`.

    It is the user name and password in the URL, if there are any. Otherwise it is None for
    https://ollama.com, to whose requests the client adds OLLAMA_API_KEY, and for other servers a
    function that removes all credentials from a request.
    """
    found = urlsplit(url)
    if found.username or found.password:
        return unquote(found.username or ""), unquote(found.password or "")
    host = (found.hostname or "").rstrip(".")
    return None if found.scheme == "https" and (host == "ollama.com" or host.endswith(".ollama.com")) else _unsigned


def _unsigned(request: httpx.Request) -> httpx.Request:
    request.headers.pop("authorization", None)
    return request


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
