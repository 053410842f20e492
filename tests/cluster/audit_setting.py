"""`postgres-writer audit` on a namespace of a real API server and a real database, for tests."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from postgres_writer.core.row import relation_name
from support.payloads import recorded

if TYPE_CHECKING:
    from support.apiserver import ApiServer
    from support.postgres import Database

PROGRAM = Path(sys.executable).with_name("postgres-writer")
ANNOTATION = "demo.yash.com/resync-requested"
PGW = "postgreswriters.demo.yash.com"
PGR = "postgresrows.demo.yash.com"


class Setting:
    """A namespace, a database, and the command between them."""

    def __init__(self, cluster: ApiServer, namespace: str, database: Database) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.database = database
        self.environ = {**cluster.environment(), **database.environ}

    def apply(self, *names: str, table: str = "students", **spec: str) -> None:
        """Make resources, with the status that a sync to the table would have left; ``spec``: further fields."""
        manifests = [
            {
                "apiVersion": "demo.yash.com/v1",
                "kind": "PostgresWriter",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": {"table": table, "name": "alex", "age": 23, "country": "canada", **spec},
            }
            for name in names
        ]
        listed = {"apiVersion": "v1", "kind": "List", "items": manifests}
        self.cluster.kubectl("create", "-f", "-", input=json.dumps(listed))
        for name in names:
            patch = json.dumps({"status": recorded(relation_name(table) or table, observed=table)})
            self.kubectl("patch", PGW, name, "--subresource=status", "--type=merge", f"--patch={patch}")

    def apply_row(self, *names: str, table: str = "students", age: int = 23) -> None:
        """Make resources of the kind PostgresRow, with the status that a sync to the table would have left."""
        for name in names:
            manifest = {
                "apiVersion": "demo.yash.com/v1alpha1",
                "kind": "PostgresRow",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": {"table": table, "columns": [{"name": "name", "value": "alex"}, {"name": "age", "value": age}]},
            }
            self.cluster.kubectl("create", "-f", "-", input=json.dumps(manifest))
            patch = json.dumps({"status": recorded(relation_name(table) or table, observed=table)})
            self.kubectl("patch", PGR, name, "--subresource=status", "--type=merge", f"--patch={patch}")

    def kubectl(self, *arguments: str) -> str:
        return self.cluster.kubectl(*arguments, "--namespace", self.namespace).stdout

    def row(self, *names: str, table: str = "students") -> None:
        for name in names:
            self.database.query(f"INSERT INTO {table} VALUES (%s, 'alex', 23, 'canada')", f"{self.namespace}/{name}")

    def double(self) -> None:
        """Make a resource with its row, and a second row of it in the table old."""
        self.apply("double")
        self.row("double")
        self.row("double", table="old")

    def rows(self, table: str = "students") -> list[str]:
        return [about.partition("/")[2] for about, *_ in self.database.rows(table)]

    def annotated(self, kind: str = PGW) -> set[str]:
        """Return the names of the resources for which a sync was asked."""
        items = json.loads(self.kubectl("get", kind, "-o", "json"))["items"]
        return {item["metadata"]["name"] for item in items if ANNOTATION in item["metadata"].get("annotations", {})}

    def command(self, *arguments: str) -> list[str]:
        return [str(PROGRAM), "audit", "-n", self.namespace, "--confirm-after", "0.1", *arguments]

    def audit(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def findings(self, *arguments: str) -> list[tuple[str, str]]:
        done = self.audit("-o", "json", *arguments)
        assert done.returncode in (0, 1), done.stderr
        found = [(one["finding"], one["id"].partition("/")[2]) for one in json.loads(done.stdout)["findings"]]
        assert done.returncode == int(bool(found))
        return found


class Asked:
    """A run of the command on a terminal, up to its question."""

    def __init__(self, setting: Setting, *arguments: str) -> None:
        self._terminal, their_end = pty.openpty()
        self.process = subprocess.Popen(
            setting.command(*arguments), env=setting.environ, stdin=their_end, stdout=their_end, stderr=their_end
        )
        os.close(their_end)
        self.shown = ""
        self._read_until("[y/N]")

    def answer(self, text: str) -> tuple[int, str]:
        """Answer the question; returns the exit code and what was printed after it."""
        before = len(self.shown)
        os.write(self._terminal, f"{text}\n".encode())
        self._read_until(None)
        code = self.process.wait(60)
        os.close(self._terminal)
        return code, self.shown[before:]

    def _read_until(self, text: str | None) -> None:
        deadline = time.monotonic() + 60
        while text is None or text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            if select.select([self._terminal], [], [], 0.2)[0]:
                try:
                    some = os.read(self._terminal, 4096)
                except OSError:  # Linux: the other end is closed
                    return
                self.shown += some.decode()
