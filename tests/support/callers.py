"""Callers of the hooks when something is wrong: many at once, each on a connection of its own, impatient."""

import http.client
import json
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.payloads import payload, resource

PATIENCE = 10.0
"""The webhook's time-out: an answer after it is none."""


@dataclass(frozen=True)
class Answer:
    """What a caller got, and after how many seconds; ``status`` 0 when it gave up."""

    status: int
    seconds: float
    body: dict[str, Any]

    @property
    def ready(self) -> str:
        """The condition Ready as "status reason"."""
        found = [c for c in self.body["status"]["conditions"] if c["type"] == "Ready"]
        return f"{found[0]['status']} {found[0]['reason']}"

    @property
    def tables(self) -> list[str]:
        """The tables that may hold the row."""
        tables: list[str] = self.body["status"]["tables"]
        return tables


def body(name: str, age: int = 1, table: str = "students") -> dict[str, Any]:
    """Return the body of a sync for a resource of that name, whose status says nothing yet."""
    return payload(resource({"table": table, "name": "alex", "age": age, "country": "canada"}, name=name))


def ask(port: int, request: dict[str, Any], hook: str = "sync", patience: float = PATIENCE) -> Answer:
    """Send one hook request on a connection of its own, and hang up when the patience is over."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
    try:
        connection.request("POST", f"/{hook}", json.dumps(request), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return Answer(response.status, time.monotonic() - began, json.loads(response.read()))
    except OSError:
        return Answer(0, time.monotonic() - began, {})
    finally:
        connection.close()


def ask_all(port: int, requests: Iterable[dict[str, Any]], patience: float = PATIENCE) -> list[Answer]:
    """Send all requests at the same time, and return the answers in their order."""
    bodies = list(requests)
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda request: ask(port, request, patience=patience), bodies))


def owner(port: int, pids: Iterable[int]) -> int:
    """Return which of the processes has a TCP socket bound to the local port."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    sockets = {f"socket:[{line[9]}]" for line in lines if int(line[1].rpartition(":")[2], 16) == port}
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if str(descriptor.readlink()) in sockets:
                    return pid
            except FileNotFoundError:
                continue
    raise AssertionError(f"none of the processes has port {port}")
