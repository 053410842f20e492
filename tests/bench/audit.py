"""What an audit of many resources and rows costs: the real command and PostgreSQL, and an API server that is played.

Run by `make bench NAME=audit` (N=20000 by default; N=1000000 takes a few minutes). ROWS=10000: so many of the N are
PostgresRows, in a table of their own. The played server answers pages as kube-apiserver does, of objects as large as
real ones, so that the figures are the audit's and not etcd's. It prints the figures as one JSON object: seconds in all
and until the last page was read, megabytes of the audit's process, and the CPU seconds of each of the three.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from bench.load import cpu_seconds
from postgres_writer.core.row import GROUP, POSTGRES_ROW, POSTGRES_WRITER, Kind
from support.certificates import make_certificate
from support.postgres import Database, private_instance, scrubbed_environment
from support.server import PROGRAM

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

N = int(os.environ.get("N") or 20_000)
ROWS = int(os.environ.get("ROWS") or 0)
NAMESPACES = 10


@dataclass(frozen=True)
class Part:
    """The resources of one kind: how many, what all of them declare, and the columns and values of their table."""

    kind: Kind
    number: int
    spec: dict[str, Any]
    columns: str
    values: str

    @property
    def table(self) -> str:
        """The name of the table."""
        table: str = self.spec["table"]
        return table

    @property
    def per_namespace(self) -> int:
        """How many of them are in one namespace."""
        return max(1, -(-self.number // NAMESPACES))


PARTS = (
    Part(
        POSTGRES_WRITER,
        N - ROWS,
        {"age": 23, "country": "canada", "deletionPolicy": "Delete", "name": "alex", "table": "students"},
        "name text, age int, country text",
        "'alex', 23, 'canada'",
    ),
    Part(
        POSTGRES_ROW,
        ROWS,
        {
            "columns": [
                {"name": "plan", "value": "gold"},
                {"name": "seats", "value": 250},
                {"name": "limits", "value": {"cpu": 4}},
                {"name": "trial_ends", "value": None},
            ],
            "deletionPolicy": "Delete",
            "idColumn": "id",
            "table": "tenants",
        },
        "plan text, seats int, limits jsonb, trial_ends timestamptz",
        """'gold', 250, '{"cpu": 4}', NULL""",
    ),
)


def main() -> int:
    """Measure and print; 0 when the audit found nothing, as it must."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as name, private_instance() as instance:
        folder = Path(name)
        made = make_certificate(folder, "ca", "localhost")
        assert made.key == folder / "ca.key"
        (folder / "token").write_text("played")
        server = context.Process(target=serve, args=(folder, theirs), daemon=True)
        server.start()
        try:
            port: int = ours.recv()
            database = instance.maintenance
            for part in PARTS:
                fill(database, part)
            figures = measure(folder, port, database.environ, (server.pid or 0, instance.pid))
            ours.send("listed?")
            figures["resources_s"] = round(ours.recv(), 2)
        finally:
            server.kill()
            server.join()
    print(json.dumps(figures))
    return int(figures["findings"] != 0)


def fill(database: Database, part: Part) -> None:
    """Make the table of a part, with the rows that its resources declare."""
    database.query(f"CREATE TABLE {part.table} (id text PRIMARY KEY, {part.columns})")
    database.query(
        f"INSERT INTO {part.table} SELECT '{part.kind.prefix}team-' || to_char(i / {part.per_namespace}, 'FM00') ||"
        f" '/student-' || to_char(i, 'FM0000000'), {part.values} FROM generate_series(0, {part.number - 1}) i"
    )
    database.query(f"VACUUM ANALYZE {part.table}")


