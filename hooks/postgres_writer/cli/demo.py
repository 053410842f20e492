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
from functools import partial
from pathlib import Path
from typing import Any

import click

from postgres_writer.cli.client import HookClient, as_request, finalizing
from postgres_writer.cli.commands import Command, NotDone
from postgres_writer.cli.embedded import connection_variables, package
from postgres_writer.config.settings import ignore_libpq_variables

SAMPLE: dict[str, Any] = {
    "apiVersion": "demo.yash.com/v1",
    "kind": "PostgresWriter",
    "metadata": {"name": "sample-student", "uid": "5a1f7d0e-3c0f-4a5e-9a51-0d1e5b5a7c11", "generation": 1},
    "spec": {"table": "students", "name": "alex", "age": 23, "country": "canada"},
}
_COLUMNS = {"plan": "gold", "seats": 250, "regions": ["eu", "us"], "limits": {"cpu": 4}, "trial_ends": None}
TENANT: dict[str, Any] = {
    "apiVersion": "demo.yash.com/v1alpha1",
    "kind": "PostgresRow",
    "metadata": {"name": "acme", "uid": "c0f3a0b6-7d35-4a0c-8f8e-6c1f3a5d9b42", "generation": 1},
    "spec": {"table": "tenants", "columns": [{"name": name, "value": value} for name, value in _COLUMNS.items()]},
}
MOVED = "alumni: (default/sample-student, alex, 24, canada)"
_ROWS = ("SELECT 'students', * FROM students", "SELECT 'alumni', * FROM alumni", "SELECT 'tenants', * FROM tenants")
_TABLES = """
    CREATE TABLE alumni (LIKE students INCLUDING ALL);
    CREATE TABLE tenants
        (id text PRIMARY KEY, plan text, seats int DEFAULT 5, regions text[], limits jsonb, trial_ends date)
"""


@click.command(
    cls=Command,
    epilog="example:\n  postgres-writer demo\n\n"
    "exit codes: 0 all steps succeeded, 1 a step failed, 2 wrong arguments, 130 interrupted",
)
def demo() -> int:
    """Start a hook server with an embedded PostgreSQL and walk through the life cycle of one row.

    It needs no cluster; everything is removed at the end.
    """
    # https://no-color.org and https://force-color.org
    wanted = bool(os.environ.get("FORCE_COLOR")) or sys.stdout.isatty()
    click.get_current_context().color = wanted and not os.environ.get("NO_COLOR")
    # like Ctrl-C, so that server, database and folder are removed then, too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ignore_libpq_variables(os.environ)
    with tempfile.TemporaryDirectory(prefix="pgw-demo-") as folder, served(Path(folder)) as world:
        for number, step in enumerate(STEPS, start=1):
            # before the step, whose first line then shows that the row is gone
            if step is repair:
                world.psql("DELETE FROM students")
            click.secho(f"{number}. {(step.__doc__ or '').removesuffix('.')}", bold=True)
            _print_state("before", world)
            said = step(world)
            _print_state("after", world)
            click.echo(f"   {click.style('ok', fg='green')} {said}\n")
    click.secho(f"All {len(STEPS)} steps succeeded.", fg="green")
    return 0


@dataclass
class World:
    """The server, its database as psql shows it, and the object as the API server would hold it."""

    client: HookClient
    psql: Callable[..., str]
    resource: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(SAMPLE))
    condition: tuple[str, str, str] = ("", "", "")
    finalized: bool | None = None

    def call(self, hook: str) -> None:
        """Call a hook as Metacontroller would, and write back the status it answers."""
        request = as_request(self.resource)
        answer = self.client.call(hook, finalizing(request) if hook == "finalize" else request)
        expect("status" in answer.body, f"the hook answered {': '.join(answer.condition[1:])}")
        self.resource["status"] = answer.body["status"]
        self.condition, self.finalized = answer.condition, answer.body["finalized"]

    def rows(self) -> str:
        """Return the rows of each table."""
        found = (line.partition(", ") for line in self.psql(*_ROWS).splitlines())
        return "; ".join(f"{table}: ({row})" for table, _, row in found) or "no row"

    def version(self) -> str:
        """Return what PostgreSQL changes with every write of the row: the writing transaction and the place."""
        return self.psql("SELECT xmin, ctid FROM students").strip()

    def condition_text(self) -> str:
        """Return the condition in words."""
        if self.finalized:
            return "finalized: true, so the resource is gone"
        status, reason, message = self.condition
        return f"Ready={status} {reason}: {message}" if status else "no condition yet"


def expect(held: bool, otherwise: str) -> None:
    """Raise NotDone unless it held."""
    if not held:
        raise NotDone(f"The step failed: {otherwise}.")


def sync(world: World, rows: str, reason: str = "RowSynced", **spec: Any) -> None:
    """Sync, with a changed spec if any is given, as `kubectl apply` would have it.

    Raises NotDone unless the tables hold exactly these rows then and the condition has this reason.
    """
    world.resource["spec"] |= spec
    world.resource["metadata"]["generation"] += bool(spec)
    world.call("sync")
    expect(world.rows() == rows, f"the tables hold {world.rows()!r}, not {rows!r}")
    expect(world.condition[1] == reason, f"the condition is {world.condition_text()!r}, not {reason}")


def create(world: World) -> str:
    """Apply sample-student (alex, 23, canada)."""
    sync(world, "students: (default/sample-student, alex, 23, canada)")
    return "The row was inserted."


