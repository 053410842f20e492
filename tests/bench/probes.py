"""What a load alone does not show: WAL, round trips, memory, the time to start, and the statement without a server."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg2.extensions

from bench import bodies, load
from bench.cases import OBJECTS, noop
from bench.servers import Bench, counted, hook_server
from postgres_writer.config.settings import Config
from postgres_writer.core.row import COLUMNS
from postgres_writer.database import statements
from support.postgres import Database
from support.server import ServerProcess
from support.waiting import wait_until

_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Raw:
    """The statement in one loop over one connection."""

    name: str
    rate: float
    client_ms: float


def wal_bytes(parts: Bench, requests: int, shape: bodies.Shape = bodies.WRITER) -> tuple[int, int]:
    """Give (no-op syncs answered, bytes of WAL that were written meanwhile), for at least so many."""
    case = noop(parts.hook, 16, template=bodies.sync("noop", synced=True, shape=shape))
    with _without_autovacuum(parts.database):
        # the first statements of a session set hint bits on pages of the catalogue, which is logged once
        pace = load.run(case.load, 2).rate
        before = _wal_position(parts.database)
        answered = 0
        while answered < requests:
            answered += load.run(case.load, max(1, math.ceil((requests - answered) / pace))).requests
        return answered, _wal_position(parts.database) - before


@contextlib.contextmanager
def _without_autovacuum(database: Database) -> Iterator[None]:
    """Keep PostgreSQL from its own chores for the block: they write WAL, too."""
    database.query("ALTER SYSTEM SET autovacuum = off")
    database.query("SELECT pg_reload_conf()")
    running = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'autovacuum%'"
    wait_until(lambda: database.query(running) == [(0,)], "the end of autovacuum")
    try:
        yield
    finally:
        database.query("ALTER SYSTEM RESET autovacuum")
        database.query("SELECT pg_reload_conf()")


def _wal_position(database: Database) -> int:
    return int(database.query("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")[0][0])


def round_trips(database: Database, count: int = 50) -> dict[str, float]:
    """Give the answers that PostgreSQL sent (ReadyForQuery in its protocol) per sync and finalize of a warm thread."""
    proxy = CountingProxy(int(database.connect["port"]))
    through = {**database.environ, "PSQL_PORT": str(proxy.port), "PSQL_SSLMODE": "disable"}
    try:
        with hook_server(through) as server:
            kinds = {
                "write": ("sync", bodies.sync("trip", synced=False)),
                "no-op": ("sync", bodies.sync("trip", synced=True)),
                "finalize": ("finalize", bodies.finalize("trip")),
            }
            for synced in (False, True):
                _post(server, "sync", bodies.sync("warm", synced=synced), 0)
            _post(server, "finalize", bodies.finalize("warm"), 0)
            found = {}
            for kind, (hook, template) in kinds.items():
                before = proxy.answers
                for number in range(count):
                    _post(server, hook, template, number)
                found[kind] = (proxy.answers - before) / count
            return found
    finally:
        proxy.close()


def _post(server: ServerProcess, hook: str, template: str, number: int) -> dict[str, Any]:
    body = template.replace(bodies.NUMBER, f"{number:012d}")
    answer = server.session.post(f"{server.url}/{hook}", data=body, headers={"Content-Type": "application/json"})
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def answer_of(server: ServerProcess, number: int) -> dict[str, Any]:
    """Give the answer to the no-op sync of an object."""
    return _post(server, "sync", bodies.sync("noop", synced=True), number)


class CountingProxy:
    """Stands between a client and PostgreSQL and counts the ends of answers, message by message.

    https://www.postgresql.org/docs/current/protocol-message-formats.html
    """

    def __init__(self, port: int) -> None:
        self.answers = 0
        self._target = port
        self._listener = socket.create_server((_HOST, 0))
        self._sockets = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Close everything, which also ends the threads."""
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((_HOST, self._target))
            self._sockets += [client, server]
            threading.Thread(target=_pump, args=(client, server, None), daemon=True).start()
            threading.Thread(target=_pump, args=(server, client, self._count), daemon=True).start()

    def _count(self, kind: bytes) -> None:
        if kind == b"Z":
            self.answers += 1


