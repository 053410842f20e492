"""gunicorn's gevent worker, with a limit on everything that a slow, rude or busy caller can hold.

Each connection has a greenlet, so callers that send slowly, or nothing, or never read, do not delay others. The stock
worker waits for the rest of a request, or for room to write an answer, as long as it takes. And where data comes
without a pause its greenlet never has to wait: here a connection does one piece of work in each turn of the loop.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import gevent.socket
from gevent.hub import Hub
from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.http.body import LengthReader
from gunicorn.http.errors import LimitRequestHeaders, NoMoreData
from gunicorn.http.parser import RequestParser
from gunicorn.workers.ggevent import GeventWorker

from postgres_writer.deadlines import CONNECTION_SECONDS, KEEPALIVE_SECONDS, WEBHOOK_SECONDS
from postgres_writer.telemetry import metrics
from postgres_writer.telemetry.logs import RateLimit, log_fields

logger = logging.getLogger(__name__)
logger.addFilter(RateLimit())

_HEAD_BYTES = 32768  # longest head of a request in all: to parse one takes no longer than an ordinary sync
NEXT_TURN = 1e-6
"""gevent.sleep(0) may go on before the loop has looked for what others have sent; any other sleep does not."""
_DRAIN_BYTES = 2**20
"""What is read of a body that is not wanted, so that its sender sees why: it takes about as long as a sync."""
_LULL_SECONDS = 0.5
"""A connection silent for this long when the worker stops is closed; a busier one ends with its next answer."""
_SEND_BYTES = 65536
"""What the kernel buffers of answers that a caller does not read; its default is up to 4 MB per connection."""
_PIECE_BYTES = 8192  # what OpenSSL gets at a time
T = TypeVar("T")
_STOPPING = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)


def hold_signals() -> None:
    """Keep signals to stop pending over a fork: the master's handlers have no effect in a worker without its own."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)


