"""Clients without a token that misbehave in every known way: no one else notices, and their connections are closed."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from support.callers import body
from support.certificates import make_certificate
from support.postgres import Database
from support.scrape import scrape
from support.server import ServerProcess, running_server, serving
from support.waiting import wait_until

TOKEN = "the-right-token"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
BOUND = 3.0
"""Seconds within which others are answered. On an idle machine it takes milliseconds; a caller who can hold anything
holds it for longer than this."""
SIEGE_SECONDS = 2.0
POST = b"POST /sync HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
KEPT = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

STAYING = {
    "what is no HTTP": (100, b"GARBAGE\r\n\r\n"),
    "HTTP/1.0": (100, b"GET /healthz HTTP/1.0\r\n\r\n"),
    "Connection: close": (100, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    "a length of twenty digits": (40, POST + b"Content-Length: 99999999999999999999\r\n\r\n{"),
    "half a head": (300, POST),
    "half a head after a request": (300, KEPT + POST),
    "half a body": (300, POST + b"Content-Length: 1000\r\n\r\n{"),
    "half a chunk": (300, POST + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{"),
    "many answers, read by nobody": (16, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100),
    "half a handshake": (100, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"),
    "nothing": (300, b""),
}
"""What is sent by how many connections, which then stay open."""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(f"{TOKEN}\n")
    return str(path)


@pytest.fixture(scope="module")
def guarded(shared_database: Database, tokens: str) -> Iterator[ServerProcess]:
    """Run a server that asks for a token."""
    with running_server(shared_database, HOOK_TOKENS_FILE=tokens) as server:
        yield server


@pytest.fixture(scope="module")
def encrypted(shared_database: Database, tokens: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Run a server that speaks TLS and asks for a token."""
    made = make_certificate(tmp_path_factory.mktemp("certificate"))
    environ = {**shared_database.environ, **made.environ, "HOOK_TOKENS_FILE": tokens}
    with serving(ServerProcess(environ, scheme="https", verify=str(made.certificate))) as server:
        yield server


