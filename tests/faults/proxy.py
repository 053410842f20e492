"""A TCP proxy between two parts under test: it delays, cuts or forwards what passes through."""

import contextlib
import ctypes
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_CHUNK = 65536

Matches = Callable[[bytes], bool]


@dataclass(eq=False)
class _Link:
    """One connection through the proxy: the client's socket and the server's."""

    client: socket.socket
    server: socket.socket
    held: bool = False
    """Whether what the client sends stays in the proxy."""

    def close(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@dataclass(eq=False)
class Proxy:
    """Passes TCP connections on to a port of 127.0.0.1, each in a thread of its own."""

    target: int
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    links: list[_Link] = field(default_factory=list)
    caught: threading.Event = field(default_factory=threading.Event)
    """Set when `hold_next` has found its message."""
    _open: threading.Event = field(default_factory=threading.Event)
    _matches: Matches | None = None
    _cuts: Matches | None = None
    _reconnects: bool = True
    _refuses: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: bool = False

    @property
    def port(self) -> int:
        """The port to connect to instead of the target's."""
        port: int = self.listener.getsockname()[1]
        return port

    def hold_next(self, matches: Matches) -> None:
        """Hold the next message of a client that matches, and all that follows it on the same connection."""
        self.caught.clear()
        with self._lock:
            self._matches = matches

    def cut_on(self, matches: Matches | None, *, reconnects: bool = True) -> None:
        """Close each connection whose client sends a message that matches, and without ``reconnects`` take no other."""
        self._cuts = matches
        self._refuses = False
        self._reconnects = reconnects

    def release(self) -> None:
        """Let what is held go on."""
        for link in list(self.links):
            link.held = False

    def blackhole(self) -> None:
        """Take everything and pass nothing on, in both directions, without closing; new connections too."""
        self._open.clear()

    def restore(self) -> None:
        """Undo blackhole(): what was taken meanwhile arrives now."""
        self._open.set()

    def swallow(self) -> None:
        """Drop every further packet of the clients that are connected now, unacknowledged and without a word.

        As a balancer or NAT does which has forgotten an idle connection. New connections pass. Linux only.
        """
        for link in list(self.links):
            _drop_incoming(link.client)

    def cut(self) -> None:
        """Close every connection that goes through."""
        for link in list(self.links):
            link.close()

    def start(self) -> None:
        """Begin to accept connections."""
        self._open.set()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def close(self) -> None:
        """Stop accepting and close every connection."""
        self._closing = True
        self._open.set()
        self.listener.close()
        self.cut()

    def _accept(self) -> None:
        while not self._closing:
            try:
                ready, _, _ = select.select([self.listener], [], [], 0.1)
                if not ready:
                    continue
                client, _ = self.listener.accept()
                if self._refuses:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self.target), timeout=60)
            except (OSError, ValueError):
                # the target is down: the client sees its connection closed at once
                with contextlib.suppress(UnboundLocalError):
                    client.close()
                continue
            # the time-out was for the connect; an idle connection stays open
            server.settimeout(None)
            link = _Link(client, server)
            self.links.append(link)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(link, source, sink), name="proxy", daemon=True).start()

    def _pump(self, link: _Link, source: socket.socket, sink: socket.socket) -> None:
        from_client = source is link.client
        try:
            while data := source.recv(_CHUNK):
                if from_client:
                    self._catch(link, data)
                    if self._cuts is not None and self._cuts(data):
                        self._refuses = not self._reconnects
                        return
                while (from_client and link.held) or not self._open.is_set():
                    if self._closing:
                        return
                    time.sleep(0.01)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            with contextlib.suppress(ValueError):
                self.links.remove(link)
            link.close()

    def _catch(self, link: _Link, data: bytes) -> None:
        with self._lock:
            if self._matches is None or not self._matches(data):
                return
            self._matches = None
        link.held = True
        self.caught.set()


def _drop_incoming(receiver: socket.socket) -> None:
    """Attach a socket filter (socket(7), linux/filter.h) whose only instruction is to return 0: keep nothing."""
    so_attach_filter, return_constant = 26, 0x06
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", return_constant, 0, 0, 0))
    program = struct.pack("HL", 1, ctypes.addressof(instruction))
    receiver.setsockopt(socket.SOL_SOCKET, so_attach_filter, program)


@contextlib.contextmanager
def running_proxy(target: int) -> Iterator[Proxy]:
    """Run a proxy to a port of 127.0.0.1 for the length of a with-block."""
    proxy = Proxy(target)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.close()
