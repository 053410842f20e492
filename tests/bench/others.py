"""The hook server in other configurations than the shipped one: TLS, tokens, table policy, behind PgBouncer."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench import bodies
from bench.cases import Case, bare, noop, write
from bench.servers import BareServer, Bench, hook_server, serving
from support.certificates import make_certificate
from support.postgres import free_port
from support.server import ServerProcess

_CONNECTIONS = 16
_POLICY = 'rules:\n- {namespaces: ["team-*"], tables: ["team_*"]}\n- {namespaces: ["bench"], tables: ["stud*"]}\n'


@contextlib.contextmanager
def other_cases(parts: Bench) -> Iterator[list[Case]]:
    """Start the other servers and give the cases that they, and new connections, are measured with."""
    with secure_servers(parts) as (secure, secure_bare), behind_pgbouncer(parts) as pooled:
        tls_bare = replace(bare(parts, _CONNECTIONS), name="bare Flask, TLS", server=secure_bare)
        tls_bare.load = replace(tls_bare.load, url=f"{secure_bare.url}/sync")
        yield [
            noop(parts.hook, _CONNECTIONS, "no-op, 1,000 foreign fields", bodies.foreign("noop")),
            bare(parts, _CONNECTIONS, close=True),
            noop(parts.hook, _CONNECTIONS, "no-op, new connections", close=True),
            tls_bare,
            noop(secure, _CONNECTIONS, "no-op, TLS and policy"),
            noop(secure, _CONNECTIONS, "no-op, TLS, new connections", close=True),
            noop(pooled, _CONNECTIONS, "no-op, PgBouncer"),
            write(pooled, _CONNECTIONS, "pooled", "write, PgBouncer"),
        ]


@contextlib.contextmanager
def secure_servers(parts: Bench) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Run the hook server with TLS and a table policy, and the bare endpoint with TLS."""
    certificate = make_certificate(parts.folder)
    files = {"HOOK_TLS_CERT_FILE": str(certificate.certificate), "HOOK_TLS_KEY_FILE": str(certificate.key)}
    policy = parts.folder / "policy.yaml"
    policy.write_text(_POLICY, encoding="utf-8")
    hook = ServerProcess(
        {**parts.hook.environ, **files, "HOOK_TABLE_POLICY_FILE": str(policy)},
        scheme="https",
        verify=str(certificate.certificate),
    )
    bare_server = BareServer({**parts.bare.environ, **files}, scheme="https", verify=str(certificate.certificate))
    with serving(hook), serving(bare_server):
        yield hook, bare_server


@contextlib.contextmanager
def behind_pgbouncer(parts: Bench) -> Iterator[ServerProcess]:
    """Run the hook server behind a PgBouncer that pools transactions, without prepared statements."""
    port = free_port()
    connect = parts.database.connect
    configuration = parts.folder / "pgbouncer.ini"
    target = f"host={connect['host']} port={connect['port']} user={connect['user']} password={connect['password']}"
    lines = [
        "[databases]",
        f"{parts.database.name} = {target}",
        "[pgbouncer]",
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =",
        "auth_type = any\npool_mode = transaction\ndefault_pool_size = 16\nlog_connections = 0\nlog_disconnections = 0",
    ]
    configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with running_pgbouncer(configuration, port):
        environ = {**parts.database.environ, "PSQL_PORT": str(port), "PSQL_PREPARED_STATEMENTS": "false"}
        with hook_server(environ) as server:
            yield server


@contextlib.contextmanager
def running_pgbouncer(configuration: Path, port: int) -> Iterator[None]:
    """Run PgBouncer until the with-block ends. Raises RuntimeError when it is missing or does not start."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise RuntimeError("PgBouncer is not installed: apt-get install pgbouncer.")
    # it refuses to run as root, and must read its file
    configuration.parent.chmod(0o755)
    configuration.chmod(0o644)
    user = "nobody" if os.geteuid() == 0 else None
    process = subprocess.Popen([program, "-q", str(configuration)], user=user, stderr=subprocess.DEVNULL)
    try:
        _wait_until_listening(process, port)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"PgBouncer does not listen (exit code {process.poll()}).")
