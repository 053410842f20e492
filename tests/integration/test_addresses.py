"""HOOK_HOST=:: serves whatever kinds of addresses a pod has: real sockets, each kind in a network of its own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from postgres_writer.cli.serve import listen
from support.postgres import scrubbed_environment
from support.server import PROGRAM

PORT = 8080

KINDS = {
    "both kinds": (":", {"127.0.0.1", "::1"}),
    "IPv6 switched off": ("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6", {"127.0.0.1"}),
    "IPv6 alone": ("ip address del 127.0.0.1/8 dev lo", {"::1"}),
    "sockets of one kind by default": ("echo 1 >/proc/sys/net/ipv6/bindv6only", {"127.0.0.1", "::1"}),
}


def answering(pid: int) -> set[str]:
    """Return the addresses at which a server answers, in the network of this process."""
    found = set()
    for address, host in (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")):
        asked = ["curl", "--silent", "--max-time", "60", f"http://{host}:{PORT}/healthz"]
        inside = ["nsenter", "--target", str(pid), "--net", "--", *asked]
        if subprocess.run(inside, capture_output=True, check=False, timeout=60).stdout == b"ok\n":
            found.add(address)
    return found


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root can make networks")
@pytest.mark.parametrize("kind", KINDS)
def test_in_every_kind_of_network_it_listens_at_every_address(kind: str) -> None:
    setting, expected = KINDS[kind]
    with futures.ThreadPoolExecutor(1) as own:
        assert own.submit(listening, setting).result(60) == expected


def listening(setting: str) -> set[str]:
    """Return the addresses at which the server's socket is reached, in a new network of this thread."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) != 0:  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["sh", "-ec", f"ip link set lo up; {setting}"], check=True, timeout=60)
    found = set()
    with listen("::", PORT):
        for address in ("127.0.0.1", "::1"):
            with contextlib.suppress(OSError), socket.create_connection((address, PORT), timeout=60):
                found.add(address)
    return found


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root can make networks")
def test_both_kinds_of_addresses_are_served(tmp_path: Path) -> None:
    setting, expected = KINDS["both kinds"]
    log = tmp_path / "log"
    environ = {**scrubbed_environment(os.environ), "PSQL_HOST": "127.0.0.1", "HOOK_HOST": "::"}
    script = f"ip link set lo up; {setting}; exec {PROGRAM} serve"
    with log.open("wb") as output:
        server = subprocess.Popen(
            ["unshare", "--net", "--", "sh", "-ec", script],
            stdout=output,
            stderr=output,
            env={**environ, "HOOK_PORT": str(PORT)},
        )
    try:
        deadline = time.monotonic() + 60
        while "Listening at" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        assert answering(server.pid) == expected
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0, log.read_text()


def test_a_kernel_without_ipv6_leaves_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test can start such a kernel; what it answers is known."""

    class Refusing(socket.socket):
        def __init__(self, family: int = -1, *arguments: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, *arguments, **options)

    monkeypatch.setattr(socket, "socket", Refusing)
    with listen("::", 0) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("localhost", "127.0.0.1")])
def test_one_address_is_listened_at_alone(host: str, address: str) -> None:
    with listen(host, 0) as listener:
        assert listener.getsockname()[0] == address
