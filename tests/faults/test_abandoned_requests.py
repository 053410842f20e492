"""Requests given up at any stage leave nothing behind: no late write, no connection of a wrong state, none lost."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from support.callers import ask, body
from support.postgres import Database
from support.server import running_server
from support.waiting import wait_until

CALLERS, ROUNDS, CONNECTIONS = 16, 30, 6
AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER with which closing resets the connection."""


def give_up(port: int, request: bytes, how: str, after: float) -> None:
    """Send a request, or a part of it, and leave."""
    head = f"POST /sync HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(request)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall((head.encode() + request)[: -10 if how == "cut off" else None])
        time.sleep(after)
        if how == "half-closed":
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                connection.recv(1)
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)


@contextlib.contextmanager
def locks_now_and_then(database: Database) -> Iterator[None]:
    """Keep statements waiting for a moment again and again, so that callers leave amid them."""
    over = threading.Event()

    def lock() -> None:
        while not over.wait(0.1):
            with database.connection() as connection, connection.cursor() as cursor:
                cursor.execute("BEGIN; LOCK TABLE students; SELECT pg_sleep(0.2); COMMIT")

    with ThreadPoolExecutor(1) as pool:
        locking = pool.submit(lock)
        try:
            yield
        finally:
            over.set()
        locking.result()


def insist(port: int, name: str, age: int) -> None:
    """Sync until the row is written, and check that each answer is about it."""

    def is_written() -> bool:
        answer = ask(port, body(name, age), patience=60)
        assert answer.body["status"]["id"] == f"default/{name}"
        # an abandoned one may be about to end: the id's lock holds its successor back
        assert answer.ready in ("True RowSynced", "False DatabaseBusy", "False RequestExpired")
        return answer.ready == "True RowSynced"

    wait_until(is_written, f"{name} is written")


def call(database: Database, port: int, number: int) -> None:
    """Call for one id, some requests given up; checks each answer and the row."""
    chance = random.Random(number)
    name = f"r{number}"
    sent: set[int] = set()
    for age in range(number * ROUNDS, (number + 1) * ROUNDS):
        sent.add(age)
        if chance.random() < 0.5:
            how = chance.choice(["closed", "half-closed", "reset", "cut off"])
            give_up(port, json.dumps(body(name, age)).encode(), how, chance.choice([0, 0.002, 0.02, 0.15]))
            continue
        insist(port, name, age)
        ((found,),) = database.query("SELECT age FROM students WHERE id = %s", f"default/{name}")
        # requests are not ordered: one given up as its message left may be the last that writes, until its write-by
        assert found in sent, "another's"


def test_what_callers_give_up_leaves_nothing_behind(database: Database) -> None:
    with running_server(database, HOOK_CONNECTIONS=str(CONNECTIONS)) as server:
        with locks_now_and_then(database), ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(lambda number: call(database, server.port, number), range(CALLERS)))
        mine = "FROM pg_stat_activity WHERE application_name = 'postgres-writer' AND datname = current_database()"
        wait_until(
            lambda: database.query(f"SELECT count(*) {mine} AND state <> 'idle'") == [(0,)], "no statement is running"
        )
        assert database.query(f"SELECT count(*) {mine}")[0][0] <= CONNECTIONS
        for number in range(CALLERS):
            insist(server.port, f"r{number}", 1000 + number)
        expected = {f"default/r{number}": 1000 + number for number in range(CALLERS)}
        assert {row[0]: row[2] for row in database.rows()} == expected
        # none was lost to the pool: all but the last, which is for other tables, can be lent at the same time
        database.query(
            "CREATE FUNCTION doze() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(2); RETURN NEW; END $$;"
            "CREATE TRIGGER doze BEFORE INSERT ON students FOR EACH ROW EXECUTE FUNCTION doze()"
        )
        with ThreadPoolExecutor(CALLERS) as pool:
            waiting = [pool.submit(ask, server.port, body(f"w{number}")) for number in range(CALLERS)]
            in_use = f"SELECT count(*) {mine} AND wait_event = 'PgSleep'"
            wait_until(lambda: database.query(in_use)[0][0] == CONNECTIONS - 1, "the worker's connections are in use")
            answers = {each.result().ready for each in waiting}
            assert answers <= {"True RowSynced", "False DatabaseBusy", "False RequestExpired"}
        assert "Traceback" not in server.logs
