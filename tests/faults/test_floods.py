"""Callers that send without a pause, or more than is wanted: what they send costs others nothing."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from faults.floods import FEW_TIMES, FLOODS, POST, RIGHT, TOKEN, answer_and_end, connect, mean_wait, ordinary, waits
from faults.key_updates import key_updates
from postgres_writer.config.settings import Config
from support.callers import body
from support.server import ServerProcess

KEPT = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def is_noticed(server: ServerProcess, kind: str) -> bool:
    """Say whether others wait much longer beside a flood than beside clients with a token who sync without a pause."""
    beside, usual = mean_wait(server, FLOODS[kind]), mean_wait(server, ordinary())
    print(f"beside {kind}: {beside:.3f} s, beside syncs: {usual:.3f} s")
    return beside > FEW_TIMES * usual


SHORT = {
    ("chunks of one byte to a hook", "http"),
    ("a body in pieces of one byte", "https"),
    ("a head of long lines", "http"),
    ("requests", "http"),
    ("requests without a token", "https"),
    ("scrapes", "http"),
}
"""Those that between them have every way of sending."""


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        pytest.param(kind, scheme, marks=() if (kind, scheme) in SHORT else pytest.mark.long)
        for kind in FLOODS
        for scheme in ("http", "https")
    ],
)
def test_clients_that_never_stop_sending_hold_up_others_no_more_than_syncs_do(
    guarded: ServerProcess, encrypted: ServerProcess, kind: str, scheme: str
) -> None:
    server = guarded if scheme == "http" else encrypted
    workers = server.workers()
    # what else the machine does may hit one of the two; what a flood does, it does each time
    assert not all(is_noticed(server, kind) for _ in range(3))
    assert server.workers() == workers, "the worker ended"
    assert "Traceback" not in server.logs


def test_a_client_that_only_changes_its_keys_holds_up_no_one(encrypted: ServerProcess) -> None:
    """Made before they are sent: to read them costs the server as much time as it took to make them."""

    def holds_up() -> bool:
        with socket.create_connection(("127.0.0.1", encrypted.port)) as client:
            began = time.process_time()
            updates = key_updates(client, 100_000)
            taken = time.process_time() - began
            sender = threading.Thread(target=client.sendall, args=(updates,))
            sender.start()
            waited = waits(encrypted, 3.0)
            sender.join(60)
        print(f"made in {taken:.1f} s, beside them: {waited}")
        return max(waited.readyz[-1], waited.sync[-1]) >= taken / 3

    assert not all(holds_up() for _ in range(3))


ROUTES = ["/sync", "/finalize", "/healthz", "/readyz", "/metrics", "/nowhere"]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"])
def test_a_chunked_body_is_refused_unread_on_every_route(guarded: ServerProcess, method: str, path: str) -> None:
    """Also with a token: Metacontroller sends a length."""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nTransfer-Encoding: Chunked\r\n\r\n"
    received = answer_and_end(guarded.port, head.encode() + KEPT)
    assert received.startswith(b"HTTP/1.1 411 ")
    assert received.count(b"HTTP/1.1") == 1
    assert b"Connection: close" in received
    assert (b'"status":411' in received) is (method != "HEAD")


REFUSED = {
    "no token": (401, POST),
    "another route": (404, b"POST /nowhere HTTP/1.1\r\nHost: x\r\n"),
    "another method": (405, POST.replace(b"POST", b"PUT")),
    "another type": (415, POST.replace(b"json", b"xml") + b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"),
    "a body that is too large": (413, POST + b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_the_body_of_a_refused_request_is_not_read_but_the_answer_arrives(guarded: ServerProcess, kind: str) -> None:
    status, head = REFUSED[kind]
    received, sent = [], 0

    def read(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := client.recv(65536):
                received.append(part)

    with socket.create_connection(("127.0.0.1", guarded.port), timeout=60) as client:
        client.sendall(head + b"Content-Length: 99999999999\r\n\r\n")
        reader = threading.Thread(target=read, args=(client,))
        reader.start()
        with contextlib.suppress(OSError):
            while sent < 2**30:
                sent += client.send(b"x" * 65536)
            pytest.fail("a gigabyte was taken")
        reader.join(60)
    answer = b"".join(received)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close" in answer
    # what the kernel buffers on both sides is most of it
    assert sent < 32 * 2**20


def test_a_connection_whose_bodies_were_read_stays_open(guarded: ServerProcess) -> None:
    body_ = json.dumps(body("stays")).encode()
    head = POST + b"Authorization: Bearer %s\r\nContent-Length: %d\r\n" % (TOKEN.encode(), len(body_))
    request = head + b"\r\n" + body_
    received = answer_and_end(guarded.port, request * 3 + head + b"Connection: close\r\n\r\n" + body_)
    assert received.count(b"HTTP/1.1 200 OK") == 4
    assert received.count(b"Connection: keep-alive") == 3


def large(size: int, sent: int) -> bytes:
    """Return a request with a token and a body of so many bytes, and so many of them."""
    head = POST + b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n" % (TOKEN.encode(), size)
    return head + b"[" * sent


def test_large_bodies_that_stall_take_a_bounded_memory_and_hold_up_no_other(guarded: ServerProcess) -> None:
    """Each is sent but for its end, so a worker that read all of them would hold all of them."""
    part, number, limit = 12 * 2**20, 12, Config.max_body_bytes
    [worker] = guarded.workers()
    guarded.post("sync", body("before"), headers=RIGHT)
    # the peak begins at what the worker has now; https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html
    Path(f"/proc/{worker}/clear_refs").write_text("5", encoding="ascii")
    before = peak_memory(worker)

    def send(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            client.sendall(large(part + 1, part))

    with ExitStack() as stack:
        clients = [stack.enter_context(connect(guarded.port, b"")) for _ in range(number)]
        with ThreadPoolExecutor(number) as pool:
            list(pool.map(send, clients))
        # what is read, and copies of it while it grows; all of them would take as much as they are
        assert part < peak_memory(worker) - before < 6 * limit < number * part
        assert guarded.post("sync", body("beside"), headers=RIGHT).status_code == 200


def test_a_large_body_that_stalls_holds_up_no_other_large_one(guarded: ServerProcess) -> None:
    padded = body("padded")
    padded["parent"]["metadata"]["annotations"] = {"padding": "x" * 3_000_000}
    with connect(guarded.port, large(3_000_000, 1_200_000)) as stalled:
        began = time.monotonic()
        answer = guarded.post("sync", padded, headers=RIGHT)
        taken = time.monotonic() - began
        assert answer.status_code == 200, answer.text
        # the one that stalls gets its answer when nothing could be written for it any more
        stalled.settimeout(60)
        received = stalled.recv(65536)
        assert received.startswith(b"HTTP/1.1 400 ")
        assert b"did not arrive in time" in received
        assert taken < (time.monotonic() - began) / 2


def test_large_bodies_for_which_there_is_no_memory_are_told_so(guarded: ServerProcess) -> None:
    """One after the other gets the memory of those before it, which they hold until it is too late for them."""
    number = 6
    with ThreadPoolExecutor(number) as pool:
        begun = large(Config.max_body_bytes, 1000)
        received = list(pool.map(answer_and_end, [guarded.port] * number, [begun] * number))
    assert all(answer.startswith(b"HTTP/1.1 400 ") for answer in received)
    assert all(b"send it again later" in answer for answer in received)


def peak_memory(pid: int) -> int:
    """Return the most memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
