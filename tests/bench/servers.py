"""What is measured: PostgreSQL, the hook server in its shipped configuration and in others, the bare endpoint."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import bare, bodies
from support.postgres import Database, PostgresInstance, private_instance
from support.server import ServerProcess, serving


class BareServer(ServerProcess):
    """The bare endpoint as a server process; it takes the certificate from the variables of the hook server."""

    def command(self) -> list[str]:
        """Return the command that serves the endpoint."""
        files = (Path(self.environ[name]) for name in ("HOOK_TLS_CERT_FILE", "HOOK_TLS_KEY_FILE"))
        return bare.command(self.port, *(files if self.scheme == "https" else ()))

    def variables(self) -> dict[str, str]:
        """Let it be found."""
        return {"PYTHONPATH": str(Path(__file__).parents[1])}


@dataclass(frozen=True)
class Bench:
    """The parts of a run."""

    postgres: PostgresInstance
    database: Database
    hook: ServerProcess
    bare: ServerProcess
    folder: Path


@contextlib.contextmanager
def bench(objects: int, **environ: str) -> Iterator[Bench]:
    """Start PostgreSQL with the rows of so many synced objects, the hook server and the bare endpoint."""
    # over TCP with a password, as PostgreSQL is reached in a cluster; with fsync, because users have it
    with (
        private_instance(password="bench", settings={"fsync": "on", "shared_buffers": "256MB"}) as postgres,
        tempfile.TemporaryDirectory(prefix="pgw-bench-") as folder,
    ):
        database = postgres.maintenance.create_sibling()
        wide = ", ".join(
            f"{name} {'int' if isinstance(it, int) else 'text'}" for name, it in bodies.WIDE.values.items()
        )
        database.query(f"CREATE TABLE wide (id text PRIMARY KEY, {wide})")
        for shape in bodies.SHAPES:
            fill(database, "noop", range(objects), shape)
        database.query("VACUUM (ANALYZE, FREEZE) students, wide")
        database.query("CHECKPOINT")
        with hook_server(database.environ, **environ) as hook, serving(BareServer(environ)) as yardstick:
            yield Bench(postgres, database, hook, yardstick, Path(folder))


def hook_server(database: Mapping[str, str], **environ: str) -> contextlib.AbstractContextManager[ServerProcess]:
    """Run the hook server as shipped, with more variables."""
    return serving(ServerProcess({**database, **environ}))


def fill(database: Database, prefix: str, numbers: range, shape: bodies.Shape = bodies.WRITER) -> None:
    """Insert the rows of the objects prefix-NUMBER."""
    row = json.dumps({"id": shape.row_id(prefix), **shape.values})
    database.query(
        f"INSERT INTO {shape.table} SELECT r.* FROM generate_series(%s, %s, %s) n, "
        f"json_populate_record(NULL::{shape.table}, replace(%s, %s, lpad(n::text, 12, '0'))::json) r "
        "ON CONFLICT DO NOTHING",
        numbers.start,
        numbers.stop - 1,
        numbers.step,
        row,
        bodies.NUMBER,
    )


def counted(server: ServerProcess, metric: str) -> dict[str, float]:
    """Give the values of one metric of a server by the text of its labels."""
    text = server.get("/metrics").text
    found = re.findall(rf"^{metric}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}
