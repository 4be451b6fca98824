"""Run a command or call a URL when a job ends, according to `notify:` in the job's configuration.

The process that records a job's end calls `send`, which starts `python -m fine_tuning.jobs.notices`.
That process delivers the notice, so that no other process waits for the delivery. A failed delivery
is recorded in the job's log.
"""

import contextlib
import http.client
import ipaddress
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError

from fine_tuning.config.notify import Address, Notify, address_of, host_of, split
from fine_tuning.jobs import processes
from fine_tuning.jobs.joblog import append, last_line, mask
from fine_tuning.jobs.store import Job

_PATIENCE = 30.0  # timeout of a command in seconds
_ANSWER = 15.0  # timeout of an HTTP request in seconds, from the name look-up to the complete answer
_CONNECT = 5.0  # timeout in seconds to connect to one address
_LONGEST = 500  # maximum characters of a reason
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv6 addresses that embed IPv4 addresses (RFC 6052)


@dataclass(frozen=True)
class Notice:
    job: str
    kind: str
    state: str
    reason: str  # one line of text, with secrets masked

    @classmethod
    def of(cls, job: Job) -> "Notice":
        line = "".join(letter if letter.isprintable() else " " for letter in mask(job.reason.partition("\n")[0]))
        return cls(job.id, job.kind, str(job.state), line[:_LONGEST])


class NotDelivered(Exception):
    """A notice could not be delivered. The message names only the host of the URL, whose path may be secret."""


def send(job: Job) -> None:
    """Start a process that delivers the notice of a finished job, if the job's configuration asks for one.

    If the process cannot be started, this is recorded in the job's log.
    """
    config = job.request.get("config")
    settings = config.get("notify") if isinstance(config, dict) else None
    try:
        notify = Notify.model_validate(settings or {})
    except ValidationError:  # the job failed because its request is invalid
        return
    if str(job.state) not in notify.on or not (notify.command or notify.url):
        return
    told = {"notify": notify.model_dump(mode="json"), "notice": asdict(Notice.of(job)), "log": str(job.log)}
    try:
        processes.begin_aside(job, __name__, told)
    except OSError as error:
        append(job.log, f"no notice was sent: {error.strerror or error}\n".encode())


def deliver(notify: Notify, notice: Notice) -> list[str]:
    """Run the configured command and send the configured POST request; return a message for each failure."""
    faults = []
    works: tuple[Callable[[], None], ...] = (lambda: run(notify.command, notice), lambda: post(notify, notice))
    for work in works:
        try:
            work()
        except NotDelivered as fault:
            faults.append(str(fault))
    return faults


# The command


def run(command: Sequence[str], notice: Notice) -> None:
    """Run a command without a shell; do nothing if `command` is empty.

    {job}, {kind}, {state} and {reason} in its arguments are replaced by the facts of the notice,
    which are also in its environment: BYOAI_JOB, BYOAI_KIND, BYOAI_STATE and BYOAI_REASON. Raises
    NotDelivered if the command cannot be started, fails, or takes longer than _PATIENCE.
    """
    if not command:
        return
    facts = asdict(notice)
    environment = {**os.environ, **{f"BYOAI_{name.upper()}": value for name, value in facts.items()}}
    with tempfile.NamedTemporaryFile() as said:
        try:
            program = [command[0], *(_filled(argument, facts) for argument in command[1:])]
            child = subprocess.Popen(
                program, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True, env=environment
            )
        except OSError as error:
            raise NotDelivered(f"the command {command[0]} could not be started: {error.strerror or error}") from error
        try:
            code = child.wait(_PATIENCE)
        except subprocess.TimeoutExpired as error:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise NotDelivered(
                f"the command {command[0]} was stopped, because it took longer than {_PATIENCE:g} seconds"
            ) from error
        if code:
            line = last_line(Path(said.name))
            raise NotDelivered(f"the command {command[0]} ended with exit code {code}{f': {line}' if line else ''}")


