"""The commands serve, start-tuning and token: serve the API, open the training page, and show the token for both."""

import argparse
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tuning.cli.options import Commands, given_config, port, print_json
from fine_tuning.errors import ConfigError

if TYPE_CHECKING:
    from fine_tuning.api.security import Access
    from fine_tuning.config import FineTuningConfig


def add_commands(commands: Commands) -> None:
    """Add the commands of this module to the program."""
    serve = commands.add(
        "serve",
        _serve,
        "serve the API without the chat page",
        "For programs, OpenAI clients (/v1) and machines without a screen. A light page is at /api/ui.",
        json=False,
    )
    add_server_options(serve)

    tuning = commands.add(
        "start-tuning",
        _start_tuning,
        "open the training page in the browser",
        "Starts the server if none is running.",
        json=False,
    )
    add_server_options(tuning)
    tuning.add_argument("--no-browser", action="store_true", help="only print the address of the page")

    token = commands.add(
        "token",
        _token,
        "show the token that programs send with each change",
        "Anyone who has the token can do everything in byoai that you can.",
    )
    token.add_argument("--new", action="store_true", help="make a new token; the old one stops working at once")


def add_server_options(command: argparse.ArgumentParser) -> None:
    """Add the options for the server's port, host names and TLS."""
    command.add_argument(
        "--port", type=port, metavar="N", help="port of the server (default: 8501, or the next free port)"
    )
    group = command.add_argument_group("over the network (without --lan, only this machine can connect)")
    group.add_argument(
        "--lan", action="store_true", help="also answer other machines, which need the token (`byoai token`)"
    )
    group.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name or address by which other machines reach this one; can be given several times",
    )
    group.add_argument(
        "--cert", type=Path, metavar="FILE", help="TLS certificate (PEM); without one, the traffic is not encrypted"
    )
    group.add_argument("--key", type=Path, metavar="FILE", help="private key of the certificate (PEM)")


def access_of(options: argparse.Namespace) -> "Access":
    """Return the server's port, names and TLS files that the options select.

    Raises ConfigError for contradictory options or a missing file, and ByoaiError if no port is
    free.
    """
    from fine_tuning.api.background import PORT, free_port
    from fine_tuning.api.security import LOOPBACK, Access

    if not options.lan:
        if options.host or options.cert or options.key:
            raise ConfigError("--host, --cert and --key only apply to other machines: add --lan to answer those, too")
        return Access(options.port or free_port(PORT))
    if not options.host:
        raise ConfigError(
            "--lan needs --host NAME: the name or address by which others reach this machine, e.g. --host 192.168.1.20"
        )
    if (options.cert is None) != (options.key is None):
        raise ConfigError("--cert and --key belong together: give both, or neither")
    for file in filter(None, (options.cert, options.key)):
        if not file.is_file():
            raise ConfigError(f"there is no file {file}: check --cert and --key")
    hosts = (*map(_host, options.host), *LOOPBACK)
    files = (str(options.cert), str(options.key)) if options.cert else (None, None)
    return Access(options.port or free_port(PORT, "0.0.0.0"), hosts, True, *files)


def _host(text: str) -> str:
    """Return the name or address of this machine as browsers send it: in lower case.

    Raises ConfigError if `text` is no name or IPv4 address, such as a URL.
    """
    from fine_tuning.config.notify import host_of

    try:
        host = host_of(text)
    except ValueError as error:
        raise ConfigError(f"--host {text} {error}") from error
    if ":" in host:
        raise ConfigError(f"--host {text}: byoai does not listen on IPv6. Give a name or an IPv4 address")
    return host


def server_of(options: argparse.Namespace) -> "tuple[FineTuningConfig | None, Access]":
    """Return the configuration and the access settings of a server; with --lan, print how to log in.

    The configuration is None if the options select none. Raises ConfigError for invalid settings or
    contradictory options.
    """
    settings, access = given_config(options), access_of(options)
    if access.lan:
        _say_token()
        if not access.tls:
            print(
                "Without --cert and --key the traffic is not encrypted: everyone on the network can read it. Use a "
                "trusted network."
            )
    return settings, access


def _say_token() -> None:
    """Print how to log in over the network. The token itself is printed only when it is new."""
    from fine_tuning.api.security import Token

    token = Token()
    known = token.exists()
    print("Log in with the token that `byoai token` shows." if known else f"Log in with the token {token.read()}")


def _serve(options: argparse.Namespace) -> None:
    from fine_tuning.api.background import serve
    from fine_tuning.api.security import PAGE

    settings, access = server_of(options)
    print(
        f"The API is at {access.url}/api, its part for OpenAI clients at {access.url}/v1, and a page for training at "
        f"{access.url}{PAGE} (Ctrl-C ends the server)"
    )
    serve(access, settings, options.ollama_url)


def _start_tuning(options: argparse.Namespace) -> None:
    from chatbot.server import serve
    from fine_tuning.api.background import running
    from fine_tuning.api.security import TRAIN

    if (page := running()) is not None:
        print(f"The page is at {page}")
        if not options.no_browser:
            webbrowser.open(page)
        return
    settings, access = server_of(options)
    print(f"The page is at {access.url}{TRAIN} (Ctrl-C ends it)", flush=True)
    serve(access, settings=settings, ollama_url=options.ollama_url, browser=not options.no_browser, page=TRAIN)


def _token(options: argparse.Namespace) -> None:
    from fine_tuning.api.security import Token

    token = Token().renew() if options.new else Token().read()
    if options.json:
        print_json(options, {"token": token})
    else:
        print(token)
