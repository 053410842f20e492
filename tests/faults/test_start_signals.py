"""SIGTERM and SIGINT at every moment of a start end the server, with exit code 0."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.server import ServerProcess
from support.waiting import wait_until

PLAIN = {"PSQL_HOST": "127.0.0.1", "HOOK_WORKERS": "1"}
STOPS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def starting(environ: dict[str, str], *arguments: str) -> Iterator[ServerProcess]:
    """Start a server, and return as soon as the first line of its own code has run."""
    server = ServerProcess(environ, arguments)
    server.start(wait=False)
    try:
        wait_until(lambda: catches(server.pid, signal.SIGTERM), "the program has begun")
        yield server
    finally:
        server.stop(signal.SIGKILL)


def catches(pid: int, number: int) -> bool:
    """Say whether a process has a handler for a signal. https://man7.org/linux/man-pages/man5/proc_pid_status.5.html."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    [mask] = [line.split()[1] for line in lines if line.startswith("SigCgt:")]
    return bool(int(mask, 16) >> (number - 1) & 1)


def end_of(number: int, seconds: float, *arguments: str, environ: dict[str, str] | None = None) -> str:
    """Send the signal that many seconds after the program has begun; returns what is wrong with its end."""
    with starting({**PLAIN, **(environ or {})}, *arguments) as server:
        time.sleep(seconds)
        code = server.stop(number)
        if code or "Traceback" in server.logs:
            return f"{signal.Signals(number).name} after {seconds:.3f} s: {code}\n{server.logs}"
    return ""


@pytest.mark.long
def test_a_signal_at_any_moment_of_the_start_ends_it_with_zero() -> None:
    with starting(PLAIN) as server:
        began = time.monotonic()
        server.wait_until_serving()
        whole = time.monotonic() - began
    tries = 100
    with ThreadPoolExecutor(2) as pool:
        moments = [whole * number / tries for number in range(tries)]
        ends = pool.map(end_of, STOPS * (tries // 2), moments)
        assert [wrong for wrong in ends if wrong] == []


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_with_an_embedded_database_too_which_stops_with_it(part: float) -> None:
    folder = Path(tempfile.mkdtemp(prefix="pgw-"))
    arguments = ("--embedded", "--data-dir", str(folder / "data"))
    try:
        with starting({"HOOK_WORKERS": "1"}, *arguments) as server:
            began = time.monotonic()
            server.wait_until_serving()
            whole = time.monotonic() - began
            assert server.stop() == 0
        for number in STOPS:
            assert end_of(number, whole * part, *arguments, environ={"PSQL_HOST": ""}) == ""
            assert not (folder / "data" / "postgresql" / "postmaster.pid").exists()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
