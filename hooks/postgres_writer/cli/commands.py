"""The commands: the group that finds them, and what their helps have in common.

A command is a line in COMMANDS and a `Command` of the same name in its module. Only the module of the command in use is
imported, so that `--help` does not wait for Flask, requests and psycopg2.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable

import click

from postgres_writer import __version__
from postgres_writer.errors import PostgresWriterError

PROGRAM = "postgres-writer"
EPILOG = """\
`postgres-writer COMMAND --help` lists a command's arguments, with examples.

example:
  postgres-writer serve --embedded

completion in bash 4.4 or newer, for zsh and fish with zsh_source and fish_source:
  eval "$(_POSTGRES_WRITER_COMPLETE=bash_source postgres-writer)"

exit codes: 0 done, 1 not done or output that cannot be written, 2 wrong arguments or configuration, 130 interrupted;
each command's help says more
"""

COMMANDS = {
    "serve": "serve",
    "demo": "demo",
    "check": "check",
    "sync": "client",
    "finalize": "client",
    "audit": "audit",
}
"""The commands in the order of the help, each with the module that does it."""


class NotDone(PostgresWriterError):
    """What was asked for was not done, though nothing is wrong with how it was asked for: exit code 1."""


def in_columns(cells: Iterable[str], widths: Iterable[int]) -> str:
    """Return a line with the cells in columns three blanks apart, like kubectl's."""
    return "   ".join(map(str.ljust, cells, widths)).rstrip() + "\n"


class Command(click.Command):
    """A command whose epilog, with its examples and exit codes, is printed as it is written."""

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the first sentence of the help, whole."""
        return super().get_short_help_str(max(limit, 120))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the epilog without wrapping it."""
        if self.epilog:
            formatter.write(f"\n{self.epilog.rstrip()}\n")


class Commands(Command, click.Group):
    """The program: it knows the names of its commands, and imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of the command and return it."""
        if cmd_name not in COMMANDS:
            return None
        found = importlib.import_module(f"postgres_writer.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(found, cmd_name)
        return command


program = Commands(
    PROGRAM,
    # click hands them on to the commands
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    help="Keep exactly one PostgreSQL row per PostgresWriter resource.",
    epilog=EPILOG,
)
click.version_option(__version__, message=f"{PROGRAM} %(version)s")(program)
