"""What many resources cost: a real API server, Metacontroller, PostgreSQL and hook server with OBJECTS resources.

A third of them are PostgresRows, and half of each kind are in a second database of the same PostgreSQL server. Run by
`make bench NAME=scale` (OBJECTS=2000 by default; 100000 takes about a quarter of an hour on 2 cores). It prints a line
per finding, the tables of docs/performance.md and, last, all findings as one JSON line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.load import cpu_seconds, family, memory_mb
from bench.progress import Progress
from bench.scale_tables import tables
from postgres_writer.core.row import KINDS, POSTGRES_ROW, POSTGRES_WRITER
from support.api_client import Object, resource
from support.kube_tools import find_tools
from support.metacontroller import SKIP_REASON, find_binary
from support.server import PROGRAM
from support.stack import Stack, Variant

OBJECTS = int(os.environ.get("OBJECTS") or 2000)
MARKS = (1_000, 10_000, 50_000, 100_000)
CLIENTS = 16
NAMESPACE = "scale"
SECOND = "second"
"""What the resources call the second database."""
OUTAGE_SECONDS = 20.0
NEWCOMERS = 20
STEADY_SECONDS = 60.0
QUIET_SECONDS = 5
"""How long Metacontroller's queues must be empty before a storm counts as over."""
_AT_WORK = 32
LONGEST = 3600.0
_WRITES = ("POST", "PUT", "PATCH", "DELETE")


def main() -> int:
    """Measure everything and print it; returns the exit code, which is the audit's."""
    binary = find_binary()
    if binary is None:
        print(SKIP_REASON, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), find_tools(), binary)
        try:
            stack.start()
            stack.recorder.stop()
            databases = Path(folder) / "databases"
            with stack.second_database(databases, SECOND):
                variant = Variant(os.environ.get("CONTROLLER") or "composite")
                stack.install(variant, PSQL_DATABASES_DIR=str(databases))
                stack.client.create_namespace(NAMESPACE)
                stack.wait_for_controller()
                with stack.early_finalizer():
                    found = Scale(stack, databases).run()
        finally:
            stack.stop()
    print("\n".join(["", *tables(found), ""]))
    print(json.dumps(found))
    return int(found["audit_exit_code"])


def manifest(number: int, name: str = "object") -> Object:
    """Give a resource: each third is a PostgresRow, and half of each kind are in the second database."""
    kind = POSTGRES_ROW if number % 3 == 2 else POSTGRES_WRITER
    database = {"database": SECOND} if number // 3 % 2 else {}
    return resource(NAMESPACE, f"{name}-{number}", kind, name=f"name {number}", **database)


