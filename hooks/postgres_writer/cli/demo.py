"""`postgres-writer demo`: the life of one row, on a real server and a real PostgreSQL, step by step.

The demo plays the API server's part: it keeps the object with its status between the calls, raises the
generation with every change of the spec, and checks after every step what the database holds.
"""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import requests

from postgres_writer.audit.connection import connect
from postgres_writer.cli.client import HookClient, as_request, finalizing, ready_condition
from postgres_writer.cli.commands import Command
from postgres_writer.cli.embedded import connection_variables
from postgres_writer.config.settings import DatabaseConfig
from postgres_writer.database.statements import identifier
from postgres_writer.errors import PostgresWriterError

START_SECONDS = 30.0
STOP_SECONDS = 20.0

SAMPLE: dict[str, Any] = {
    "apiVersion": "demo.yash.com/v1",
    "kind": "PostgresWriter",
    "metadata": {
        "name": "sample-student",
        "namespace": "default",
        "uid": "5a1f7d0e-3c0f-4a5e-9a51-0d1e5b5a7c11",
        "generation": 1,
    },
    "spec": {"table": "students", "name": "alex", "age": 23, "country": "canada"},
}
ROW_ID = "default/sample-student"
TABLES = ("students", "alumni")


class StepFailed(PostgresWriterError):
    """What a step promised did not hold; the text says what was seen instead."""


def _run() -> int:
    # https://no-color.org and https://force-color.org
    wanted = bool(os.environ.get("FORCE_COLOR")) or sys.stdout.isatty()
    click.get_current_context().color = wanted and not os.environ.get("NO_COLOR")
    # like Ctrl-C, so that server, database and folder are removed then, too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="pgw-demo-") as folder, served(Path(folder)) as world:
            for number, (title, step) in enumerate(STEPS, start=1):
                # before the step, whose first line then shows that the row is gone
                if step is repair:
                    lose(world)
                play(number, title, step, world)
    except PostgresWriterError as error:
        sys.stderr.write(f"postgres-writer: {error}\n")
        return 1
    click.secho(f"All {len(STEPS)} steps succeeded.", fg="green")
    return 0


class DemoDatabase:
    """The demo's own connection to the embedded PostgreSQL of a folder: it reads the rows itself."""

    def __init__(self, data_folder: Path) -> None:
        self._connection = connect(DatabaseConfig.from_env(connection_variables(data_folder)))
        self._connection.autocommit = True

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def create_table(self, table: str) -> None:
        """Create a table shaped like students."""
        self._run("CREATE TABLE {} (id text PRIMARY KEY, name text, age int, country text)", table)

    def rows(self, table: str, row_id: str) -> list[str]:
        """Return the rows of a resource in words; at most one, if the server keeps its promise."""
        found = self._run("SELECT name, age, country FROM {} WHERE id = %s", table, row_id)
        return [f"({name}, {age}, {country})" for name, age, country in found]

    def version(self, table: str, row_id: str) -> str:
        """Return what PostgreSQL changes with every write of a row: the writing transaction and the place."""
        [(xmin, ctid)] = self._run("SELECT xmin, ctid FROM {} WHERE id = %s", table, row_id)
        return f"{xmin} {ctid}"

    def delete(self, table: str, row_id: str) -> None:
        """Delete a row behind the server's back."""
        self._run("DELETE FROM {} WHERE id = %s", table, row_id)

    def exists(self, table: str) -> bool:
        """Say whether a table exists."""
        return self._run("SELECT to_regclass(%s)", table, table) != [(None,)]

    def _run(self, text: str, table: str, *parameters: str) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(text.format(identifier(table).as_string(cursor)), parameters or None)
            return cursor.fetchall() if cursor.description else []


@dataclass
class World:
    """The server, its database, and the object as the API server would hold it."""

    client: HookClient
    database: DemoDatabase
    resource: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(SAMPLE))
    finalized: bool | None = None

    def edit(self, **spec: Any) -> None:
        """Change the spec, as `kubectl apply` would."""
        self.resource["spec"] = {**self.resource["spec"], **spec}
        self.resource["metadata"]["generation"] += 1

    def call(self, hook: str) -> None:
        """Call a hook as Metacontroller would, and write back the status it answers."""
        request = as_request(self.resource)
        answer = self.client.call(hook, finalizing(request) if hook == "finalize" else request)
        expect("status" in answer.body, f"the hook answered {': '.join(answer.condition[1:])}")
        self.resource["status"] = answer.body["status"]
        self.finalized = answer.body["finalized"]

    def rows(self) -> str:
        """Return the resource's row in each table, in words."""
        found = [f"{table}: {row}" for table in TABLES for row in self.database.rows(table, ROW_ID)]
        return "; ".join(found) or "no row"

    def condition(self) -> tuple[str, str, str]:
        """Return (status, reason, message) of the condition Ready."""
        return ready_condition(self.resource.get("status") or {})

    def condition_text(self) -> str:
        """Return the condition in words."""
        if self.finalized:
            return "finalized: true, so the resource is gone"
        status, reason, message = self.condition()
        return f"Ready={status} {reason}: {message}" if status else "no condition yet"


def expect(held: bool, otherwise: str) -> None:
    """Raise StepFailed unless it held."""
    if not held:
        raise StepFailed(f"The step failed: {otherwise}.")


def expect_state(world: World, rows: str, reason: str) -> None:
    """Raise StepFailed unless the tables hold exactly these rows and the condition has this reason."""
    expect(world.rows() == rows, f"the tables hold {world.rows()!r}, not {rows!r}")
    expect(world.condition()[1] == reason, f"the condition is {world.condition_text()!r}, not {reason}")


