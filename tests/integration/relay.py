"""A relay before PostgreSQL that counts the messages of its clients, and with that the round trips."""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from support.postgres import Database


@dataclass
class Relay:
    """The types of the messages that clients sent since the last ``take``; the start-up message has none.

    https://www.postgresql.org/docs/current/protocol-message-formats.html
    """

    upstream: Database
    listener: socket.socket
    seen: list[str] = field(default_factory=list)

    def take(self) -> list[str]:
        """Return what was counted, and start again from zero."""
        found, self.seen = self.seen, []
        return found

    def serve(self) -> None:
        """Accept clients until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = self._connect()
                for source, target, count in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pump, args=(source, target, count), daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = self.upstream.connect["host"], self.upstream.connect.get("port", "5432")
        if not host.startswith("/"):
            return socket.create_connection((host, int(port)))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _pump(self, source: socket.socket, target: socket.socket, count: bool) -> None:
        with contextlib.suppress(OSError), source, target:
            if count:
                self._pump_messages(source, target)
            while data := source.recv(65536):
                target.sendall(data)

    def _pump_messages(self, source: socket.socket, target: socket.socket) -> None:
        """Pass whole messages on; the first one has no type."""
        stream = source.makefile("rb")
        kind = b""
        while len(head := stream.read(4)) == 4:
            body = stream.read(struct.unpack("!I", head)[0] - 4)
            if kind:
                self.seen.append(kind.decode())
            target.sendall(kind + head + body)
            kind = stream.read(1)


@contextlib.contextmanager
def relayed(database: Database) -> Iterator[tuple[Relay, Database]]:
    """Run a relay before a database; gives it and the database as it is reached through it."""
    folder = tempfile.mkdtemp(prefix="pgw-relay-")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(Path(folder, ".s.PGSQL.5432")))
    listener.listen()
    relay = Relay(database, listener)
    thread = threading.Thread(target=relay.serve, daemon=True)
    thread.start()
    try:
        yield relay, Database({**database.connect, "host": folder, "port": "5432"})
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(60)
        shutil.rmtree(folder)