def release_signals() -> None:
    """Let the signals through that were held; the first time those too that an embedded database had to survive."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)


os.register_at_fork(after_in_parent=release_signals)


class Connection(gevent.socket.socket):
    """An accepted connection, read in turns with all others; it knows since when the caller sends, or is silent.

    With TLS, OpenSSL works in memory, on one piece of what arrives at a time: it would read from a socket for as long
    as there is anything, also what is no data, such as updates of keys.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None = None) -> None:
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True) if context else None
        self._loop = gevent.get_hub().loop
        self._turn = -1
        self._head: int | None = None
        # a handshake counts like a request
        self._began: float | None = time.monotonic()
        self._silent_since = 0.0
        self._patience = CONNECTION_SECONDS

    def wait(self) -> None:
        """Note that a request is waited for: the first for CONNECTION_SECONDS, later ones for KEEPALIVE_SECONDS."""
        if self._silent_since:
            self._patience = KEEPALIVE_SECONDS
        self._began, self._silent_since, self._head = None, time.monotonic(), 0

    def begin(self) -> None:
        """Note that the head of a request is there."""
        if not self._head:
            # it came with the one before
            self._take_turn()
            self._turn = self._loop.iteration
        self._began, self._head = self._began or time.monotonic(), None

    def do_handshake(self) -> None:
        """Do the handshake of TLS, if there is one."""
        if self._tls is not None:
            self._stepwise(self._tls.do_handshake)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Read up to so many bytes. Raises LimitRequestHeaders when the head of a request is too long."""
        self._take_turn()
        if self._tls is None:
            data = self._receive(size, flags)
        else:
            with contextlib.suppress(ssl.SSLEOFError, ssl.SSLZeroReturnError):
                data = b""
                data = self._stepwise(partial(self._tls.read, size))
        self._turn = self._loop.iteration
        if self._head is not None:
            self._head += len(data)
            if self._head > _HEAD_BYTES:
                raise LimitRequestHeaders(f"more than {_HEAD_BYTES} bytes")
        return data

    def send(self, data: Any, flags: int = 0, **options: Any) -> int:
        """Send, encrypted with TLS; returns how many bytes of the data were sent."""
        if self._tls is None:
            return super().send(data, flags, **options)
        sent = self._tls.write(data)
        self._flush()
        return sent

    def shutdown(self, how: int) -> None:
        """End one direction or both; what still comes is read as it is."""
        self._tls = self._head = None
        super().shutdown(how)

    def _stepwise(self, operation: Callable[[], T]) -> T:
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                pass
            finally:
                self._flush()
            piece = self._receive(_PIECE_BYTES)
            if piece:
                self._in.write(piece)
            else:
                self._in.write_eof()

    def _receive(self, size: int, flags: int = 0) -> bytes:
        self._take_turn()
        data = super().recv(size, flags)
        self._turn = self._loop.iteration
        self._began = self._began or time.monotonic()
        return data

    def _flush(self) -> None:
        data = self._out.read()
        while data:
            data = data[super().send(data) :]

    def _take_turn(self) -> None:
        if self._loop.iteration == self._turn:
            gevent.sleep(NEXT_TURN)

    def is_silent(self, now: float, seconds: float) -> bool:
        """Say whether nothing of a next request has arrived for so long."""
        return self._began is None and now >= self._silent_since + seconds

    def is_overdue(self, now: float, limit: float) -> bool:
        """Say whether the request, which may take ``limit`` seconds, or the silence before it, takes too long."""
        return self.is_silent(now, self._patience) or (self._began is not None and now >= self._began + limit)

    def end(self, how: int = socket.SHUT_RDWR) -> None:
        """Shut the connection down for every greenlet that reads from it or writes to it.

        Through another socket, for gevent raises an error in greenlets that wait for the one which is shut down.
        SHUT_RD lets what has arrived be read before: a request that comes at the same moment is still answered.
        """
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.fileno())) as same:
            same.shutdown(how)


class HookWorker(GeventWorker):
    """A worker that lets callers take turns, cuts off what takes too long and closes idle connections when it stops."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections: dict[object, Connection] = {}

    def init_signals(self) -> None:
        """Set the worker's handlers, of gevent's errors too; what was held since the fork arrives now."""
        hub: Any = gevent.get_hub()
        # as the docstring of Hub.handle_error() proposes
        hub.handle_error = log_error
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
        current, name, parser, request = gevent.getcurrent(), listener.getsockname(), None, None
        connection = client if isinstance(client, Connection) else Connection(client)
        self._connections[current] = connection
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
            connection.do_handshake()
            parser = RequestParser(self.cfg, connection, addr)
            stays = True
            while stays:
                connection.wait()
                request = None
                request = next(parser)
                connection.begin()
                stays = self.handle_request(name, request, connection, addr)
        except (StopIteration, NoMoreData):
            pass
        except OSError as exc:
            note_failure(exc, addr)
        except Exception as exc:
            self.handle_error(request, connection, addr, exc)
        finally:
            # with them what was read of a body, whose memory others may take now
            parser = request = None
            del self._connections[current]
            # what a refused client still sends is read for a moment: a reset could overtake the answer
            util.close_graceful(connection, max_drain=_DRAIN_BYTES)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> bool:
        """Answer a request whose head has been read; say whether the connection stays open for another."""
        response, environ = cast("tuple[Any, Any]", wsgi.create(req, sock, addr, listener_name, self.cfg))
        body = b"".join(self.wsgi(environ, response.start_response))
        reader = req.body.reader
        if not self.alive or not isinstance(reader, LengthReader) or reader.length:
            # what is left of a body that was not wanted is not worth reading
            response.force_close()
        lines = [*response.default_headers(), *(f"{key}: {value}\r\n" for key, value in response.headers), "\r\n"]
        head = "".join(lines).encode("latin-1")
        # together they leave with one system call, and wake the caller once
        answer = head if req.method == "HEAD" else head + body
        # sendall() would ask for the size of the buffer first
        sent = sock.send(answer)
        if sent < len(answer):
            sock.sendall(memoryview(answer)[sent:])
        return not response.should_close()


def log_error(context: Any, kind: Any, value: Any, trace: Any) -> None:
    """Log what was raised outside every handler, for example when accepting a connection; gevent would print it."""
    if context is None or not isinstance(value, Exception):
        Hub.handle_error(gevent.get_hub(), context, kind, value, trace)
    elif isinstance(value, OSError):
        note_failure(value)
    else:
        logger.error("Internal error.", exc_info=value)


def note_failure(exc: OSError, addr: Any = None) -> None:
    """Log that a connection could not be accepted, or failed."""
    # so do port scans and the health checks of balancers end
    usual = isinstance(exc, (ConnectionError, ssl.SSLEOFError)) or exc.errno == errno.ENOTCONN
    level, client = logging.DEBUG if usual else logging.WARNING, addr[0] if addr else "a client"
    cause = getattr(exc, "reason", None) or exc.strerror
    logger.log(level, "The connection of %s failed.", client, extra=log_fields(cause=cause))
