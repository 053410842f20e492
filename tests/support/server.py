"""The real server for tests: `postgres-writer serve` as a child process on a free port of the loopback."""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from support.ports import free_port
from support.postgres import Database, scrubbed_environment
from support.waiting import is_running, wait_until

PROGRAM = Path(sys.executable).with_name("postgres-writer")
_START_SECONDS = 120.0
_ANSWER_SECONDS = 60.0
"""For what hangs: a busy machine needs a part of it."""
"""Far longer than a busy machine needs."""


@dataclass
class ServerProcess:
    """A running `postgres-writer serve`: its address, its processes and what it logged."""

    environ: Mapping[str, str]
    arguments: tuple[str, ...] = ()
    scheme: str = "http"
    verify: bool | str = True
    port: int = field(default_factory=free_port)
    log: Path = field(init=False)
    process: "subprocess.Popen[bytes] | None" = None
    session: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="pgw-server-"))
        self.log = folder / "server.log"
        # a test may read the log after the stop, so the folder lives as long as this object
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """The server's base address."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the master."""
        assert self.process is not None, "the server was never started"
        return self.process.pid

    @property
    def logs(self) -> str:
        """Everything that the server logged up to now."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def command(self) -> list[str]:
        """Return the command that serves."""
        return [str(PROGRAM), "serve", *self.arguments]

    def variables(self) -> dict[str, str]:
        """Return the variables of the command, beside those of this process."""
        return {"HOOK_HOST": "127.0.0.1", "HOOK_PORT": str(self.port), **self.environ}

    def start(self, *, wait: bool = True, errors: int | None = None) -> None:
        """Start the server and wait until it serves (unless told not to); its errors go to a descriptor or the log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log if errors is None else errors,
                env={**scrubbed_environment(os.environ), **self.variables()},
                start_new_session=True,
            )
        if wait:
            self.wait_until_serving()

    def wait_until_serving(self, timeout: float = _START_SECONDS) -> None:
        """Wait until /healthz answers 200; fails with the log when the server ends before."""
        deadline = time.monotonic() + timeout
        while True:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.logs}")
            try:
                answer = self.get("/healthz", headers={"Connection": "close"})
                if answer.status_code == 200:
                    return
            except (requests.ConnectionError, requests.Timeout):  # not yet, or the machine is busy
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server does not serve:\n{self.logs}")
            time.sleep(0.02)

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET a path."""
        options = {"timeout": _ANSWER_SECONDS, "verify": self.verify, **options}
        return self.session.get(self.url + path, **options)

    def post(self, hook: str, payload: Any, **options: Any) -> requests.Response:
        """POST a hook request ("sync" or "finalize") as JSON."""
        options = {"timeout": _ANSWER_SECONDS, "verify": self.verify, **options}
        return self.session.post(f"{self.url}/{hook}", json=payload, **options)

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        return children(self.pid)

    def stop(self, number: int = signal.SIGTERM, *, timeout: float = 60.0) -> int:
        """Stop the server, check that it and its workers are gone, and return its exit code."""
        assert self.process is not None
        # the pool's connections close when it is collected, and it is part of a cycle; a connection that stays
        # open makes a stopping server wait for a last request on it
        self.session.close()
        gc.collect()
        if self.process.poll() is not None:
            return self.process.returncode
        family = [self.pid, *self.workers()]
        for pid in family:  # a worker that a test stopped could not obey
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.process.send_signal(number)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(60)
            raise
        # workers of a killed master notice within a second or two
        wait_until(lambda: not any(map(is_running, family)), f"none of {family} is left", 30)
        return code


def children(pid: int) -> list[int]:
    """Return the process ids of a process's children."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except FileNotFoundError:
        return []
    return [int(child) for child in listed.split()]


def running_server(
    database: Database | None = None, *arguments: str, **environ: str
) -> contextlib.AbstractContextManager[ServerProcess]:
    """Run a server for the length of a with-block, on the database given and with more variables."""
    known = database.environ if database is not None else {}
    return serving(ServerProcess({**known, **environ}, arguments))


@contextlib.contextmanager
def serving(server: ServerProcess) -> Iterator[ServerProcess]:
    """Run a server for the length of a with-block.

    At its end the server is told to hurry: idle workers take a second to notice a SIGTERM.
    """
    try:
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.stop(signal.SIGQUIT)
