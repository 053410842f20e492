"""Free TCP ports for tests that run side by side."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from collections.abc import Iterator


def _ports() -> Iterator[int]:
    # below those that the kernel takes for connections, and other ones in each process of a run: a port is used long
    # after it was found free, and again after its server was stopped
    first, number = 11_000 + 3_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), 3_000
    start = random.randrange(number)
    yield from (first + (start + step) % number for step in itertools.count())


_PORTS = _ports()


def free_port() -> int:
    """Return a TCP port of the loopback interface that is not in use now, and another one each time."""
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the ports never end")
