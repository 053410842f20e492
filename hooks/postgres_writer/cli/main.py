"""The program: runs a command and turns whatever ends it into a sentence and an exit code, for all of them.

It imports next to nothing before `_prepare` has run: a signal or a closed stream is the program's to handle from then
on, and gevent wants to be first.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

NOT_DONE, WRONG, INTERRUPTED = 1, 2, 130


class _Output(io.FileIO):
    """Standard output that remembers what kept it from being written, wherever that error went."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write what the operating system takes; raises OSError when it takes nothing."""
        try:
            written: int | None = super().write(data)
            if written is None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        except OSError as exc:
            self.failure = exc
            raise
        return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    0 done, 1 not done (or its output cannot be written), 2 wrong usage or configuration, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        _prepare(serving=arguments[:1] == ["serve"])
    # click puts others in their place when the reader has gone
    stdout, stderr = sys.stdout, sys.stderr
    for stream in (stdout, stderr):
        if isinstance(stream, io.TextIOWrapper):
            # whatever the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        code, said = _run(arguments)
    except KeyboardInterrupt:
        code, said = INTERRUPTED, "\n"
    sys.stdout, sys.stderr = stdout, stderr
    # here, where it can be handled: a flush that fails at exit prints a traceback and exits with 120
    with contextlib.suppress(OSError):
        stdout.flush()
    failure = getattr(getattr(stdout.buffer, "raw", None), "failure", None)
    if failure is not None:
        # `| head` has read enough
        quiet = isinstance(failure, BrokenPipeError)
        code, said = NOT_DONE, "" if quiet else _sentence(f"The output cannot be written ({failure.strerror}).")
        _discard(stdout)
    try:
        stderr.write(said)
        stderr.flush()
    except OSError:
        _discard(stderr)
    return code


def _run(arguments: list[str]) -> tuple[int, str]:
    """Run the command; returns the exit code and what is to be said on standard error."""
    import click  # noqa: PLC0415

    from postgres_writer.cli.commands import PROGRAM, NotDone, program  # noqa: PLC0415
    from postgres_writer.errors import PostgresWriterError  # noqa: PLC0415

    try:
        # in standalone mode click would end the process itself, and drop the code that the command returns
        return int(program.main(arguments, prog_name=PROGRAM, standalone_mode=False) or 0), ""
    except SystemExit as exc:
        # click's way out when a shell asks for its completion, or when the reader has gone
        return (exc.code if isinstance(exc.code, int) else NOT_DONE), ""
    except click.Abort:
        return INTERRUPTED, ""
    except click.ClickException as exc:
        shown = io.StringIO()
        exc.show(shown)
        return WRONG, shown.getvalue()
    except PostgresWriterError as exc:
        return (NOT_DONE if isinstance(exc, NotDone) else WRONG), _sentence(str(exc))
    except Exception as exc:  # whatever it is, nothing ends in a traceback
        return _unforeseen(exc, arguments)


def _unforeseen(exc: Exception, arguments: list[str]) -> tuple[int, str]:
    """Return the exit code and the sentence for an error that no command foresees."""
    # of the audit 1 says that there are findings
    failed = WRONG if arguments[:1] == ["audit"] else NOT_DONE
    if not isinstance(exc, OSError):
        place = traceback.extract_tb(exc.__traceback__)[-1]
        where = f"{type(exc).__name__} in line {place.lineno} of {Path(place.filename).name}"
        return failed, _sentence(f"It failed ({where}); if the input is sound, please report this as a defect.")
    if isinstance(exc.__context__, KeyboardInterrupt):
        return INTERRUPTED, ""
    about = "" if exc.filename is None else f": {os.fsdecode(exc.filename)}"
    return failed, _sentence(f"The operating system refuses it ({exc.strerror or type(exc).__name__}){about}.")


def _sentence(text: str) -> str:
    """Return what standard error shows of a message, without anything that controls a terminal."""
    from postgres_writer.telemetry.logs import printable  # noqa: PLC0415

    return "\n".join(map(printable, f"postgres-writer: {text}\n".split("\n")))


def _discard(stream: TextIO) -> None:
    """Let what cannot be written go to nowhere, so that the flush at exit succeeds."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _prepare(*, serving: bool) -> None:
    """Prepare this process: what signals do, its standard streams, and, where it is going to serve, its threads."""
    if serving:
        # Nothing has to be cleaned up yet, and what a handler raises is swallowed by some imports.
        for stop in (signal.SIGTERM, signal.SIGINT):
            signal.signal(stop, lambda *_: os._exit(0))
    # A closed stream is None, and the next file that is opened gets its number: reading or writing must fail instead.
    modes = (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY))
    for number, (name, mode, opposite) in enumerate(modes):
        if getattr(sys, name) is None:
            os.set_inheritable(os.open(os.devnull, opposite), True)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 # it stays open
    buffer = io.BufferedWriter(_Output(1, "w", closefd=False))
    sys.stdout = io.TextIOWrapper(buffer, sys.stdout.encoding, line_buffering=sys.stdout.isatty())
    if serving:
        # Let threads be greenlets in this process, before anything is imported that makes a lock or a thread-local: all
        # greenlets would share it, and one that waits for such a lock would stop them all.
        from gevent import monkey  # noqa: PLC0415 # the other commands have no use for it

        monkey.patch_all()
    import logging  # noqa: PLC0415 # it makes a lock

    # a log that cannot be written is no reason for a traceback
    logging.raiseExceptions = False