def create(world: World) -> str:
    """Apply the sample for the first time."""
    world.call("sync")
    expect_state(world, "students: (alex, 23, canada)", "RowSynced")
    return "The row was inserted."


def repeat(world: World) -> str:
    """Sync again with nothing changed: neither the row's version nor the status may move."""
    before, status = world.database.version("students", ROW_ID), copy.deepcopy(world.resource["status"])
    world.call("sync")
    after = world.database.version("students", ROW_ID)
    expect(before == after, f"the row was written: its version went from {before} to {after}")
    expect(world.resource["status"] == status, "the status changed")
    return f"Nothing was written: the row's version (xmin, ctid) is still {after}, and the status is the same."


def update(world: World) -> str:
    """Change the age."""
    world.edit(age=24)
    world.call("sync")
    expect_state(world, "students: (alex, 24, canada)", "RowSynced")
    return "The row follows the spec."


def lose(world: World) -> None:
    """Delete the row directly in PostgreSQL."""
    world.database.delete("students", ROW_ID)


def repair(world: World) -> str:
    """Sync after the row went missing."""
    expect(world.rows() == "no row", "the row is still there after a DELETE")
    world.call("sync")
    expect_state(world, "students: (alex, 24, canada)", "RowSynced")
    return "The next sync restored the missing row."


def move(world: World) -> str:
    """Move the row to another table."""
    world.edit(table="alumni")
    world.call("sync")
    expect_state(world, "alumni: (alex, 24, canada)", "RowSynced")
    return "One transaction deleted the row from the old table and inserted it into the new one."


def miss(world: World) -> str:
    """Name a table that does not exist."""
    world.edit(table="graduates")
    world.call("sync")
    expect_state(world, "alumni: (alex, 24, canada)", "TableNotFound")
    expect("graduates" in world.condition()[2], "the message does not name the table")
    return "The old row is untouched, and the condition says what to do."


def inject(world: World) -> str:
    """Name a table that tries to be SQL."""
    world.edit(table='students"; DROP TABLE students; --')
    world.call("sync")
    # first, because the rows of a table that is gone cannot be read
    expect(world.database.exists("students"), "the table students is gone")
    expect_state(world, "alumni: (alex, 24, canada)", "InvalidSpec")
    return "No SQL was injected. The CRD already refuses such a name, but the server does not rely on that."


def delete(world: World) -> str:
    """Delete the resource."""
    world.call("finalize")
    expect(world.finalized is True, f"finalized is {world.finalized}: {world.condition_text()}")
    expect(world.rows() == "no row", f"the tables hold {world.rows()!r}")
    return "The row was deleted first, then the finalizer was removed, and the resource was gone."


def delete_again(world: World) -> str:
    """Delete it again, as Metacontroller may."""
    delete(world)
    return "Finalizing twice does no harm; the answer is still finalized: true."


Step = Callable[[World], str]
STEPS: tuple[tuple[str, Step], ...] = (
    ("Apply sample-student (alex, 23, canada)", create),
    ("Apply it again, unchanged", repeat),
    ("Change the age to 24", update),
    ("DELETE the row directly in PostgreSQL", repair),
    ("Move it to the table alumni", move),
    ("Set spec.table to a table that does not exist", miss),
    ('Set spec.table to students"; DROP TABLE students; --', inject),
    ("Delete the resource", delete),
    ("Finalize once more", delete_again),
)


def play(number: int, title: str, step: Step, world: World) -> None:
    """Play a step and print the row and the condition before and after."""
    click.secho(f"{number}. {title}", bold=True)
    _print_state("before", world)
    said = step(world)
    _print_state("after", world)
    click.echo(f"   {click.style('ok', fg='green')} {said}\n")


def _print_state(when: str, world: World) -> None:
    click.echo(f"   {when:<6}  {world.rows()}\n           {click.style(world.condition_text(), dim=True)}")


@contextlib.contextmanager
def served(folder: Path) -> Iterator[World]:
    """Run `postgres-writer serve --embedded` as a process of its own, and stop it at the end.

    Says that it starts, because a first start takes some seconds.

    Raises StepFailed when it does not come up.
    """
    port = _free_port()
    # what the shell sets for another server or database must not reach the demo's
    foreign = ("PSQL_", "HOOK_", "PG", "LOG_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environ |= {"HOOK_PORT": str(port), "LOG_FORMAT": "text", "TMPDIR": str(folder)}
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 # nothing in the command comes from outside
            [sys.executable, "-m", "postgres_writer", "serve", "--embedded", "--data-dir", str(folder / "data")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            start_new_session=True,  # Ctrl-C reaches the demo only, which then stops the server in order
        )
    url = f"http://127.0.0.1:{port}"
    try:
        click.echo("Starting a temporary hook server and PostgreSQL ...")
        _wait_until_ready(url, process, log)
        database = DemoDatabase(folder / "data")
        with contextlib.closing(database):
            database.create_table("alumni")
            client = HookClient(url)
            click.echo(f"Using a temporary hook server at {url} and a temporary PostgreSQL.\n")
            yield World(client, database)
            client.close()
    finally:
        _stop(process)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/readyz", timeout=1).ok:
                return
        time.sleep(0.05)
    said = log.read_text(encoding="utf-8", errors="replace").strip()
    raise StepFailed(f"The server did not start. Its output:\n{said}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    # an impatient second Ctrl-C must not leave the server and its database behind
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        # another process may take the port meanwhile: the server then says so, and the demo shows it
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


demo = Command(
    "demo",
    callback=_run,
    help="Start a hook server with an embedded PostgreSQL and walk through the life cycle of one row. It needs no "
    "cluster; everything is removed at the end.",
    epilog="example:\n  postgres-writer demo\n\nexit codes: 0 all steps succeeded, 1 a step failed, 130 interrupted",
)
