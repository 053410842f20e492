"""The hook server in other configurations than the shipped one: TLS, tokens, table policy, behind PgBouncer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from bench import bodies
from bench.cases import Case, bare, noop, write
from bench.servers import BareServer, Bench, hook_server
from support.certificates import make_certificate
from support.pgbouncer import running_pgbouncer
from support.server import ServerProcess, serving

_CONNECTIONS = 16
_POLICY = 'rules:\n- {namespaces: ["team-*"], tables: ["team_*"]}\n- {namespaces: ["bench"], tables: ["stud*"]}\n'


@contextlib.contextmanager
def other_cases(parts: Bench) -> Iterator[list[Case]]:
    """Start the other servers and give the cases that they, and new connections, are measured with."""
    with (
        secure_servers(parts) as (secure, secure_bare),
        behind_pgbouncer(parts) as pooled,
    ):
        yield [
            replace(noop(parts.hook, _CONNECTIONS, "no-op, scraped"), scraped=True),
            replace(write(parts.hook, _CONNECTIONS, "scraped", "write, scraped"), scraped=True),
            noop(parts.hook, _CONNECTIONS, "no-op, 1,000 foreign fields", bodies.foreign("noop")),
            bare(parts, _CONNECTIONS, close=True),
            noop(parts.hook, _CONNECTIONS, "no-op, new connections", close=True),
            replace(bare(replace(parts, bare=secure_bare), _CONNECTIONS), name="bare Flask, TLS"),
            noop(secure, _CONNECTIONS, "no-op, TLS and policy"),
            noop(secure, _CONNECTIONS, "no-op, TLS, new connections", close=True),
            noop(pooled, _CONNECTIONS, "no-op, PgBouncer"),
            write(pooled, _CONNECTIONS, "pooled", "write, PgBouncer"),
        ]


@contextlib.contextmanager
def secure_servers(parts: Bench) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Run the hook server with TLS and a table policy, and the bare endpoint with TLS."""
    certificate = make_certificate(parts.folder)
    policy = parts.folder / "policy.yaml"
    policy.write_text(_POLICY, encoding="utf-8")
    hook = ServerProcess(
        {**parts.hook.environ, **certificate.environ, "HOOK_TABLE_POLICY_FILE": str(policy)},
        scheme="https",
        verify=str(certificate.certificate),
    )
    bare_server = BareServer(
        {**parts.bare.environ, **certificate.environ}, scheme="https", verify=str(certificate.certificate)
    )
    with serving(hook), serving(bare_server):
        yield hook, bare_server


@contextlib.contextmanager
def behind_pgbouncer(parts: Bench) -> Iterator[ServerProcess]:
    """Run the hook server behind a PgBouncer that pools transactions, without prepared statements."""
    users = {parts.database.connect["user"]: parts.database.connect["password"]}
    with running_pgbouncer(parts.database, "transaction", users, pool_size=16) as pooler:
        environ = {**parts.database.environ, "PSQL_HOST": "127.0.0.1", "PSQL_PORT": str(pooler.port)}
        with hook_server({**environ, "PSQL_PREPARED_STATEMENTS": "false"}) as server:
            yield server
