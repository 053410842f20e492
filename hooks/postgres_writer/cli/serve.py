"""`postgres-writer serve`: the hook server."""

import logging
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from postgres_writer.cli.commands import Command
from postgres_writer.cli.embedded import embedded_database
from postgres_writer.config.settings import Config, help_text, ignore_libpq_variables
from postgres_writer.errors import ConfigError
from postgres_writer.server.files import check_files
from postgres_writer.telemetry import logs

logger = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  postgres-writer serve --embedded
      Try it with an embedded PostgreSQL.
  PSQL_HOST=db.example.com PSQL_PASSWORD_FILE=/run/secrets/password postgres-writer serve
      Serve an existing database.

exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed while running, 2 wrong arguments or configuration
"""


@click.command(cls=Command, epilog=f"{help_text()}\n{EXAMPLES}")
@click.option("--embedded", is_flag=True, help="Run an embedded PostgreSQL for evaluation, with a table students.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".postgres-writer"),
    metavar="DIR",
    help="Where the embedded PostgreSQL keeps its data.",
)
def serve(embedded: bool, data_dir: Path) -> int:
    """Serve Metacontroller's sync and finalize hooks. The configuration comes from the environment."""
    ignored = ignore_libpq_variables(os.environ)
    environ = dict(os.environ)
    if embedded and environ.get("PSQL_HOST"):
        raise ConfigError("PSQL_HOST is set and --embedded is given: use only one of them.")
    # everything that can be checked is checked before a database is started for it
    config = Config.from_env({**environ, "PSQL_HOST": "embedded"} if embedded else environ)
    check_files(config)
    listen(config.host, config.port).close()
    logs.configure(config.log_level, config.log_format)
    if ignored:
        logger.warning(ignored)
    for variable in ("HOOK_THREADS", "HOOK_WORKERS"):
        if environ.get(variable):
            logger.warning("%s is no longer used; remove it. Replicas and HOOK_CONNECTIONS add capacity.", variable)
    if not embedded:
        return _serve(environ)
    with embedded_database(data_dir) as variables:
        return _serve({**environ, **variables})


def listen(host: str, port: int) -> socket.socket:
    """Listen at the address; :: means all, IPv6 and IPv4. Raises ConfigError when that fails."""
    both = host == "::" and socket.has_dualstack_ipv6()
    # a kernel that was started with ipv6.disable=1 has no sockets for IPv6
    address = "0.0.0.0" if host == "::" and not both else host  # noqa: S104 # what the user asked for
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=2048, dualstack_ipv6=both)
    except OSError as exc:
        # behind the reason it names the address again
        reason = str(exc.strerror).partition(" (")[0]
        raise ConfigError(f"HOOK_HOST and HOOK_PORT: {host} port {port} cannot be listened on ({reason}).") from exc


def _serve(environ: Mapping[str, str]) -> int:
    config, master = Config.from_env(environ), os.getpid()
    from postgres_writer.database.databases import Databases  # noqa: PLC0415 # spares `--help`
    from postgres_writer.server.app import create_app  # noqa: PLC0415
    from postgres_writer.server.gunicorn_app import HookApplication  # noqa: PLC0415

    try:
        databases = Databases(config, environ)
        app, listener = create_app(config, databases), listen(config.host, config.port)
        HookApplication(config, listener, app, databases.log_states).run()
    except SystemExit as end:
        # gunicorn has further codes, of how its workers failed
        code = int(end.code not in {None, 0})
        if os.getpid() == master:
            return code
        # a worker: it must not unwind into the master's clean-up above
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return 0
