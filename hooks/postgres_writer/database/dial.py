"""Which servers to try, one after the other, with their addresses looked up within a deadline; how to wait.

libpq looks a name up without any time limit, and asynchronously it gives the first host all the time there is: with
a dead resolver or a dead first host no deadline could be kept.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, TypeVar

from psycopg2 import extensions

from postgres_writer import errors
from postgres_writer.config.settings import Host

T = TypeVar("T")
_LOOK_SECONDS = 0.1  # how often a wait for PostgreSQL looks whether the caller has hung up

# what servers and poolers say to who connects: the driver gives no SQLSTATE for it
_CAUSES = {
    errors.NO_DATABASE: 'database "[^"]*" does not exist|no such database',
    errors.LOGIN_REFUSED: "authentication failed|does not exist|no such user|pg_hba.conf|not permitted"
    "|permission denied|no password supplied|not currently accepting|PSQL_PASSWORD_FILE",
    errors.NO_CONNECTION: "too many (?:clients|connections)|connection slots|no more connections",
    errors.STARTING: "starting up|shutting down|in recovery mode|not yet accepting",
    errors.READ_ONLY: re.escape(errors.READ_ONLY),
}
LASTING = {errors.NO_DATABASE, errors.LOGIN_REFUSED}  # no outage that passes


class HungUp(Exception):
    """The caller gave the request up while its statement ran."""


def cause_of(why: str) -> str:
    """Say why a connect failed; what a server says in another language counts as unreachable."""
    return next((cause for cause, said in _CAUSES.items() if re.search(said, why)), errors.UNAVAILABLE)


def targets(hosts: Sequence[Host], seconds: float) -> list[dict[str, str]]:
    """Give libpq's keywords for each address of the hosts.

    Raises OSError when no host has an address within ``seconds``.
    """
    found: list[dict[str, str]] = []
    failure = OSError("PSQL_HOST names no host.")
    for host in hosts:
        # host beside hostaddr: sslmode=verify-full checks the certificate against the name, not the address
        # https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-HOSTADDR
        reached = {"host": host.name, "port": str(host.port)}
        if host.name.startswith(("/", "@")):
            # a Unix socket, in a folder or abstract: libpq finds it by the host alone
            found.append(reached)
            continue
        try:
            # an equal share of the time, so that a name which hangs leaves some for the others
            found += [{**reached, "hostaddr": address} for address in _addresses(host.name, seconds / len(hosts))]
        except OSError as exc:
            failure = exc
    if not found:
        raise failure
    return found


def _addresses(host: str, seconds: float) -> list[str]:
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    answer = in_thread(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    try:
        return list(dict.fromkeys(str(info[4][0]) for info in answer.result(seconds)))
    except futures.TimeoutError:
        raise OSError(f"The name {host} could not be looked up in time.") from None


def in_thread(work: Callable[[], T]) -> futures.Future[T]:
    """Do the work in a thread of its own: one that hangs must hold up neither its caller nor the end of the process."""
    answer: futures.Future[T] = futures.Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as exc:  # it is raised where the result is taken
            answer.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return answer


def wait(connection: Any, until: float, hung_up: Callable[[], bool] = lambda: False) -> None:
    """Let libpq go on until the answer is whole; where gevent has patched poll(), other greenlets run meanwhile.

    Raises TimeoutError when it is not in time, and HungUp when the caller has hung up.
    https://www.psycopg.org/docs/advanced.html#asynchronous-support
    """
    while (state := connection.poll()) != extensions.POLL_OK:
        remaining = until - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        # the caller is looked at in between instead of being polled too: gevent's poll() knows no POLLRDHUP
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT)
        if not poller.poll(min(remaining, _LOOK_SECONDS) * 1000) and hung_up():
            raise HungUp
