"""gunicorn's threaded worker, whose threads are safe from slow clients.

gunicorn reads headers and body in a thread of the pool, without a deadline, and lingers up to two seconds on a closed
connection in the loop that accepts new ones. Both let a few slow clients stop the server. Here a request is gathered
in the loop, without blocking, and gets a thread when it is whole.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import ssl
import threading
import time
from functools import partial
from typing import Any

from gunicorn import http, sock
from gunicorn.workers.gthread import ThreadWorker

from postgres_writer.deadlines import CONNECTION_SECONDS
from postgres_writer.server.gathering import Gathered

SMALL_BYTES = 65536
"""A request up to this size, as all of Metacontroller's but the largest are, is gathered whatever others do."""
LARGE_BYTES = 48 * 1024 * 1024
"""What all requests that are being gathered may hold together; a large one that would exceed it is cut off."""
_PART_BYTES = 65536
_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

_STOPPING = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)


def hold_signals(_arbiter: Any, _worker: Any) -> None:
    """Keep signals to stop pending over a fork; gunicorn calls this before each.

    A worker that is told to stop before it has set its handlers would drop the signal into the master's handler,
    which means nothing there, and be killed only at the end of the grace period.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)


def release_signals() -> None:
    """Let the signals through that were held."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)


os.register_at_fork(after_in_parent=release_signals)


def _already_closed(*, graceful: bool = False) -> None:
    """Stand in for the close() of a connection that is closed: a second one would raise and be counted twice."""


class HookWorker(ThreadWorker):
    """A threaded worker that gathers requests itself and cuts off what is still not done after CONNECTION_SECONDS."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._busy: dict[Any, float] = {}
        self._busy_lock = threading.Lock()
        self._gathering: dict[Any, tuple[Gathered, float]] = {}

    def init_signals(self) -> None:
        """Set the worker's handlers; what was held since the fork arrives now."""
        super().init_signals()
        release_signals()

    def handle(self, conn: Any) -> Any:
        """Serve one request on a connection, in a thread of the pool."""
        with self._busy_lock:
            self._busy[conn] = time.monotonic() + CONNECTION_SECONDS
        try:
            kept = super().handle(conn)
        finally:
            with self._busy_lock:
                del self._busy[conn]
        if not kept:
            # here, where it costs one thread; gunicorn would do it in the loop that accepts
            conn.close(graceful=True)
            conn.close = _already_closed
        return kept

    def enqueue_req(self, conn: Any) -> None:
        """Gather a request from a connection that is new or readable, then give it to a thread of the pool."""
        try:
            if not conn.initialized:
                self._begin(conn)
            conn.sock.setblocking(False)
        except OSError:
            self._drop(conn)
            return
        # what came along with the request before is the beginning of this one
        application: Any = self.app
        gathered = Gathered(application.max_body_bytes, conn.parser.unreader.take_buffered())
        self._gathering[conn] = gathered, time.monotonic() + CONNECTION_SECONDS
        self._gather(conn, None)

    def _begin(self, conn: Any) -> None:
        conn.initialized = True
        conn.sock.setblocking(False)
        if self.cfg.is_ssl:
            # the handshake is part of what is gathered: it takes as many steps as the client lets it
            conn.sock = sock.ssl_wrap_socket(conn.sock, self.cfg)
        conn.parser = http.get_parser(self.cfg, conn.sock, conn.client)

    def _gather(self, conn: Any, registered: Any) -> None:
        """Take what has arrived; ``registered`` is the socket that the loop has been watching for it, if any."""
        gathered, _ = self._gathering[conn]
        try:
            whole = self._take(conn, gathered)
        except OSError:
            self._release(conn, registered)
            self._drop(conn)
            return
        if whole:
            self._release(conn, registered)
            conn.parser.unreader.unread(bytes(gathered.data))
            super().enqueue_req(conn)
        elif registered is None:
            watcher = partial(self._gather, conn)
            self.poller.register(conn.sock, selectors.EVENT_READ, watcher)

    def _take(self, conn: Any, gathered: Gathered) -> bool:
        """Receive what there is without waiting; True when there is a whole request. OSError: drop the connection."""
        while not gathered.is_whole():
            if gathered.wants_continue():
                conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            try:
                part = conn.sock.recv(_PART_BYTES)
            except _WAIT:
                return False
            if not part:
                if gathered.data:
                    # the parser says what is wrong with a request that ends too early
                    return True
                raise ConnectionResetError
            gathered.data += part
            if len(gathered.data) > SMALL_BYTES and self._held() > LARGE_BYTES:
                raise ConnectionAbortedError("too much is being gathered")
        return True

    def _held(self) -> int:
        return sum(len(gathered.data) for gathered, _ in self._gathering.values())

    def _release(self, conn: Any, registered: Any) -> None:
        del self._gathering[conn]
        if registered is not None:
            self.poller.unregister(registered)

    def _drop(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        """Close what is overdue; gunicorn calls this about once a second."""
        super().murder_pending()
        now = time.monotonic()
        for conn, (gathered, deadline) in list(self._gathering.items()):
            if now > deadline or (not self.alive and not gathered.data):
                self._release(conn, conn.sock)
                self._drop(conn)
        with self._busy_lock:
            for conn, deadline in self._busy.items():
                if now > deadline:
                    # past TLS, whose own shutdown must not be called from a second thread
                    with contextlib.suppress(OSError):
                        socket.socket.shutdown(conn.sock, socket.SHUT_RDWR)