def repeat(world: World) -> str:
    """Apply it again, unchanged."""
    before, status = world.version(), copy.deepcopy(world.resource["status"])
    sync(world, "students: (default/sample-student, alex, 23, canada)")
    after = world.version()
    expect(before == after, f"the row was written: its version went from {before} to {after}")
    expect(world.resource["status"] == status, "the status changed")
    return f"Nothing was written: the row's version (xmin, ctid) is still {after}, and the status is the same."


def update(world: World) -> str:
    """Change the age to 24."""
    sync(world, "students: (default/sample-student, alex, 24, canada)", age=24)
    return "The row follows the spec."


def repair(world: World) -> str:
    """DELETE the row directly in PostgreSQL."""
    expect(world.rows() == "no row", "the row is still there after a DELETE")
    sync(world, "students: (default/sample-student, alex, 24, canada)")
    return "The next sync restored the missing row."


def move(world: World) -> str:
    """Move it to the table alumni."""
    sync(world, MOVED, table="alumni")
    return "One transaction deleted the row from the old table and inserted it into the new one."


def miss(world: World) -> str:
    """Set spec.table to a table that does not exist."""
    sync(world, MOVED, "TableNotFound", table="graduates")
    expect("graduates" in world.condition[2], "the message does not name the table")
    return "The old row is untouched, and the condition says what to do."


def inject(world: World) -> str:
    """Set spec.table to students"; DROP TABLE students; --."""
    sync(world, MOVED, "InvalidSpec", table='students"; DROP TABLE students; --')
    return "No SQL was injected. The CRD already refuses such a name, but the server does not rely on that."


def delete(world: World) -> str:
    """Delete the resource, and finalize it twice."""
    for _ in range(2):
        world.call("finalize")
        expect(world.finalized is True, f"finalized is {world.finalized}: {world.condition_text()}")
        expect(world.rows() == "no row", f"the tables hold {world.rows()!r}")
    return "The row was deleted first, then the finalizer was removed. To finalize twice does no harm."


def declare(world: World) -> str:
    """Apply a PostgresRow, acme: any columns of any table."""
    world.resource, world.finalized = copy.deepcopy(TENANT), None
    sync(world, 'tenants: (row/default/acme, gold, 250, {eu,us}, {"cpu": 4}, NULL)')
    return "Each value became one of its column's type: an array, jsonb, and a NULL where there is no value."


def release(world: World) -> str:
    """Remove the column seats from acme."""
    columns = [column for column in TENANT["spec"]["columns"] if column["name"] != "seats"]
    sync(world, 'tenants: (row/default/acme, gold, 5, {eu,us}, {"cpu": 4}, NULL)', columns=columns)
    return "A column that the resource no longer names has its DEFAULT again."


STEPS = (create, repeat, update, repair, move, miss, inject, delete, declare, release)
"""What is played; a step's docstring is its title, and what it returns says what happened."""


def _print_state(when: str, world: World) -> None:
    click.echo(f"   {when:<6}  {world.rows()}\n           {click.style(world.condition_text(), dim=True)}")


def psql(data_folder: Path, *statements: str) -> str:
    """Return what psql prints for statements on the PostgreSQL running in the folder: cells, without a header.

    Raises NotDone when it fails.
    """
    reached = {name.removeprefix("PSQL_").lower(): value for name, value in connection_variables(data_folder).items()}
    programs = package()
    program = programs.POSTGRES_VERSIONS[programs.TARGET_POSTGRES_VERSION] / "psql"
    command = [str(program), "-d", " ".join(f"{name}={value}" for name, value in reached.items())]
    form = ["-XqAt", "-F", ", ", "-P", "null=NULL", "-v", "ON_ERROR_STOP=1"]
    form += [part for statement in statements for part in ("-c", statement)]
    done = subprocess.run([*command, *form], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise NotDone(done.stderr.strip())
    return done.stdout


@contextlib.contextmanager
def served(folder: Path) -> Iterator[World]:
    """Run `postgres-writer serve --embedded` as a process, until the end. Raises NotDone when it does not come up."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        # another process may take the port meanwhile: the server then says so, and the demo shows it
        port: int = probe.getsockname()[1]
    foreign = ("PSQL_", "HOOK_", "PG", "LOG_")  # what the shell sets is for another server or database
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environ |= {"HOOK_PORT": str(port), "LOG_FORMAT": "text", "TMPDIR": str(folder)}
    log = folder / "server.log"
    command = [sys.executable, "-m", "postgres_writer", "serve", "--embedded", "--data-dir", str(folder / "data")]
    with log.open("wb") as out:
        # in a session of its own: Ctrl-C reaches the demo only, which then stops the server in order
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
        process = subprocess.Popen(command, env=environ, start_new_session=True, **streams)  # noqa: S603
    url = f"http://127.0.0.1:{port}"
    try:
        # a first start takes some seconds
        click.echo("Starting a temporary hook server and PostgreSQL ...")
        with contextlib.closing(HookClient(url)) as client:
            _wait_until_ready(client, process, log)
            world = World(client, partial(psql, folder / "data"))
            world.psql(_TABLES)
            click.echo(f"Using a temporary hook server at {url} and a temporary PostgreSQL.\n")
            yield world
    finally:
        _stop(process)


def _wait_until_ready(client: HookClient, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        if client.is_ready():
            return
        time.sleep(0.05)
    said = log.read_text(encoding="utf-8", errors="replace").strip()
    raise NotDone(f"The server did not start. Its output:\n{said}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    # an impatient second Ctrl-C must not leave the server and its database behind
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
