"""What the kernel knows of a caller: when its request arrived, and whether it has hung up.

Both are asked of the connection's socket, because the process may have been stopped, or the request may have waited
in a queue, for longer than the caller waits for an answer.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from postgres_writer.connection import Call

_LAST_DATA_RECEIVED = struct.Struct("=52xI")
"""tcpi_last_data_recv in struct tcp_info: milliseconds since data last came in. linux/include/uapi/linux/tcp.h"""


def call_of(connection: Any) -> Call:
    """Give the arrival and the hang-up test of the request on a connection (a socket, or None outside a server)."""
    if not isinstance(connection, socket.socket):
        return Call(time.monotonic(), _never)
    return Call(time.monotonic() - _seconds_since_data(connection), _hung_up_test(connection))


def _never() -> bool:
    return False


def _seconds_since_data(connection: socket.socket) -> float:
    if not hasattr(socket, "TCP_INFO"):
        return 0.0
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED.size)
    except OSError:
        return 0.0
    if len(info) < _LAST_DATA_RECEIVED.size:
        return 0.0
    milliseconds: int = _LAST_DATA_RECEIVED.unpack(info)[0]
    return milliseconds / 1000


def _hung_up_test(connection: socket.socket) -> Callable[[], bool]:
    events = getattr(select, "POLLRDHUP", 0)

    def hung_up() -> bool:
        descriptor = connection.fileno()
        if descriptor < 0:
            return True
        poller = select.poll()
        poller.register(descriptor, events)
        return bool(poller.poll(0))

    return hung_up
