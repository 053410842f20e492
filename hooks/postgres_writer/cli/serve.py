"""`postgres-writer serve`: the hook server; `config-reference`: the variables it reads."""

import logging
import os
import signal
import sys
from pathlib import Path

import click

from postgres_writer.cli.commands import Command
from postgres_writer.cli.embedded import embedded_database, stop
from postgres_writer.config.settings import Config, help_text, markdown
from postgres_writer.errors import ConfigError
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
    environ = dict(os.environ)
    if not embedded:
        return _serve(Config.from_env(environ))
    if environ.get("PSQL_HOST"):
        raise ConfigError("PSQL_HOST is set and --embedded is given: use only one of them.")
    # everything else is checked before a database is started for it
    config = Config.from_env({**environ, "PSQL_HOST": "embedded"})
    logs.configure(config.log_level, config.log_format)

    from postgres_writer.server.files import check_files  # noqa: PLC0415 # spares `--help`

    check_files(config)
    with embedded_database(data_dir) as variables:
        return _serve(Config.from_env({**environ, **variables}))


def _serve(config: Config) -> int:
    logs.configure(config.log_level, config.log_format)
    for variable in ("HOOK_THREADS", "HOOK_WORKERS"):
        if os.environ.get(variable):
            logger.warning("%s is no longer used; remove it. Replicas and HOOK_CONNECTIONS add capacity.", variable)
    # gunicorn sets its own handlers once it has loaded the application; a signal before must clean up, too
    signal.signal(signal.SIGTERM, stop)
    master = os.getpid()
    from postgres_writer.database.store import Store  # noqa: PLC0415 # spares `--help`
    from postgres_writer.server.app import create_app  # noqa: PLC0415
    from postgres_writer.server.gunicorn_app import HookApplication  # noqa: PLC0415

    try:
        HookApplication(config, lambda: create_app(config, Store(config.database, config.connections))).run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if os.getpid() == master:
            return code
        # a worker: it must not unwind into the clean-up of its parent
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return 0


@click.command(
    cls=Command, epilog="example:\n  postgres-writer config-reference >configuration.md\n\nexit codes: 0 printed"
)
def config_reference() -> None:
    """Print every environment variable of the server, with default and meaning, as Markdown."""
    click.echo(markdown(), nl=False)
