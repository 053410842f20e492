"""The command line: finds the command, hands over to its module and turns its error into a line and a code."""

import os
import sys
from collections.abc import Sequence

from postgres_writer.cli.commands import PROGRAM, Command, build_parser
from postgres_writer.errors import PostgresWriterError

NOT_DONE = 1
USAGE_ERROR = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 done, 1 not, 2 wrong usage or configuration, 130 interrupted."""
    given = sys.argv[1:] if argv is None else argv
    arguments = build_parser(given[:1]).parse_args(given)
    command: Command = arguments.command
    try:
        code = int(command.load().run(arguments))
        sys.stdout.flush()
    except PostgresWriterError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # `| head` has read enough; the flush at exit must not complain of it either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_DONE
    return code