def _pump(source: socket.socket, target: socket.socket, seen: Callable[[bytes], None] | None) -> None:
    """Copy until one side ends; ``seen`` gets the type of every message before it is passed on whole."""
    try:
        if seen is None:
            while data := source.recv(65536):
                target.sendall(data)
        else:
            with source.makefile("rb") as stream:
                while head := stream.read(5):
                    body = stream.read(struct.unpack("!I", head[1:])[0] - 4)
                    seen(head[:1])
                    target.sendall(head + body)
    except (OSError, ValueError, struct.error):
        pass
    finally:
        target.close()


def connections(parts: Bench, connections_at_once: int = 64, seconds: int = 4) -> tuple[float, float, int]:
    """Give (connections opened, of these not open any more, limit) of a fresh server while it is under load.

    Asked before the load ends: a caller that hangs up while PostgreSQL works for it costs the connection.
    """
    with hook_server(parts.database.environ) as server:
        case = noop(server, connections_at_once)
        names = ("postgres_writer_database_connections_opened_total", "postgres_writer_database_connections")

        def seen() -> tuple[float, float]:
            opened, standing = (sum(counted(server, name).values()) for name in names)
            return opened, opened - standing

        # a server looks at its database when it has started, and closes that connection
        wait_until(lambda: seen()[1] > 0, "the look at the database")
        before, closed = seen()
        pressing = threading.Thread(target=load.run, args=(case.load, seconds))
        pressing.start()
        time.sleep(seconds * 0.6)
        opened, gone = seen()
        pressing.join()
        return opened - before, gone - closed, Config.connections


def memory(parts: Bench, marks: tuple[int, ...]) -> dict[int, tuple[float, float]]:
    """Give (RSS, PSS) in MB of the largest worker after so many no-op syncs of a fresh server."""
    found = {}
    with hook_server(parts.database.environ) as server:
        case = noop(server, 16)
        answered, pace = 0, 1000.0
        for mark in marks:
            while answered < mark:
                measured = load.run(case.load, max(1, round((mark - answered) / pace)), answered % OBJECTS)
                answered, pace = answered + measured.requests, measured.rate
            largest = max(server.workers(), key=load.memory_mb)
            found[mark] = load.memory_mb(largest), load.memory_mb(largest, "Pss")
    return found


def start_seconds(database: Database, tries: int = 3) -> float:
    """Give the longest time of some tries from the start of `serve` to its first answer."""
    took = []
    for _ in range(tries):
        began = time.monotonic()
        with hook_server(database.environ):
            took.append(time.monotonic() - began)
    return max(took)


def raw(database: Database, seconds: int) -> list[Raw]:
    """Run the message of a sync in one loop with psycopg2, prepared and in autocommit, as fast as it goes."""
    table = bodies.WRITER.relation
    messages = {"noop": statements.matches(table, COLUMNS), "raw": statements.write(table, COLUMNS)}
    with database.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SET plan_cache_mode = force_generic_plan")
        texts = {}
        for prefix, message in messages.items():
            prepared = {part: part.prepared() for part in message.parts if part.often}
            for prepare, _ in prepared.values():
                cursor.execute(prepare)
            parts = (prepared[part][1] if part in prepared else part.direct() for part in message.parts)
            texts[prefix] = "; ".join(parts)
        names = {"noop": "no-op", "raw": "write"}
        return [_loop(cursor, text, seconds, prefix, names[prefix]) for prefix, text in texts.items()]


def _loop(cursor: psycopg2.extensions.cursor, text: str, seconds: int, prefix: str, name: str) -> Raw:
    fresh = prefix != "noop"
    done, cpu, began = 0, time.thread_time(), time.monotonic()
    later = time.time() + 3600
    while time.monotonic() < began + seconds:
        number = f"{done if fresh else done % OBJECTS:012d}"
        row = bodies.WRITER.row_id(prefix).replace(bodies.NUMBER, number)
        doc = json.dumps(bodies.WRITER.values).replace(bodies.NUMBER, number)
        key = {"key": statements.lock_key(row), "word": statements.WORD, "until": later, "by": later}
        cursor.execute(text, {"id": row, "doc": doc, **key})
        found = cursor.fetchone()
        if found is None or found[0] not in ({"inserted"} if fresh else {True}):
            raise RuntimeError(f"the {name} message did something else: {found}")
        done += 1
    return Raw(name, done / (time.monotonic() - began), 1000 * (time.thread_time() - cpu) / done)
