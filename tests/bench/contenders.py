"""Who runs in the race: the shipped hook server in two installs, the naive hook, and a Go operator if one is named."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from psycopg2.extensions import make_dsn

from postgres_writer.core.row import KINDS, POSTGRES_WRITER, Kind
from support.ports import free_port
from support.stack import Stack, Variant

OPERATOR = "GO_OPERATOR"
"""The variable that names the binary of an operator which serves PostgresWriters by itself. It is started with
KUBECONFIG and the PSQL_* variables, must set Ready with an observedGeneration, and is ended by SIGTERM."""
WITHOUT = "WITHOUT_EARLY_FINALIZER"
"""The variable that lets this server run a second time in each round, as on an older Kubernetes, if it is set."""


OURS, LATE, NAIVE = "this server", "this server without early-finalizer", "naive Flask hook"
CONTROLLERS = ("composite", "decorator")


@dataclass(frozen=True)
class Contender:
    """One way to serve resources of some kinds; ``run`` gives the process id of what serves them, for its length."""

    name: str
    controller: str
    run: Callable[[Stack, str], AbstractContextManager[int]]
    kinds: tuple[Kind, ...] = tuple(KINDS.values())


@contextlib.contextmanager
def shipped(stack: Stack, kind: str) -> Iterator[int]:
    """Install everything that the guide advises on the newest Kubernetes."""
    with late(stack, kind) as pid, stack.early_finalizer():
        yield pid


@contextlib.contextmanager
def late(stack: Stack, kind: str) -> Iterator[int]:
    """Do the same without the component early-finalizer, as on an older Kubernetes."""
    stack.install(Variant(kind), LOG_FORMAT="json")
    stack.apply(*stack.controllers(stack.hooks[0].url))
    try:
        yield stack.hooks[0].pid
    finally:
        stack.uninstall()


@contextlib.contextmanager
def naive(stack: Stack, kind: str) -> Iterator[int]:
    """Run the naive hook under gunicorn, with the threads that its author would give it."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("gunicorn")), "--bind", f"127.0.0.1:{port}", "--workers", "2"]
    command += ["--threads", "4", "--keep-alive", "120", "--worker-class", "gthread", "naive:app"]
    environ = os.environ | {"NAIVE_DSN": make_dsn(**stack.database.connect)}
    stack.variant = Variant(kind)
    with _running(command, environ, Path(__file__).parent) as pid:
        stack.apply(*stack.controllers(f"http://127.0.0.1:{port}"))
        yield pid
        stack.remove_controller(kind)


@contextlib.contextmanager
def operator(stack: Stack, _kind: str) -> Iterator[int]:
    """Run the Go operator; Metacontroller has nothing to do meanwhile."""
    environ = os.environ | stack.hook_environment() | {"KUBECONFIG": str(stack.api.kubeconfig)}
    environ["PSQL_PASSWORD"] = stack.password_file.read_text(encoding="utf-8")
    with _running([os.environ[OPERATOR]], environ, stack.folder) as pid:
        yield pid


def contenders() -> list[Contender]:
    """Give who runs."""
    ways = [(OURS, shipped), (NAIVE, naive), *([(LATE, late)] if os.environ.get(WITHOUT) else [])]
    hooks = [Contender(name, kind, run) for name, run in ways for kind in CONTROLLERS]
    own = [Contender("Go operator", "itself", operator, (POSTGRES_WRITER,))] if os.environ.get(OPERATOR) else []
    return hooks + own


@contextlib.contextmanager
def _running(command: list[str], environ: dict[str, str], folder: Path) -> Iterator[int]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
