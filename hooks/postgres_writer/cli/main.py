"""The command line: finds the command, hands over to its module and turns its error into a line and a code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from postgres_writer import __version__
from postgres_writer.cli.commands import EPILOG, PROGRAM, Commands
from postgres_writer.errors import PostgresWriterError

NOT_DONE = 1
USAGE_ERROR = 2
INTERRUPTED = 130

program = Commands(
    PROGRAM,
    # click hands them on to the commands
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    help="Keep exactly one PostgreSQL row per PostgresWriter resource.",
    epilog=EPILOG,
)
click.version_option(__version__, message=f"{PROGRAM} %(version)s")(program)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 done, 1 not, 2 wrong usage or configuration, 130 interrupted."""
    if argv is None and sys.argv[1:2] == ["serve"]:
        patch()
    try:
        # in standalone mode click would end the process itself, and drop the code that the command returns
        code = int(program.main(argv, prog_name=PROGRAM, standalone_mode=False) or 0)
        # here, where a closed pipe can be handled; the flush at exit would print an error
        sys.stdout.flush()
    except click.ClickException as exc:
        exc.show()
        return USAGE_ERROR
    except PostgresWriterError as exc:
        sys.stderr.write(f"{PROGRAM}: {exc}\n")
        return USAGE_ERROR
    except click.Abort:
        return INTERRUPTED
    except BrokenPipeError:
        # `| head` has read enough; the flush at exit must not complain of it either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_DONE
    return code


def patch() -> None:
    """Let threads be greenlets in this process, which is going to serve.

    Before anything is imported that makes a lock or a thread-local: all greenlets would share it, and one that waits
    for such a lock would stop them all.
    """
    from gevent import monkey  # noqa: PLC0415 # the other commands have no use for it

    monkey.patch_all()
