"""Callers without a token that send as fast as the server takes it, and how long others wait meanwhile."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import fmean
from typing import Any

import requests

from support.callers import body
from support.server import ServerProcess

TOKEN = "the-right-token"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
POST = b"POST /sync HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
_PIECE = 65536
FEW_TIMES = 5
"""Others notice what anyone does no more than ordinary syncs; the rest is noise, of which a busy machine has much."""


@dataclass(frozen=True)
class Flood:
    """What is sent once on a connection, and then again and again.

    ``trickled``: in segments of one byte each, or, over TLS, in records of one byte.
    """

    begun: bytes
    again: bytes
    trickled: bool = False


FLOODS = {
    "chunks of one byte": Flood(GET + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "chunks of one byte to a hook": Flood(POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "chunks": Flood(POST + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "a body": Flood(POST + b"Content-Length: 99999999999999999999\r\n\r\n", b"x"),
    "a body in pieces of one byte": Flood(POST + b"Content-Length: 99999999999999999999\r\n\r\n", b"x", trickled=True),
    "a head of short lines": Flood(GET, b"a:\r\n"),
    "a head of long lines": Flood(GET, b"X-Long: " + b"a" * 8000 + b"\r\n"),
    "a head in pieces of one byte": Flood(GET, b"a: " + b"a" * 1000 + b"\r\n", trickled=True),
    "requests": Flood(b"", GET + b"\r\n"),
    "requests with many headers": Flood(b"", GET + b"".join(b"X-%d: a\r\n" % n for n in range(40)) + b"\r\n"),
    "requests with long headers": Flood(b"", GET + (b"X: " + b"a" * 8000 + b"\r\n") * 40 + b"\r\n"),
    "requests with bodies": Flood(b"", GET + b"Content-Length: 1\r\n\r\n "),
    "requests without a token": Flood(b"", POST + b"Content-Length: 0\r\n\r\n"),
    "scrapes": Flood(b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"),
}


def ordinary() -> Flood:
    """Give syncs with the token, sent without a pause: what every caller of the hooks may do to the others."""
    sent = json.dumps(body("ordinary")).encode()
    head = POST + b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n"
    return Flood(b"", head % (TOKEN.encode(), len(sent)) + sent)


@contextlib.contextmanager
def flooded(server: ServerProcess, flood: Flood, number: int = 3) -> Iterator[None]:
    """Keep so many connections sending for the length of a with-block; each that ends is followed by another."""
    trusted = str(server.verify) if server.scheme == "https" else None
    # a process of its own: it must not take the interpreter's lock from those whose waits are measured
    process = get_context("spawn").Process(target=_send_from, args=(server.port, trusted, flood, number), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _send_from(port: int, trusted: str | None, flood: Flood, number: int) -> None:
    def send() -> None:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as client:
                _send(client, trusted, flood)

    threads = [threading.Thread(target=send) for _ in range(number)]
    for thread in threads:
        thread.start()


def _send(client: socket.socket, trusted: str | None, flood: Flood) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tls = _Records(client, trusted) if trusted else None
    size = 1 if flood.trickled else max(len(flood.again), _PIECE)
    again = flood.again * (1 + 50_000 // len(flood.again) if flood.trickled else 1 + _PIECE // len(flood.again))
    threading.Thread(target=_read_all, args=(client,), daemon=True).start()
    if tls is not None:
        client.sendall(tls.records(flood.begun, 16384))
        size = min(size, 16384)
    else:
        client.sendall(flood.begun)
    while True:
        if tls is not None:
            # made first, so that they come as fast as from a caller who has nothing else to do
            client.sendall(tls.records(again, size))
        elif flood.trickled:
            for byte in again[:5000]:
                client.send(bytes([byte]))
        else:
            client.sendall(again)


class _Records:
    """A TLS connection whose records are made before they are sent."""

    def __init__(self, client: socket.socket, trusted: str) -> None:
        self._read, self._written = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=trusted)
        self._tls = context.wrap_bio(self._read, self._written, server_hostname="localhost")
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                client.sendall(self._written.read())
                self._read.write(client.recv(65536))
            else:
                client.sendall(self._written.read())
                return

    def records(self, data: bytes, size: int) -> bytes:
        """Give the records of the data, with so many bytes in each."""
        for start in range(0, len(data), size):
            self._tls.write(data[start : start + size])
        return self._written.read()


def _read_all(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while client.recv(65536):
            pass


@dataclass(frozen=True)
class Waits:
    """How long others waited, in seconds, in the order of their length."""

    readyz: list[float]
    sync: list[float]

    @property
    def mean(self) -> float:
        """The mean of all: a wait that is a hundred times as long weighs as much as a hundred others."""
        return fmean(self.readyz + self.sync)

    def __str__(self) -> str:
        """Give median and maximum of both in milliseconds."""
        return ", ".join(
            f"{what} {1000 * taken[len(taken) // 2]:.1f} max {1000 * taken[-1]:.1f} ms ({len(taken)})"
            for what, taken in (("readyz", self.readyz), ("sync", self.sync))
        )


def waits(server: ServerProcess, seconds: float) -> Waits:
    """Ask for /readyz and for an authorised sync, one after the other, each on a connection of its own."""
    found: dict[str, list[float]] = {"readyz": [], "sync": []}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for what, taken in found.items():
            method, sent = ("POST", body("beside")) if what == "sync" else ("GET", None)
            began = time.monotonic()
            with requests.request(
                method, f"{server.url}/{what}", json=sent, headers=RIGHT, verify=server.verify, timeout=60
            ) as answer:
                assert answer.status_code == 200, answer.text
            taken.append(time.monotonic() - began)
    return Waits(*map(sorted, found.values()))


def mean_wait(server: ServerProcess, flood: Flood) -> float:
    """Return how long others wait beside three connections that send the same again and again."""
    with flooded(server, flood):
        time.sleep(0.5)
        return waits(server, 1.0).mean


def connect(port: int, sent: bytes) -> socket.socket:
    """Open a connection that reads nothing, with a small receive buffer, and send what fits."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(60)
    client.connect(("127.0.0.1", port))
    client.sendall(sent)
    return client


def answer_and_end(port: int, sent: bytes) -> bytes:
    """Send something, and return all that comes until the server closes."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(sent)
        with contextlib.suppress(ConnectionError):
            while part := client.recv(65536):
                received += part
    return received


def records(server: ServerProcess) -> list[dict[str, Any]]:
    """Return what was logged; fails if anything is no record."""
    return [json.loads(line) for line in server.logs.splitlines()]
