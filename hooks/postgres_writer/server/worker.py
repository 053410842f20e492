"""gunicorn's gevent worker, with a time limit on everything that a slow or rude caller can hold.

A connection costs a greenlet, so callers that send slowly, or nothing, or never read, block no other caller. The stock
worker has no limit for them: it waits for the rest of a request, or for room to write an answer, as long as it takes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import time
from typing import Any, cast

import gevent
from gunicorn.http import wsgi
from gunicorn.workers.ggevent import GeventWorker

from postgres_writer.deadlines import CONNECTION_SECONDS, KEEPALIVE_SECONDS, WEBHOOK_SECONDS
from postgres_writer.server.caller import bytes_received, bytes_taken
from postgres_writer.server.files import Watched
from postgres_writer.telemetry import metrics

_PART_BYTES = 1024 * 1024
_LULL_SECONDS = 0.5
"""A connection silent for this long when the worker stops is closed; a busier one ends with its next answer."""
_SEND_BYTES = 65536
"""What the kernel buffers of answers that a caller does not read; its default is up to 4 MB per connection."""
_LINGER_SECONDS = 2.0
"""How long a caller that got its last answer has to close the connection."""
_STOPPING = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)


def hold_signals() -> None:
    """Keep signals to stop pending over a fork.

    A worker that is stopped before it has set its own handlers would run the inherited handler of the master, which
    has no effect in a worker, and be killed only at the end of the grace period.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)


def release_signals() -> None:
    """Let the signals through that were held."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)


os.register_at_fork(after_in_parent=release_signals)


class RenewedContext:
    """What gevent asks for the TLS of a new connection: the context of the certificate as it is now.

    Open connections keep their context; new handshakes get the new certificate.
    """

    def __init__(self, context: Watched[ssl.SSLContext]) -> None:
        self._context = context

    def wrap_socket(self, sock: socket.socket, **options: Any) -> ssl.SSLSocket:
        """Wrap a socket. The handshake is left to gunicorn, so that the worker sees when it takes too long."""
        return self._context.current().wrap_socket(sock, do_handshake_on_connect=False, **options)


class _Pieces(list[bytes]):
    """Takes what would be sent."""

    sendall = list.append


class OnePieceResponse(wsgi.Response):
    """An answer whose head and body leave together, with one system call, and wake the caller once."""

    def write(self, arg: bytes) -> None:
        """Send a part of the body, the first one with the head before it."""
        if self.headers_sent or self.chunked:
            super().write(arg)
            return
        sock, pieces = self.sock, _Pieces()
        self.sock = cast("socket.socket", pieces)
        try:
            super().write(arg)
        finally:
            self.sock = sock
        whole = b"".join(pieces)
        # unlike sendall() it does not ask the kernel first how much the socket buffers
        sent = sock.send(whole)
        if sent < len(whole):
            sock.sendall(whole[sent:])


# the only way to choose it: a worker is not asked which it wants
wsgi.Response = OnePieceResponse  # type: ignore[misc]


class Connection:
    """What the worker knows of an open connection: since when its caller sends a request, or is silent."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # a handshake counts like a request
        self._began: float | None = time.monotonic()
        self._silent_since = 0.0
        self._patience = CONNECTION_SECONDS
        self._received = 0

    def wait(self) -> None:
        """Note that the next request is waited for; for the first one not as long as for another."""
        if self._silent_since:
            self._patience = KEEPALIVE_SECONDS
        self._began, self._silent_since = None, time.monotonic()
        # what has arrived and was not read is the beginning of the next request
        self._received = bytes_taken(self._sock)

    def begin(self) -> None:
        """Note that a request is there, unless its first bytes were noticed before."""
        if self._began is None:
            self._began = time.monotonic()

    def is_silent(self, now: float, seconds: float) -> bool:
        """Say whether nothing of a next request has arrived for so long."""
        return (
            self._began is None and now >= self._silent_since + seconds and bytes_received(self._sock) == self._received
        )

    def is_overdue(self, now: float, limit: float) -> bool:
        """Say whether the request, which may take ``limit`` seconds, or the silence before it, takes too long."""
        if self._began is None and bytes_received(self._sock) != self._received:
            self._began = now
        return self.is_silent(now, self._patience) or (self._began is not None and now >= self._began + limit)

    def end(self, how: int = socket.SHUT_RDWR) -> None:
        """Shut the connection down for every greenlet that reads from it or writes to it.

        Through another socket, for gevent raises an error in greenlets that wait for the one which is shut down.
        SHUT_RD lets what has arrived be read before: a request that comes at the same moment is still answered.
        """
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._sock.fileno())) as same:
            same.shutdown(how)


class HookWorker(GeventWorker):
    """A worker that cuts off what takes too long and closes idle connections when it has to stop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections: dict[object, Connection] = {}

    def init_signals(self) -> None:
        """Set the worker's handlers; what was held since the fork arrives now."""
        super().init_signals()
        release_signals()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop: finish the requests that have begun, close the connections on which there is none."""
        super().handle_exit(sig, frame)
        # a caller that is just about to send its next request gets an answer that says `Connection: close`
        gevent.spawn_later(_LULL_SECONDS, self.close_silent)

    def notify(self) -> None:
        """Report to the master that the worker lives, and cut off what is overdue; gunicorn calls this every second."""
        super().notify()
        now = time.monotonic()
        # after SIGTERM the master kills the worker soon, so a request gets only as long as its caller waits
        limit = CONNECTION_SECONDS if self.alive else WEBHOOK_SECONDS
        for connection in list(self._connections.values()):
            if connection.is_overdue(now, limit):
                metrics.CUT_OFF.inc()
                connection.end()
        if not self.alive:
            self.close_silent()

    def close_silent(self) -> None:
        """Close the connections whose callers have sent nothing of a next request for a while."""
        now = time.monotonic()
        for connection in list(self._connections.values()):
            if connection.is_silent(now, _LULL_SECONDS):
                connection.end(socket.SHUT_RD)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve a connection, in a greenlet of its own."""
        current = gevent.getcurrent()
        self._connections[current] = Connection(client)
        with contextlib.suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        try:
            super().handle(listener, client, addr)
        finally:
            del self._connections[current]

    def timeout_ctx(self) -> Any:
        """Note that the next request is waited for; the time for it is looked after in notify()."""
        self._connections[gevent.getcurrent()].wait()
        return contextlib.nullcontext()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """Serve a request whose head has been read."""
        self._connections[gevent.getcurrent()].begin()
        try:
            super().handle_request(listener_name, req, sock, addr)
        except StopIteration:
            linger(sock)
            raise
        # Others run, also when the next request has already arrived. gunicorn would read what is left of the body
        # without letting them, for as long as the caller sends.
        gevent.sleep(0)
        try:
            while req.body.read(_PART_BYTES):
                gevent.sleep(0)
        except Exception as exc:
            # the body is broken, so it is unknown where the next request begins
            raise StopIteration from exc

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what is not a request."""
        super().handle_error(req, client, addr, exc)
        linger(client)


def linger(sock: socket.socket) -> None:
    """Say that nothing more comes, and read until the caller closes, for a moment.

    Closing while the caller still sends would reset the connection, and the caller might lose the answer.
    https://www.rfc-editor.org/rfc/rfc9112#section-9.6
    """
    with contextlib.suppress(OSError, ValueError, gevent.Timeout), gevent.Timeout(_LINGER_SECONDS):
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            gevent.sleep(0)