def measure(folder: Path, port: int, environ: dict[str, str], pids: tuple[int, int]) -> dict[str, Any]:
    """Run the audit once and return what it took."""
    played, postgres = pids
    variables = {"KUBERNETES_SERVICE_HOST": "localhost", "KUBERNETES_SERVICE_PORT": str(port)}
    before = {pid: cpu_seconds(pid) for pid in pids}
    began = time.monotonic()
    process = subprocess.Popen(
        [str(PROGRAM), "audit", f"--service-account={folder}", "-o", "json"],
        env={**scrubbed_environment(os.environ), **environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    report = json.loads(process.stdout.read())
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    summary = report["summary"]
    assert (summary["resources"], summary["rows"]) == (N, N), summary
    return {
        "resources": N,
        "rows": N,
        "findings": len(report["findings"]),
        "seconds": round(seconds, 2),
        "audit_mb": round(used.ru_maxrss / 1024),
        "audit_cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "api_server_cpu_s": round(cpu_seconds(played) - before[played], 1),
        "postgres_cpu_s": round(cpu_seconds(postgres) - before[postgres], 1),
    }


def serve(folder: Path, pipe: Connection) -> None:
    """Answer lists as kube-apiserver does, until the process is killed; tells its port, and how long the list took."""
    first = last = 0.0
    templates = {part.kind.plural: (part, template(part)) for part in PARTS}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            nonlocal first, last
            url = urlsplit(self.path)
            asked = {name: values[0] for name, values in parse_qs(url.query).items()}
            start, size = int(asked.get("continue") or 0), int(asked["limit"])
            first = first or time.monotonic()
            body = page(*templates[url.path.rpartition("/")[2]], start, size)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            last = time.monotonic()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.crt", folder / "ca.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pipe.send(server.server_address[1])
    pipe.recv()
    pipe.send(last - first)
    threading.Event().wait()


def page(part: Part, one: bytes, start: int, size: int) -> bytes:
    """Return one page of the list, as the API server writes it."""
    end = min(start + size, part.number)
    items = b",".join(
        one % {b"namespace": b"team-%02d" % (index // part.per_namespace), b"name": b"student-%07d" % index}
        for index in range(start, end)
    )
    metadata: dict[str, Any] = {"resourceVersion": "1000"}
    if end < part.number:
        metadata |= {"continue": str(end), "remainingItemCount": part.number - end}
    head = f'{{"apiVersion":"{GROUP}/{part.kind.version}","items":['.encode()
    return head + items + f'],"kind":"{part.kind.name}List","metadata":{json.dumps(metadata)}}}'.encode()


def template(part: Part) -> bytes:
    """Return a resource with the 1.4 kB that a real one has, without its namespace and name."""
    made = {
        "apiVersion": f"{GROUP}/{part.kind.version}",
        "kind": part.kind.name,
        "metadata": {
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": [f"metacontroller.io/compositecontroller-{part.kind.controller}"],
            "generation": 1,
            "managedFields": managed_fields(part),
            "name": "@name@",
            "namespace": "@namespace@",
            "resourceVersion": "123456",
            "uid": "7c9f3c6e-2a51-4f34-9a4e-0d3b8f5c1a10",
        },
        "spec": part.spec,
        "status": {
            **({"columns": sorted(column["name"] for column in part.spec["columns"])} if not part.kind.fixed else {}),
            "conditions": [
                {
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                    "message": f"The row in table public.{part.table} matches the spec.",
                    "observedGeneration": 1,
                    "reason": "RowSynced",
                    "status": "True",
                    "type": "Ready",
                }
            ],
            "id": f"{part.kind.prefix}@namespace@/@name@",
            "observedGeneration": 1,
            "observedTable": part.table,
            "tables": [f"public.{part.table}"],
        },
    }
    text = json.dumps(made, separators=(",", ":")).encode()
    return text.replace(b"@name@", b"%(name)b").replace(b"@namespace@", b"%(namespace)b")


def managed_fields(part: Part) -> list[dict[str, Any]]:
    """Return who wrote which fields."""
    fields: dict[str, Any] = {f"f:{name}": {} for name in part.spec}
    entry = {
        "apiVersion": f"{GROUP}/{part.kind.version}",
        "fieldsType": "FieldsV1",
        "time": "2026-01-01T00:00:00Z",
    }
    return [
        {**entry, "fieldsV1": {"f:spec": fields}, "manager": "kubectl", "operation": "Apply"},
        {
            **entry,
            "fieldsV1": {"f:metadata": {"f:finalizers": {".": {}}}, "f:status": fields},
            "manager": "metacontroller",
            "operation": "Update",
            "subresource": "status",
        },
    ]


if __name__ == "__main__":
    sys.exit(main())