def _filled(argument: str, facts: dict[str, str]) -> str:
    """Return an argument with its placeholders replaced.

    If the result begins with "-", and the argument did not, a space is put in front of it, so that
    the command does not take it as an option.
    """
    filled = re.sub(r"\{(job|kind|state|reason)\}", lambda found: facts[found[1]], argument)
    return f" {filled}" if filled.startswith("-") and not argument.startswith("-") else filled


# The URL


def post(notify: Notify, notice: Notice) -> None:
    """POST the notice as JSON to the configured URL; do nothing if there is none.

    No redirects are followed and no proxy is used, so the answer comes from the configured host.
    Raises NotDelivered if the host's address is not allowed, or it does not answer with a status
    from 200 to 299 within _ANSWER.
    """
    if notify.url is None:
        return
    faults: list[str] = []

    def work() -> None:
        try:
            _post(notify, notice)
        except NotDelivered as fault:
            faults.append(str(fault))

    # in a thread, since a name look-up has no timeout, and each received byte restarts the timeout of a socket
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_ANSWER)
    if thread.is_alive():
        raise NotDelivered(f"{split(notify.url).hostname} did not respond within {_ANSWER:g} seconds")
    if faults:
        raise NotDelivered(faults[0])


def _post(notify: Notify, notice: Notice) -> None:
    parts = split(notify.url or "")
    host, secure = host_of(str(parts.hostname)), parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    port = parts.port or kind.default_port
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        with _connected(host, port, notify.allow_hosts) as link, contextlib.closing(kind(host, port)) as connection:
            connection.sock = ssl.create_default_context().wrap_socket(link, server_hostname=host) if secure else link
            body = json.dumps(asdict(notice)).encode()
            connection.request(
                "POST", target, body, {"Content-Type": "application/json", "User-Agent": "byoai", "Connection": "close"}
            )
            status = connection.getresponse().status
    except OSError as error:
        raise NotDelivered(f"{host} cannot be reached: {error.strerror or error}") from error
    except http.client.HTTPException as error:
        raise NotDelivered(f"{host} did not respond in HTTP ({type(error).__name__})") from error
    if not 200 <= status < 300:
        raise NotDelivered(
            f"{host} responded with status {status}{'; redirects are not followed' if 300 <= status < 400 else ''}"
        )


def _connected(host: str, port: int, allowed: Sequence[str]) -> socket.socket:
    """Return a connection to the first allowed address of a host that can be reached.

    The name is looked up only once, so that the connection goes to an address that was checked: a
    second look-up could give another address. Raises NotDelivered if no address is allowed, and
    OSError if none can be reached.
    """
    found = [str(place[0]) for *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    addresses = [address for address in found if may_be_called(host, address, allowed)]
    if not addresses:
        raise NotDelivered(
            f"{host} has the address {found[0]}, which is not public: if that is intended, list it in "
            "notify.allow_hosts, too"
        )
    fault: OSError | None = None
    for address in addresses:
        try:
            link = socket.create_connection((address, port), timeout=_CONNECT)
        except OSError as error:
            fault = error
        else:
            link.settimeout(_ANSWER)
            return link
    raise fault or OSError("no address")


def may_be_called(host: str, address: str, allowed: Sequence[str]) -> bool:
    """Return whether a notice may be sent to the `address` of a host: it must be public, or listed in `allowed`.

    If `localhost` is listed, the loopback addresses of the host `localhost` are allowed.
    """
    found = address_of(address.partition("%")[0])
    if found is None:
        return False
    while (inner := _inner(found)) is not None:
        found = inner
    public = found.is_global and not found.is_multicast
    return (
        public
        or str(found) in allowed
        or address in allowed
        or (found.is_loopback and host == "localhost" and host in allowed)
    )


def _inner(address: Address) -> Address | None:
    """Return the IPv4 address that is embedded in an IPv6 address (for example ::ffff:127.0.0.1); None if none is."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def main() -> int:
    """Deliver the notice that stdin describes as JSON (see `send`); return 1 if that failed, else 0."""
    told = json.load(sys.stdin)
    faults = deliver(Notify.model_validate(told["notify"]), Notice(**told["notice"]))
    for fault in faults:
        append(Path(told["log"]), f"no notice: {fault}\n".encode())
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
