"""What the kernel knows of a caller: when its request arrived, and whether it has hung up.

Both are asked of the connection's socket, because the process may have been stopped, or the request may have waited
in a queue, for longer than the caller waits for an answer.
"""

from __future__ import annotations

import socket
import struct
import time
from functools import partial
from typing import Any

from postgres_writer.deadlines import Call

_TCP_INFO = getattr(socket, "TCP_INFO", -1)
_LAST_DATA_RECEIVED = struct.Struct("=52xI")
"""tcpi_last_data_recv in struct tcp_info: milliseconds since data last came in. linux/include/uapi/linux/tcp.h"""
_STATE = struct.Struct("B")  # tcpi_state in struct tcp_info
_ESTABLISHED = 1
"""What tcpi_state is until a side closes. linux/include/net/tcp_states.h"""


def call_from_socket(connection: Any) -> Call:
    """Give the arrival and the hang-up test of the request on a connection (a socket, or None outside a server)."""
    if not isinstance(connection, socket.socket):
        return Call(time.monotonic())
    # the last data received is of this request: Go's client sends the next one only after the answer
    milliseconds = _tcp_info(connection, _LAST_DATA_RECEIVED) or 0
    return Call(time.monotonic() - milliseconds / 1000, partial(_hung_up, connection))


def _hung_up(connection: socket.socket) -> bool:
    # unlike poll() it keeps the interpreter's lock, for which a busy worker would queue again
    state = _tcp_info(connection, _STATE)
    # a caller that has only closed its sending side counts, too: Go closes a connection to abandon the call
    return connection.fileno() < 0 if state is None else state != _ESTABLISHED


def _tcp_info(connection: socket.socket, field: struct.Struct) -> int | None:
    """Give a field of struct tcp_info; None where there is none (no Linux, no TCP, closed, an older kernel)."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, field.size)
    except OSError:
        return None
    return int(field.unpack(info)[0]) if len(info) == field.size else None
