"""A request as it comes in: when it arrived, whether its caller has hung up, and its body.

The first two are asked of the connection's socket, because the process may have been stopped, or the request may have
waited in a queue, for longer than the caller waits for an answer.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import gevent
from werkzeug import exceptions

from postgres_writer.deadlines import Call

_TCP_INFO = getattr(socket, "TCP_INFO", -1)
_LAST_DATA_RECEIVED = struct.Struct("=52xI")
"""tcpi_last_data_recv in struct tcp_info: milliseconds since data last came in. linux/include/uapi/linux/tcp.h"""
_STATE = struct.Struct("B")  # tcpi_state in struct tcp_info
_ESTABLISHED = 1
"""What tcpi_state is until a side closes. linux/include/net/tcp_states.h"""
_LARGE_BYTES = 65536  # bodies of this size or more share the memory of two of the largest that are allowed


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


class Bodies:
    """All bodies, together not more than there is memory for; ``largest`` is how many bytes one may have."""

    def __init__(self, largest: int) -> None:
        self._largest, self._free = largest, 2 * largest
        self._freed = threading.Condition()

    @contextlib.contextmanager
    def read(self, environ: dict[str, Any], until: float) -> Iterator[bytes]:
        """Give the body of a WSGI request, whose memory counts as taken for the length of the with-block.

        ``until`` (monotonic seconds) is when a large one must be there. Raises RequestEntityTooLarge and BadRequest.
        """
        # straight from gunicorn, which has checked the length: werkzeug would put a stream of its own over it
        read, size = environ["wsgi.input"].read, int(environ.get("CONTENT_LENGTH") or 0)
        if size > self._largest:
            raise exceptions.RequestEntityTooLarge
        try:
            if size < _LARGE_BYTES:
                yield read(size)
                return
            with contextlib.ExitStack() as stack:
                with gevent.Timeout(max(0.0, until - time.monotonic()), TimeoutError):
                    stack.enter_context(self._taken(size))
                    data = read(size)
                yield data
        except TimeoutError as exc:
            why = "The body did not arrive in time, or others took the memory for it: send it again later."
            raise exceptions.BadRequest(why) from exc
        except OSError as exc:
            raise exceptions.BadRequest("The body could not be read.") from exc

    @contextlib.contextmanager
    def _taken(self, size: int) -> Iterator[None]:
        with self._freed:
            self._freed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._freed:
                self._free += size
                self._freed.notify_all()
