"""gunicorn's threaded worker with a limit on how long one client may hold a thread.

gunicorn reads headers and body without a deadline, and lingers up to two seconds on a closed connection in
the loop that accepts new ones. Both let a few slow clients stop the server.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

REQUEST_SECONDS = 15.0
"""Longest life of one request from its first byte on. Metacontroller gives up after 10 s, so nobody waits
for a later answer."""


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
    """A threaded worker that cuts off a request which is still not done after REQUEST_SECONDS."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._busy: dict[Any, float] = {}
        self._busy_lock = threading.Lock()

    def init_signals(self) -> None:
        """Set the worker's handlers; what was held since the fork arrives now."""
        super().init_signals()
        release_signals()

    def handle(self, conn: Any) -> Any:
        """Serve one request on a connection, in a thread of the pool."""
        with self._busy_lock:
            self._busy[conn] = time.monotonic() + REQUEST_SECONDS
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

    def murder_pending(self) -> None:
        """Close what is overdue; gunicorn calls this about once a second."""
        super().murder_pending()
        now = time.monotonic()
        with self._busy_lock:
            for conn, deadline in self._busy.items():
                if now > deadline:
                    # past TLS, whose own shutdown must not be called from a second thread
                    with contextlib.suppress(OSError):
                        socket.socket.shutdown(conn.sock, socket.SHUT_RDWR)
