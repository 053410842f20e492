"""The command line: finds the command and hands over to its module.

A command is a line in COMMANDS and a module with `configure(parser)` and `run(arguments) -> exit code`. Only
the module of the command in use is imported.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from postgres_writer import __version__
from postgres_writer.errors import PostgresWriterError

USAGE_ERROR = 2
INTERRUPTED = 130


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
    Command("serve", "serve Metacontroller's hooks", "serve"),
    Command("demo", "show a row come, change, heal and go, on a server and database of its own", "demo"),
    Command("sync", "call the sync hook with manifests, as Metacontroller would (for development)", "client"),
    Command("finalize", "call the finalize hook with manifests (for development)", "client"),
    Command("audit", "compare the resources with the rows, and repair or prune on demand", "audit"),
    Command("config-reference", "print the table of environment variables as Markdown", "reference"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 done, 1 not, 2 wrong usage or configuration, 130 interrupted."""
    arguments = build_parser(sys.argv[1:] if argv is None else argv).parse_args(argv)
    command: Command = arguments.command
    try:
        return int(command.load().run(arguments))
    except PostgresWriterError as error:
        sys.stderr.write(f"postgres-writer: {error}\n")
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser; only the command that argv names gets its arguments."""
    parser = argparse.ArgumentParser(
        prog="postgres-writer",
        description="Keep exactly one PostgreSQL row per PostgresWriter resource.",
        epilog="`postgres-writer COMMAND --help` tells a command's arguments, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    named = next((argument for argument in argv if not argument.startswith("-")), None)
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.summary)
        subparser.set_defaults(command=command)
        if command.name == named:
            command.load().configure(subparser)
    return parser
