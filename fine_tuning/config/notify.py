"""Define the sections `notify` and `tracking` of the configuration.

`notify` sets which command is run, or which URL is called, when a job has ended; `tracking` where
the figures of runs are stored.
"""

import ipaddress
import re
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, model_validator

from fine_tuning.config.types import Name, Section

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?", re.ASCII)


def host_of(text: str) -> str:
    """Return the name or address of a host normalised: in lower case, without brackets and final dot.

    Raises ValueError if `text` is neither.
    """
    host = text.strip().lower().removeprefix("[").removesuffix("]").rstrip(".")
    if not _HOST.fullmatch(host) and address_of(host) is None:
        raise ValueError(
            "is not a host: write only its name or address, e.g. hooks.example.org, localhost or 192.168.1.5"
        )
    address = address_of(host)
    return str(address) if address else host


def address_of(host: str) -> Address | None:
    """Return `host` as an IP address; None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


Host = Annotated[Name, AfterValidator(host_of)]


class Notify(Section):
    """After which outcomes of a job a notice is sent, and how."""

    on: tuple[Literal["completed", "failed", "interrupted", "cancelled"], ...] = ("completed", "failed", "interrupted")
    command: tuple[Name, ...] = ()  # a program and its arguments; there is no shell
    url: str | None = Field(
        default=None, repr=False
    )  # receives a POST; it may contain a secret, so no message shows it
    allow_hosts: tuple[Host, ...] = ()  # hosts allowed in the URL, including addresses that are not public

    @model_validator(mode="after")
    def _can_be_sent(self) -> "Notify":
        if self.command and not self.command[0].strip():
            raise ValueError(
                "command is blank: begin it with the program to run, such as [notify-send, done], or leave it out"
            )
        if self.url is not None:
            host = host_of(str(split(self.url).hostname))
            if host not in self.allow_hosts:
                raise ValueError(f"the URL's host is not allowed: if you trust it, write notify.allow_hosts: [{host}]")
        return self


def split(url: str) -> SplitResult:
    """Return the parts of a URL for notices.

    Raises ValueError if it is not usable. The message does not show the URL, which may contain a
    secret.
    """
    if not url.isascii() or not url.isprintable() or set(url) & set(' \\"<>'):
        raise ValueError(
            "url contains spaces or characters that are not allowed in a URL: write them as %20, %C3%BC ..., and a "
            "host name as xn--..."
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("url has an invalid host or port: write it as https://HOST or https://HOST:PORT") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("url must begin with https://HOST or http://HOST")
    if parts.username is not None or parts.password is not None:
        raise ValueError("url must not contain a user name or a password, because they would not be sent: remove them")
    return parts


class Tracking(Section):
    """Where the figures of runs are stored in addition to the runs' folders."""

    mlflow: Literal["auto", "on", "off"] = "auto"  # auto: if the extra byoai[mlflow] is installed
