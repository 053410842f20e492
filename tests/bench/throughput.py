"""Creates, updates and deletes per second through a real API server and a real Metacontroller.

Run by `make bench-cluster` (OBJECTS=400 by default); the variable METACONTROLLER names the binary. The hook of
naive.py, under the same gunicorn settings, is measured in the same run: what it reaches is about what API server and
Metacontroller allow on this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import make_dsn

from support.api_client import ready_of, resource
from support.kube_tools import find_tools
from support.metacontroller import SKIP_REASON, find_binary
from support.postgres import free_port
from support.stack import Stack, Variant, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OBJECTS = int(os.environ.get("OBJECTS", "400"))
CLIENTS = 16
LONGEST = 300.0


def main() -> int:
    """Measure each hook and print a line for each, then all of it as one JSON line."""
    binary = find_binary()
    if binary is None:
        print(SKIP_REASON, file=sys.stderr)
        return 2
    figures: list[dict[str, Any]] = []
    print(f"{'hook':<30} {'creates/s':>10} {'updates/s':>10} {'deletes/s':>10}")
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), find_tools(), binary)
        try:
            stack.start()
            for kind in ("composite", "decorator"):
                for name, hook in (("postgres-writer", shipped), ("naive Flask hook", naive)):
                    with hook(stack, kind):
                        rates = measure(stack, f"{kind}-{name.split(maxsplit=1)[0]}")
                    figures.append({"hook": name, "controller": kind, **rates})
                    print(f"{name + ', ' + kind:<30} " + " ".join(f"{rate:>10.0f}" for rate in rates.values()))
        finally:
            stack.stop()
    print(json.dumps({"objects": OBJECTS, "clients": CLIENTS, "results": figures}))
    return 0


@contextlib.contextmanager
def shipped(stack: Stack, kind: str) -> Iterator[None]:
    """Run the server with its default workers and threads, called directly."""
    stack.install(Variant(kind), HOOK_WORKERS="")
    stack.apply(stack.controller(stack.hooks[0].url))
    try:
        yield
    finally:
        stack.uninstall()


@contextlib.contextmanager
def naive(stack: Stack, kind: str) -> Iterator[None]:
    """Run the naive hook under gunicorn."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("gunicorn")), "--bind", f"127.0.0.1:{port}", "--workers", "2"]
    command += ["--threads", "4", "--keep-alive", "120", "--worker-class", "gthread", "naive:app"]
    environ = os.environ | {"NAIVE_DSN": make_dsn(**stack.database.connect)}
    stack.variant = Variant(kind)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=Path(__file__).parent, env=environ, stdout=log, stderr=log)
        try:
            stack.apply(stack.controller(f"http://127.0.0.1:{port}"))
            yield
            stack.remove_controller(kind)
        finally:
            process.terminate()
            process.wait()


def measure(stack: Stack, namespace: str) -> dict[str, float]:
    """Create, update and delete all objects, each time until the last one has gone through."""
    stack.client.create_namespace(namespace)
    stack.wait_for_controller()
    names = [f"object-{number}" for number in range(OBJECTS)]

    def reached(generation: int) -> bool:
        found = stack.client.resources(namespace)
        done = [ready_of(item).get("observedGeneration") == generation for item in found]
        return len(done) == OBJECTS and all(done)

    steps: dict[str, tuple[Callable[[str], object], Callable[[], bool]]] = {
        "creates": (lambda name: stack.client.create(resource(namespace, name)), lambda: reached(1)),
        "updates": (lambda name: stack.client.edit(namespace, name, age=24), lambda: reached(2)),
        "deletes": (
            lambda name: stack.client.delete(namespace, name),
            lambda: not stack.client.resources(namespace),
        ),
    }
    rates = {}
    for step, (act, done) in steps.items():
        began = time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(act, names))
        wait_until(done, f"all {step} of {namespace}", LONGEST)
        rates[step] = OBJECTS / (time.monotonic() - began)
    rows = stack.database.rows()
    if rows:
        raise AssertionError(f"{len(rows)} rows are left")
    return rates


if __name__ == "__main__":
    sys.exit(main())
