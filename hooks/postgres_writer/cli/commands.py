"""The table of commands, and the parser that is made from it.

A command is a line in COMMANDS and a module with `configure(parser)` and `run(arguments) -> exit code`. Only
the modules of the commands in use are imported.
"""

import argparse
import importlib
from collections.abc import Collection
from dataclasses import dataclass
from types import ModuleType

from postgres_writer import __version__

PROGRAM = "postgres-writer"

EPILOG = """\
`postgres-writer COMMAND --help` tells a command's arguments, with examples.

example:
  postgres-writer serve --embedded

exit codes: 0 done, 1 not done, 2 wrong arguments or configuration, 130 interrupted; each command's help says more
"""


@dataclass(frozen=True)
class Command:
    """A subcommand: its name, the line that the help shows, its module."""

    name: str
    summary: str
    module: str

    def load(self) -> ModuleType:
        """Import the module that does it."""
        return importlib.import_module(f"postgres_writer.{self.module}")


COMMANDS = (
    Command("serve", "serve Metacontroller's hooks", "cli.serve"),
    Command("demo", "show a row come, change, heal and go, on a server and database of its own", "cli.demo"),
    Command("sync", "call the sync hook with manifests, as Metacontroller would (for development)", "cli.client"),
    Command("finalize", "call the finalize hook with manifests (for development)", "cli.client"),
    Command("audit", "compare the resources with the rows, and repair or prune on demand", "audit.command"),
    Command("config-reference", "print the table of environment variables as Markdown", "config.reference"),
    Command("completion", "print what completes the commands and options in a shell", "cli.completion"),
)
NAMES = tuple(command.name for command in COMMANDS)


def build_parser(wanted: Collection[str] = NAMES) -> argparse.ArgumentParser:
    """Return the parser; only the commands that are wanted get their arguments."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Keep exactly one PostgreSQL row per PostgresWriter resource.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.summary)
        subparser.set_defaults(command=command)
        if command.name in wanted:
            command.load().configure(subparser)
    return parser
