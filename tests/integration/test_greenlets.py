"""Nothing in a serving worker stops its greenlets: no lock that only threads know, no look-up of a name."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from support import server as support_server
from support.callers import Answer, ask, body
from support.postgres import Database
from support.server import ServerProcess, running_server
from support.waiting import wait_until

INSPECTOR = '''
import _thread, functools, gc, json, os, signal, sys, types

NATIVE = {"lock": type(_thread.allocate_lock()), "RLock": type(_thread.RLock()), "local": _thread._local}
OURS = ("postgres_writer", "prometheus_client")


def inspect(number, frame):
    """Walk from our modules, and from those that count for us, over everything that is reachable."""
    from gevent.local import local
    from gevent.lock import Semaphore

    roots = [module for name, module in sys.modules.items() if name.partition(".")[0] in OURS]
    foreign = {id(vars(module)) for module in sys.modules.values() if module is not None and module not in roots}
    seen, todo, found = set(), [(module.__name__, vars(module)) for module in roots], {"native": [], "green": 0}
    while todo:
        path, value = todo.pop()
        if id(value) in seen or id(value) in foreign or isinstance(value, types.ModuleType):
            continue
        if isinstance(value, functools.cached_property):
            # up to Python 3.11 the standard library's own has an RLock, which lets all greenlets of a thread in
            continue
        seen.add(id(value))
        kind = [name for name, native in NATIVE.items() if type(value) is native]
        found["native"] += [f"{kind[0]} of {path}"] if kind else []
        found["green"] += isinstance(value, (local, Semaphore))
        if isinstance(value, dict):
            todo += [(f"{path}[{key!r}]"[-200:], inner) for key, inner in value.items()]
        elif not isinstance(value, (str, bytes, int, float)):
            todo += [(f"{path}>{type(value).__name__}"[-200:], inner) for inner in gc.get_referents(value)]
    with open(os.environ["INSPECTED"] + ".new", "w") as file:
        json.dump(found, file)
    os.rename(os.environ["INSPECTED"] + ".new", os.environ["INSPECTED"])


signal.signal(signal.SIGRTMIN, inspect)
'''

DEAF = """
import _socket
from time import sleep


def getaddrinfo(*arguments, **options):
    sleep(600)


_socket.getaddrinfo = getaddrinfo
"""


def customized(folder: Path, code: str) -> dict[str, str]:
    """Return the environment in which a server runs this code before anything else."""
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder)}


def inspected(server: ServerProcess, result: Path) -> dict[str, list[str]]:
    """Let the worker look for what it should not have."""
    [worker] = server.workers()
    os.kill(worker, signal.SIGRTMIN)
    wait_until(result.exists, lambda: server.logs)
    found: dict[str, list[str]] = json.loads(result.read_text())
    return found


def test_a_worker_has_no_lock_and_no_thread_local_that_greenlets_would_share(
    database: Database, tmp_path: Path
) -> None:
    result = tmp_path / "inspected"
    environ = {**customized(tmp_path, INSPECTOR), "INSPECTED": str(result)}
    with running_server(database, **environ) as server:
        assert ask(server.port, body("one")).ready == "True RowSynced"
        found = inspected(server, result)
        assert found["native"] == []
        assert found["green"], "there are some, or the walk ends too early"
        assert "Warning" not in server.logs


def test_the_test_above_would_find_them(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker itself patches too, but only after the application was imported."""
    program = tmp_path / "late"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom postgres_writer.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(support_server, "PROGRAM", program)
    result = tmp_path / "inspected"
    environ = {**customized(tmp_path, INSPECTOR), "INSPECTED": str(result)}
    with running_server(database, **environ) as server:
        assert inspected(server, result)["native"]


def test_a_name_server_that_does_not_answer_holds_up_only_those_who_ask(tmp_path: Path) -> None:
    with running_server(None, PSQL_HOST="db.invalid", **customized(tmp_path, DEAF)) as server:
        answers: list[Answer] = []
        asking = threading.Thread(target=lambda: answers.append(ask(server.port, body("one"))))
        began = time.monotonic()
        asking.start()
        asked = 0
        while asking.is_alive():
            assert server.get("/healthz").status_code == 200
            asked += 1
            time.sleep(0.05)
        assert [answer.ready for answer in answers] == ["False DatabaseUnavailable"]
        assert time.monotonic() - began < 60, "it waited for the name server"
        assert asked > 5, "it was answered while the name was looked up"
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 60, "it waited for the name server"
