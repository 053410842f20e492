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
    "serve": ("serve Metacontroller's hooks", "serve"),
    "demo": ("walk through a row's life cycle on a temporary server and database", "demo"),
    "sync": ("call the sync hook with manifests, as Metacontroller would (for development)", "client"),
    "finalize": ("call the finalize hook with manifests (for development)", "client"),
    "audit": ("compare the resources with the rows, and repair or prune on demand", "audit"),
}
"""What the program's help says of each command, and the module that does it."""


class NotDone(PostgresWriterError):
    """What was asked for was not done, though nothing is wrong with how it was asked for: exit code 1."""


def in_columns(cells: Iterable[str], widths: Iterable[int]) -> str:
    """Return a line with the cells in columns three blanks apart, like kubectl's."""
    return "   ".join(map(str.ljust, cells, widths)).rstrip() + "\n"


class Command(click.Command):
    """A command whose epilog, with its examples and exit codes, is printed as it is written."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the epilog without wrapping it."""
        if self.epilog:
            formatter.write(f"\n{self.epilog.rstrip()}\n")


class Commands(Command, click.Group):
    """The program: it knows the names and summaries of its commands, and imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of the command and return it."""
        if cmd_name not in COMMANDS:
            return None
        _, module = COMMANDS[cmd_name]
        found = importlib.import_module(f"postgres_writer.cli.{module}")
        command: click.Command = getattr(found, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the summaries, for which click would import every command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (summary, _) in COMMANDS.items()])


program = Commands(
    PROGRAM,
    # click hands them on to the commands
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    help="Keep exactly one PostgreSQL row per PostgresWriter resource.",
    epilog=EPILOG,
)
click.version_option(__version__, message=f"{PROGRAM} %(version)s")(program)
