"""The command line, run in the test's own process."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from subprocess import CompletedProcess

from click.testing import CliRunner

from postgres_writer.cli.main import main


def run_here(*arguments: str, given: str = "", environ: Mapping[str, str] | None = None) -> CompletedProcess[str]:
    """Run a command as the program does, with text on its standard input and more variables.

    To start Python and import everything takes longer than most commands do. What is about the process itself
    (signals, memory, terminals, logs, how it ends) needs one of its own.
    """
    with CliRunner().isolation(given, environ) as (printed, complained, _):
        code = main(list(arguments))
        sys.stderr.flush()
    return CompletedProcess(arguments, code, printed.getvalue().decode(), complained.getvalue().decode())
