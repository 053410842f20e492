"""What goes wrong in production, done to a running stack; each function returns when the fault is over.

Every fault restores what it broke, so that the world must converge afterwards without anybody's help.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

from support.stack import Stack
from support.stall import crash, stalled_commits
from support.waiting import wait_until

STOPPED_SECONDS = 20.0
_HOOK_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'hook'"
_WAITING = "SELECT client_port FROM pg_stat_activity WHERE usename = 'hook' AND wait_event_type = 'Lock'"


def kill_postgres(stack: Stack) -> None:
    """Kill PostgreSQL and start it again after 5 s."""
    stack.postgres.kill()
    time.sleep(5)
    stack.postgres.start()


def hang_postgres(stack: Stack) -> None:
    """Stop PostgreSQL for 12 s: connections are accepted, nothing is answered."""
    stack.postgres.freeze()
    try:
        time.sleep(12)
    finally:
        stack.postgres.thaw()


def kill_workers(stack: Stack) -> None:
    """Kill a gunicorn worker in the midst of a request, five times."""
    for _ in range(5):
        with requests_held(stack, "students"):
            os.kill(busy_worker(stack), signal.SIGKILL)
        time.sleep(1)


def stop_worker(stack: Stack) -> None:
    """Stop a gunicorn worker in the midst of a request for 20 s, while its resources move on."""
    with requests_held(stack, "students"):
        worker = busy_worker(stack)
        os.kill(worker, signal.SIGSTOP)
    try:
        time.sleep(STOPPED_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)


def stop_hooks(stack: Stack) -> None:
    """End every hook server and start them again after 20 s."""
    for server in stack.hooks:
        server.stop()
    time.sleep(20)
    for server in stack.hooks:
        server.start()


def roll_hooks(stack: Stack) -> None:
    """Take one hook server after the other out of service, end it and start a new one, as a rollout does."""
    ports = [server.port for server in stack.hooks]
    for server in stack.hooks:
        stack.balancer.backends = [port for port in ports if port != server.port] or ports
        time.sleep(1)
        server.stop()
        server.start()
        stack.balancer.backends = list(ports)
        time.sleep(1)


def kill_metacontroller(stack: Stack) -> None:
    """Kill Metacontroller in the midst of its calls and start it again after 2 s."""
    with requests_held(stack, "students"):
        stack.metacontroller.kill()
    time.sleep(2)
    stack.metacontroller.start()


def restart_apiserver(stack: Stack) -> None:
    """Kill the API server and start it again, then restart it in order."""
    stack.api.kill()
    time.sleep(2)
    stack.api.start()
    time.sleep(2)
    stack.api.restart()


def rotate_password(stack: Stack) -> None:
    """Change the role's password and end its sessions; the file with the new one follows 3 s later."""
    password = secrets.token_hex(8)
    stack.database.query("ALTER ROLE hook PASSWORD %s", password)
    stack.database.query(_HOOK_SESSIONS)
    time.sleep(3)
    stack.password_file.write_text(password)


def remake_table(stack: Stack) -> None:
    """Drop a table with all its rows and make it again, empty, after 5 s."""
    stack.drop_table("teachers")
    time.sleep(5)
    stack.make_table("teachers")


def spoil_rows(stack: Stack) -> None:
    """Edit half of the rows and delete half of them, behind the back of the hooks."""
    for table in stack.world.rows():
        identifier = sql.Identifier(*table.split("."))
        spoil = sql.SQL("UPDATE {} SET age = 0 * age, country = NULL WHERE random() < 0.5").format(identifier)
        stack.database.query(spoil)
        stack.database.query(sql.SQL("DELETE FROM {} WHERE random() < 0.5").format(identifier))


def exhaust_connections(stack: Stack) -> None:
    """Cut the hooks' connections and hold every one that the database allows for 10 s, as another client."""
    stack.database.query("DROP ROLE IF EXISTS greedy")
    stack.database.query("CREATE ROLE greedy LOGIN PASSWORD 'greedy'")
    dsn = psycopg2.extensions.make_dsn(**{**stack.database.connect, "user": "greedy", "password": "greedy"})
    held: list[psycopg2.extensions.connection] = []
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            stack.database.query(_HOOK_SESSIONS)
            with contextlib.suppress(psycopg2.OperationalError):
                while True:
                    held.append(psycopg2.connect(dsn))
            time.sleep(0.2)
    finally:
        for connection in held:
            connection.close()


def lock_table(stack: Stack) -> None:
    """Hold a lock on a table for 12 s, as another client."""
    with _locked(stack, "students"):
        time.sleep(12)


def stall_commits(stack: Stack) -> None:
    """Let every commit hang for 12 s, as a synchronous standby that is away does; then they land all at once."""
    with stalled_commits(stack.postgres):
        time.sleep(12)


def crash_amid_stalled_commits(stack: Stack) -> None:
    """Let every commit hang for 12 s, then crash PostgreSQL: the recovery commits them, and no lock is left."""
    with stalled_commits(stack.postgres):
        time.sleep(12)
        crash(stack.postgres)


FAULTS: dict[str, Callable[[Stack], None]] = {
    "PostgreSQL killed, back after 5 s": kill_postgres,
    "PostgreSQL hanging for 12 s": hang_postgres,
    "table locked for 12 s": lock_table,
    "commits hanging for 12 s": stall_commits,
    "commits hanging for 12 s, then a crash": crash_amid_stalled_commits,
    "5 workers killed in mid-request": kill_workers,
    "worker stopped 20 s in mid-request": stop_worker,
    "hook servers down for 20 s": stop_hooks,
    "rolling restart of 2 hook servers": roll_hooks,
    "Metacontroller killed in mid-request": kill_metacontroller,
    "API server killed, then restarted": restart_apiserver,
    "password rotated, file 3 s late": rotate_password,
    "table dropped and made again": remake_table,
    "rows edited and deleted by others": spoil_rows,
    "connections exhausted for 10 s": exhaust_connections,
}


@contextlib.contextmanager
def requests_held(stack: Stack, table: str) -> Iterator[None]:
    """Hold hook calls in their midst: they wait for a lock until the with-block ends."""
    with _locked(stack, table):
        with contextlib.suppress(AssertionError):  # without load there is nothing to hold
            wait_until(lambda: len(waiting_ports(stack)) >= 2, "two requests wait", timeout=5)
        yield


@contextlib.contextmanager
def _locked(stack: Stack, table: str) -> Iterator[None]:
    with stack.database.connection() as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        statement = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE")
        cursor.execute(statement.format(sql.Identifier(*table.split("."))))
        yield
        cursor.execute("ROLLBACK")


def waiting_ports(stack: Stack) -> set[int]:
    """Return the client's port of every session of the hooks that waits for a lock."""
    return {port for (port,) in stack.database.query(_WAITING)}


def busy_worker(stack: Stack) -> int:
    """Return a worker that has a request in its midst: one of its sessions waits for a lock; any when none does."""
    workers = [worker for server in stack.hooks for worker in server.workers()]
    ports = waiting_ports(stack)
    busy = [worker for worker in workers if ports & _local_ports(worker)]
    return random.choice(busy or workers)


def _local_ports(pid: int) -> set[int]:
    """Return the local TCP ports of a process, from Linux's /proc (proc_pid_net(5))."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    entries = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(entry[1].rpartition(":")[2], 16) for entry in entries if entry[9] in inodes}
