"""Clients without a token that misbehave in every known way: no one else notices, and their connections are closed."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import ssl
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from faults.floods import FEW_TIMES, POST, answer_and_end, connect, mean_wait, ordinary, records, waits
from support.callers import body
from support.certificates import make_certificate
from support.postgres import Database
from support.scrape import scrape
from support.server import ServerProcess, running_server, serving
from support.waiting import wait_until

SIEGE_SECONDS = 2.0
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


def is_noticed(server: ServerProcess, kind: str) -> bool:
    """Say whether others wait much longer beside such callers than beside clients who never stop syncing."""
    number, sent = STAYING[kind]
    with ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(connect(server.port, sent))
        beside = waits(server, SIEGE_SECONDS)
    usual = mean_wait(server, ordinary())
    print(f"beside {kind}: {beside}, mean {beside.mean:.4f} s, beside syncs {usual:.4f} s")
    return beside.mean > FEW_TIMES * usual


def check_nobody_notices(server: ServerProcess, kind: str) -> None:
    workers = server.workers()
    # what else the machine does may hit one of the two; a caller who can hold anything holds it each time
    assert not all(is_noticed(server, kind) for _ in range(3))
    assert server.workers() == workers, "the worker ended"
    assert "Traceback" not in server.logs


@pytest.mark.parametrize("kind", STAYING)
def test_callers_that_stay_are_noticed_by_nobody(guarded: ServerProcess, kind: str) -> None:
    check_nobody_notices(guarded, kind)


@pytest.mark.parametrize("kind", ["half a handshake", "nothing", "half a head"])
def test_callers_that_stay_in_a_handshake_are_noticed_by_nobody(encrypted: ServerProcess, kind: str) -> None:
    check_nobody_notices(encrypted, kind)


def test_what_callers_leave_undone_is_cut_off_and_counted(shared_database: Database, tmp_path: Path) -> None:
    """All kinds at once, on servers with and without TLS, because each of them waits for the same 15 s."""
    made = make_certificate(tmp_path)
    secure = {**shared_database.environ, **made.environ}
    kinds = ("half a head", "half a body", "nothing")
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
            assert ends_within(client, 60), f"{kind} is still open"
        wait_until(lambda: cut_off(plain) == len(kinds) + 2, lambda: f"{cut_off(plain)} cut off: {plain.logs}")
        wait_until(lambda: cut_off(encrypted) == 3, lambda: f"{cut_off(encrypted)} cut off: {encrypted.logs}")
        assert ends_within(reading_nothing, 60), "a caller that never read still gets answers"


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


def test_an_open_connection_without_a_request_does_not_delay_the_stop(shared_database: Database) -> None:
    """All of them are closed while a request that has begun is still waited for."""
    with running_server(shared_database) as server, ExitStack() as stack:
        idle = [stack.enter_context(connect(server.port, sent)) for sent in (b"", KEPT) for _ in range(4)]
        for client in idle[4:]:
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        begun = stack.enter_context(connect(server.port, POST))
        assert server.get("/healthz").status_code == 200  # so what came before has been accepted
        stopping = stack.enter_context(ThreadPoolExecutor(1)).submit(server.stop)
        assert [ends_within(client, 60) for client in idle] == [True] * len(idle)
        begun.sendall(b"Content-Length: 0\r\n\r\n")
        assert begun.recv(1000).startswith(b"HTTP/1.1 400 ")
        assert stopping.result(60) == 0


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
        wait_until(lambda: is_ready(server, "after"), lambda: server.logs)
        assert set(server.workers()) >= set(workers), "a worker ended"
        assert len(records(server)) < 100


def is_ready(server: ServerProcess, name: str) -> bool:
    status = server.post("sync", body(name)).json()["status"]
    return bool(status["conditions"][0]["status"] == "True")


def test_descriptors_that_run_out_at_accept_are_one_record_at_most_each(
    shared_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(tmp_path, monkeypatch, "ulimit -n 128")
    with running_server(shared_database) as server:
        [worker] = server.workers()
        used = len(list(Path(f"/proc/{worker}/fd").iterdir()))
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (used + 4, 128))
        with ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(connect(server.port, b""))
            wait_until(lambda: "Too many open files" in server.logs, lambda: server.logs)
            time.sleep(3)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (128, 128))
        wait_until(lambda: server.get("/healthz").status_code == 200, lambda: server.logs)
        found = [record for record in records(server) if record.get("cause") == "Too many open files"]
        assert 0 < len(found) <= 20


def test_connections_that_fail_before_and_in_the_handshake_write_few_records(encrypted: ServerProcess) -> None:
    before = len(records(encrypted))
    for sent in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x02xx"):
        for _ in range(50):
            with connect(encrypted.port, sent) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # and with the answer awaited, so that the server sees what it cannot read
    for _ in range(50):
        with connect(encrypted.port, b"GET / HTTP/1.1\r\n\r\n") as client:
            assert ends_within(client, 60)
    assert encrypted.get("/healthz").status_code == 200
    found = records(encrypted)[before:]
    assert [record for record in found if record.get("cause")], "an operator sees why TLS does not work"
    assert len(found) <= 60


def test_what_is_no_request_and_what_is_refused_cannot_fill_the_log(shared_database: Database, tokens: str) -> None:
    with running_server(shared_database, HOOK_TOKENS_FILE=tokens) as server:
        for _ in range(300):
            answer_and_end(server.port, b"GARBAGE\r\n\r\n")
            server.post("sync", {})
        assert len(records(server)) < 200
        found = scrape(server).total("postgres_writer_hook_requests_total", reason="HTTP401")
        assert found == 300


def test_a_log_that_nobody_reads_stops_no_request(shared_database: Database) -> None:
    server = ServerProcess({**shared_database.environ, "LOG_LEVEL": "DEBUG"})
    read, written = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, read)
        server.start(errors=written)
        os.close(written)
        stack.callback(server.stop)
        for number in range(600):
            assert server.post("sync", body(f"unread-{number % 5}")).status_code == 200
        assert server.get("/healthz").status_code == 200
        os.set_blocking(read, False)
        text = b""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(read, 65536):
                text += part
        assert server.post("sync", body("read again")).status_code == 200
        text += os.read(read, 65536)
    lines = [json.loads(line) for line in text.decode().splitlines()]
    assert any("were lost: the log was full" in line["message"] for line in lines)


def test_a_low_soft_limit_of_descriptors_is_raised(
    shared_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(tmp_path, monkeypatch, "ulimit -Sn 64")
    with running_server(shared_database) as server, ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(connect(server.port, b""))
        assert server.get("/healthz").status_code == 200


def limited(folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """Let servers be started under a limit."""
    from support import server  # noqa: PLC0415

    script = folder / "postgres-writer"
    script.write_text(f'#!/bin/sh\n{limit} && exec {server.PROGRAM} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(server, "PROGRAM", script)