@dataclass
class Scale:
    """One run: the parts, the watch that says how far they are, and what was found."""

    stack: Stack
    databases: Path
    """The folder of the folders of the databases beside the default one."""
    progress: Progress = field(init=False)
    found: dict[str, Any] = field(default_factory=lambda: {"objects": OBJECTS})

    def run(self) -> dict[str, Any]:
        """Go through all steps in their order; gives the figures by name."""
        self.progress = Progress(self.stack.client)
        self.progress.start()
        self._create()
        self._measure_memory()
        self._steady()
        # before the restart: for half a resync period after it hardly any resync is due that an outage could hit
        self._outage("without_postgresql", self._no_postgresql)
        self._wait_until_quiet()
        self._outage("without_hook_servers", self._no_hook_servers)
        self._wait_until_quiet()
        self._restart_metacontroller()
        self._audit()
        self.progress.stop()
        return self.found

    def _say(self, name: str, value: Any) -> None:
        self.found[name] = value
        print(f"{name}: {value}", flush=True)

    def _create(self) -> None:
        """Create everything; the rate is that of the last tenth before each mark, in which so many exist."""
        marks = [mark for mark in MARKS if mark < OBJECTS] + [OBJECTS]
        began, bytes_before = time.monotonic(), self.stack.api.etcd_bytes()
        with ThreadPoolExecutor(CLIENTS) as pool:
            sent = pool.map(self._create_one, map(manifest, range(OBJECTS)))
            for mark in marks:
                self.progress.wait_for(lambda m=mark: self.progress.ready >= m * 0.9, f"nine tenths of {mark}", LONGEST)  # type: ignore[misc]
                first, count, before = time.monotonic(), self.progress.ready, self._cpu()
                self.progress.wait_for(lambda m=mark: self.progress.ready >= m, f"all {mark}", LONGEST)  # type: ignore[misc]
                made = self.progress.ready - count
                self._say(f"creates_per_second_at_{mark}", round(made / max(time.monotonic() - first, 0.001)))
                # unlike the rate it does not depend on what else the machine does
                cpu = {part: round(1000 * (spent - before[part]) / made, 2) for part, spent in self._cpu().items()}
                self._say(f"create_cpu_ms_at_{mark}", cpu)
            list(sent)
        self._say("create_seconds", round(time.monotonic() - began))
        self._say("etcd_bytes_per_object", round((self.stack.api.etcd_bytes() - bytes_before) / OBJECTS))

    def _create_one(self, wanted: Object) -> Object:
        return self.stack.client.of(KINDS[wanted["kind"]]).create(wanted)

    def _measure_memory(self) -> None:
        for part, pid in self._pids().items():
            self._say(f"{part}_mb", round(sum(memory_mb(one, "Pss") for one in family(pid))))

    def _steady(self) -> None:
        """Sample a steady state: resyncs only."""
        self._wait_until_quiet()
        before = self._cpu()
        calls, writes = self.stack.metacontroller.calls().total, self._writes()
        time.sleep(STEADY_SECONDS)
        for part, seconds in self._cpu().items():
            self._say(f"steady_{part}_cpu_cores", round((seconds - before[part]) / STEADY_SECONDS, 4))
        self._say(
            "steady_calls_per_second", round((self.stack.metacontroller.calls().total - calls) / STEADY_SECONDS, 1)
        )
        self._say("steady_writes", self._writes() - writes)

    def _restart_metacontroller(self) -> None:
        """Start Metacontroller again: it asks for every object once. A new object comes in the middle of it."""
        writes = self._writes()
        self.stack.metacontroller.stop()
        self.stack.metacontroller.start()
        began = time.monotonic()
        new = [self._create_one(manifest(0, "in-the-storm"))]
        self._say("restart_new_object_seconds", round(self._wait_for_new(new), 1))
        self._wait_until_quiet()
        self._say("restart_storm_seconds", round(time.monotonic() - began - QUIET_SECONDS, 1))
        self._say("restart_writes", self._writes() - writes)

    def _outage(self, what: str, outage: Callable[[], Iterator[None]]) -> None:
        """Take something away while users go on creating; count what that writes and how long it is felt."""
        writes, events, versions = self._writes(), self._writes("events"), self.progress.versions
        names = what.replace("_", "-")
        for _ in outage():
            new = [self._create_one(manifest(number, names)) for number in range(NEWCOMERS)]
            time.sleep(OUTAGE_SECONDS)
        began, worst = time.monotonic(), self.progress.existing - self.progress.ready
        self._say(f"{what}_new_objects_seconds", round(self._wait_for_new(new), 1))
        self.progress.wait_for(lambda: self.progress.ready == self.progress.existing, f"Ready again, {what}", LONGEST)
        self._say(f"{what}_all_ready_seconds", round(time.monotonic() - began, 1))
        self._say(f"{what}_not_ready", worst)
        self._say(f"{what}_seconds", OUTAGE_SECONDS)
        self._say(f"{what}_new", NEWCOMERS)
        self._say(f"{what}_writes", self._writes() - writes)
        self._say(f"{what}_event_writes", self._writes("events") - events)
        self._say(f"{what}_stored_versions", self.progress.versions - versions)

    def _wait_for_new(self, new: Collection[Object]) -> float:
        """Wait until new objects are Ready; gives the seconds it took."""
        return self.progress.wait_for(lambda: all(map(self.progress.is_ready, new)), "new objects", LONGEST)

    def _no_hook_servers(self) -> Iterator[None]:
        servers = self.stack.hooks
        for server in servers:
            server.stop()
        yield
        for server in servers:
            server.start()

    def _no_postgresql(self) -> Iterator[None]:
        self.stack.postgres.stop()
        yield
        self.stack.postgres.start()

    def _audit(self) -> None:
        environ = self.stack.api.environment() | self.stack.hook_environment()
        environ["PSQL_DATABASES_DIR"] = str(self.databases)
        began = time.monotonic()
        command = [str(PROGRAM), "audit", "--output=json"]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        self._say("audit_seconds", round(time.monotonic() - began, 1))
        self._say("audit_exit_code", done.returncode)
        if done.returncode:
            print(done.stdout + done.stderr, file=sys.stderr)
        self._say("audit", json.loads(done.stdout)["summary"] if done.stdout else {})

    def _wait_until_quiet(self) -> None:
        """Wait until Metacontroller's queues have been empty for a while: only resyncs are left."""
        deadline, empty = time.monotonic() + LONGEST, 0
        while empty < QUIET_SECONDS:
            if time.monotonic() > deadline:
                raise TimeoutError("it does not become quiet")
            # up to as many as its workers take at once are not waiting
            empty = empty + 1 if self.stack.metacontroller.queued() <= _AT_WORK else 0
            time.sleep(1)

    def _writes(self, *resources: str) -> int:
        """Count the writes of some resources, without any those of both kinds."""
        asked = resources or [kind.plural for kind in KINDS.values()]
        counted = (it for resource in asked for it in self.stack.client.writes(resource).items())
        return sum(count for verb, count in counted if verb.startswith(_WRITES))

    def _pids(self) -> dict[str, int]:
        metacontroller = self.stack.metacontroller.process
        assert metacontroller is not None
        return {
            "apiserver": self.stack.api.pid("kube-apiserver"),
            "etcd": self.stack.api.pid("etcd"),
            "postgresql": self.stack.postgres.pid,
            "hook": self.stack.hooks[0].pid,
            "metacontroller": metacontroller.pid,
        }

    def _cpu(self) -> dict[str, float]:
        return {part: cpu_seconds(pid) for part, pid in self._pids().items()}


if __name__ == "__main__":
    sys.exit(main())
