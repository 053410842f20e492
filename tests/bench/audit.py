"""What an audit of many resources and rows costs: the real command and PostgreSQL, and an API server that is played.

Run by `make bench NAME=audit` (N=20000 by default; N=1000000 takes a few minutes). The played server answers pages as
kube-apiserver does, of objects as large as real ones, so that the figures are the audit's and not etcd's. It prints the
figures as one JSON object: seconds in all and until the last page was read, megabytes of the audit's process, and the
CPU seconds of each of the three.
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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from bench.load import cpu_seconds
from support.certificates import make_certificate
from support.postgres import private_instance, scrubbed_environment
from support.server import PROGRAM

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

N = int(os.environ.get("N") or 20_000)
NAMESPACES = 10


def main() -> int:
    """Measure and print; 0 when the audit found nothing, as it must."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as name, private_instance() as instance:
        folder = Path(name)
        made = make_certificate(folder, "ca", "localhost")
        assert made.key == folder / "ca.key"
        (folder / "token").write_text("played")
        server = context.Process(target=serve, args=(folder, N, theirs), daemon=True)
        server.start()
        try:
            port: int = ours.recv()
            database = instance.maintenance
            database.query("CREATE TABLE students (id text PRIMARY KEY, name text, age int, country text)")
            database.query(
                "INSERT INTO students SELECT 'team-' || to_char(i / %s, 'FM00') || '/student-' ||"
                " to_char(i, 'FM0000000'), 'alex', 23, 'canada' FROM generate_series(0, %s) i",
                per_namespace(N),
                N - 1,
            )
            database.query("VACUUM ANALYZE students")
            figures = measure(folder, port, database.environ, (server.pid or 0, instance.pid))
            ours.send("listed?")
            figures["resources_s"] = round(ours.recv(), 2)
        finally:
            server.kill()
            server.join()
    print(json.dumps(figures))
    return int(figures["findings"] != 0)


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


def serve(folder: Path, number: int, pipe: Connection) -> None:
    """Answer lists as kube-apiserver does, until the process is killed; tells its port, and how long the list took."""
    first = last = 0.0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            nonlocal first, last
            url = urlsplit(self.path)
            asked = {name: values[0] for name, values in parse_qs(url.query).items()}
            start, size = int(asked.get("continue") or 0), int(asked["limit"])
            first = first or time.monotonic()
            listed = number if url.path.endswith("/postgreswriters") else 0
            body = page(start, min(start + size, listed), listed)
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


def page(start: int, end: int, number: int) -> bytes:
    """Return one page of the list, as the API server writes it."""
    items = b",".join(item(index, per_namespace(number)) for index in range(start, end))
    metadata: dict[str, Any] = {"resourceVersion": "1000"}
    if end < number:
        metadata |= {"continue": str(end), "remainingItemCount": number - end}
    head = b'{"apiVersion":"demo.yash.com/v1","items":['
    return head + items + b'],"kind":"PostgresWriterList","metadata":' + json.dumps(metadata).encode() + b"}"


def item(index: int, size: int) -> bytes:
    """Return one resource, with the 1.4 kB that a real one has."""
    return _ITEM % {b"namespace": b"team-%02d" % (index // size), b"name": b"student-%07d" % index}


def per_namespace(number: int) -> int:
    """Return how many resources are in one namespace."""
    return -(-number // NAMESPACES)


def _managed_fields() -> list[dict[str, Any]]:
    fields: dict[str, Any] = {f"f:{name}": {} for name in ("table", "name", "age", "country", "deletionPolicy")}
    entry = {"apiVersion": "demo.yash.com/v1", "fieldsType": "FieldsV1", "time": "2026-01-01T00:00:00Z"}
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


def _template() -> bytes:
    made = {
        "apiVersion": "demo.yash.com/v1",
        "kind": "PostgresWriter",
        "metadata": {
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": ["metacontroller.io/compositecontroller-postgres-writer"],
            "generation": 1,
            "managedFields": _managed_fields(),
            "name": "@name@",
            "namespace": "@namespace@",
            "resourceVersion": "123456",
            "uid": "7c9f3c6e-2a51-4f34-9a4e-0d3b8f5c1a10",
        },
        "spec": {"age": 23, "country": "canada", "deletionPolicy": "Delete", "name": "alex", "table": "students"},
        "status": {
            "conditions": [
                {
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                    "message": "The row in table public.students matches the spec.",
                    "observedGeneration": 1,
                    "reason": "RowSynced",
                    "status": "True",
                    "type": "Ready",
                }
            ],
            "id": "@namespace@/@name@",
            "observedGeneration": 1,
            "observedTable": "students",
            "tables": ["public.students"],
        },
    }
    text = json.dumps(made, separators=(",", ":")).encode()
    return text.replace(b"@name@", b"%(name)b").replace(b"@namespace@", b"%(namespace)b")


_ITEM = _template()

if __name__ == "__main__":
    sys.exit(main())