def connect(port: int, sent: bytes) -> socket.socket:
    """Open a connection that reads nothing, with a small receive buffer, and send what fits."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(5)
    client.connect(("127.0.0.1", port))
    client.sendall(sent)
    return client


def worst_answers(server: ServerProcess, seconds: float = SIEGE_SECONDS) -> dict[str, float]:
    """Ask for /healthz and an authorised sync, each on a connection of its own, and return the slowest of each."""
    worst = {"healthz": 0.0, "sync": 0.0}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for what, before in worst.items():
            began = time.monotonic()
            if what == "sync":
                asked: dict[str, Any] = {"json": body("beside"), "headers": RIGHT}
                answer = requests.request("POST", f"{server.url}/sync", verify=server.verify, timeout=10, **asked)
            else:
                answer = requests.get(f"{server.url}/healthz", verify=server.verify, timeout=10)
            assert answer.status_code == 200, answer.text
            worst[what] = max(before, time.monotonic() - began)
    return worst


def check_nobody_notices(server: ServerProcess, kind: str) -> None:
    workers = server.workers()
    worst = worst_answers(server)
    print(f"beside {kind}: " + ", ".join(f"{what} {seconds:.3f} s" for what, seconds in worst.items()))
    assert max(worst.values()) < BOUND
    assert set(server.workers()) >= set(workers), "a worker ended"
    assert "Traceback" not in server.logs


@pytest.mark.parametrize("kind", STAYING)
def test_callers_that_stay_are_noticed_by_nobody(guarded: ServerProcess, kind: str) -> None:
    number, sent = STAYING[kind]
    with ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(connect(guarded.port, sent))
        check_nobody_notices(guarded, kind)


@pytest.mark.parametrize("kind", ["half a handshake", "nothing", "half a head"])
def test_callers_that_stay_in_a_handshake_are_noticed_by_nobody(encrypted: ServerProcess, kind: str) -> None:
    number, sent = STAYING[kind]
    with ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(connect(encrypted.port, sent))
        check_nobody_notices(encrypted, kind)


ENDLESS = {
    "a body": (POST + b"Content-Length: 99999999999999999999\r\n\r\n", b"x" * 65536),
    "chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "a head": (POST, b"X: a\r\n" * 100),
    "requests": (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 100),
}
"""What is sent once, and then again and again as fast as it is taken."""


@pytest.mark.parametrize("kind", ENDLESS)
def test_callers_that_never_stop_sending_are_noticed_by_nobody(guarded: ServerProcess, kind: str) -> None:
    with senders(guarded.port, *ENDLESS[kind], number=8):
        check_nobody_notices(guarded, f"{kind} without an end")


@contextlib.contextmanager
def senders(port: int, begun: bytes, again: bytes, number: int) -> Iterator[None]:
    """Run threads that send without a pause, read what they get, and come again when they are cut off."""
    over = threading.Event()

    def send() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                client.sendall(begun)
                reader = threading.Thread(target=read_all, args=(client,), daemon=True)
                reader.start()
                while not over.is_set():
                    client.sendall(again)

    threads = [threading.Thread(target=send, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(10)


def read_all(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while client.recv(65536):
            pass


def test_what_callers_leave_undone_is_cut_off_and_counted(shared_database: Database, tmp_path: Path) -> None:
    """All kinds at once, on servers with and without TLS, because each of them waits for the same 15 s."""
    made = make_certificate(tmp_path)
    secure = {**shared_database.environ, **made.environ}
    kinds = ("half a head", "half a body", "half a chunk", "nothing")
    with (
        running_server(shared_database) as plain,
        serving(ServerProcess(secure, scheme="https", verify=str(made.certificate))) as encrypted,
        ExitStack() as stack,
    ):
        open_ones = {kind: stack.enter_context(connect(plain.port, STAYING[kind][1])) for kind in kinds}
        open_ones["half a head after an answer"] = later = stack.enter_context(connect(plain.port, KEPT))
        assert later.recv(1000).startswith(b"HTTP/1.1 200")
        later.sendall(POST)
        reading_nothing = stack.enter_context(connect(plain.port, STAYING["many answers, read by nobody"][1]))
        for kind in ("half a handshake", "nothing"):
            open_ones[f"{kind}, TLS"] = stack.enter_context(connect(encrypted.port, STAYING[kind][1]))
        context = ssl.create_default_context(cafile=str(made.certificate))
        raw = connect(encrypted.port, b"")
        shaken = stack.enter_context(context.wrap_socket(raw, server_hostname="localhost"))
        shaken.sendall(POST)
        open_ones["half a head, TLS"] = shaken
        for kind, client in open_ones.items():
            assert ends_within(client, 25), f"{kind} is still open"
        wait_until(lambda: cut_off(plain) == len(kinds) + 2, lambda: f"{cut_off(plain)} cut off: {plain.logs}")
        wait_until(lambda: cut_off(encrypted) == 3, lambda: f"{cut_off(encrypted)} cut off: {encrypted.logs}")
        assert ends_within(reading_nothing, 10), "a caller that never read still gets answers"


def ends_within(client: socket.socket, seconds: float) -> bool:
    """Read until the other side closes, and say whether it did in time."""
    client.settimeout(seconds)
    try:
        while client.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def cut_off(server: ServerProcess) -> float:
    return scrape(server).total("postgres_writer_connections_cut_off_total")


def test_large_bodies_are_read_one_at_a_time(shared_database: Database) -> None:
    """Each is sent but for its end, so a worker that read all of them would hold all of them."""
    part, number = 12 * 2**20, 6
    begun = POST + b"Content-Length: %d\r\n\r\n" % (part + 1) + b"[" * part

    def send(client: socket.socket) -> None:
        with contextlib.suppress(TimeoutError):
            client.sendall(begun)

    with running_server(shared_database) as server, ExitStack() as stack:
        [worker] = server.workers()
        server.post("sync", body("before"))
        before = memory(worker)
        clients = [stack.enter_context(connect(server.port, b"")) for _ in range(number)]
        with ThreadPoolExecutor(number) as pool:
            list(pool.map(send, clients))
        assert part < memory(worker) - before < 3 * part
        assert server.post("sync", body("beside"), timeout=5).status_code == 200


def memory(pid: int) -> int:
    """Return the memory that a process has now, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def test_an_open_connection_without_a_request_does_not_delay_the_stop(shared_database: Database) -> None:
    with running_server(shared_database) as server, ExitStack() as stack:
        idle = [stack.enter_context(connect(server.port, sent)) for sent in (b"", KEPT) for _ in range(4)]
        for client in idle[4:]:
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 8, "it waited for requests that no one sends"


def test_more_connections_than_descriptors_end_no_worker(
    shared_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(tmp_path, monkeypatch, "ulimit -n 128")
    with running_server(shared_database) as server:
        workers = server.workers()
        with ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(connect(server.port, b""))
            # that many are not served; those which come after them wait until the silent ones are cut off
        deadline = time.monotonic() + 25
        while json.loads(server.post("sync", body("after")).text)["status"]["conditions"][0]["status"] != "True":
            assert time.monotonic() < deadline
        assert set(server.workers()) >= set(workers), "a worker ended"
        assert "Traceback" not in server.logs


def test_a_low_soft_limit_of_descriptors_is_raised(
    shared_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(tmp_path, monkeypatch, "ulimit -Sn 64")
    with running_server(shared_database) as server, ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(connect(server.port, b""))
        assert server.get("/healthz", timeout=5).status_code == 200


def limited(folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """Let servers be started under a limit."""
    from support import server  # noqa: PLC0415

    script = folder / "postgres-writer"
    script.write_text(f'#!/bin/sh\n{limit} && exec {server.PROGRAM} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(server, "PROGRAM", script)
