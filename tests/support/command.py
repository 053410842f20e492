"""The command line, run in the test's own process; and make."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess

from click.testing import CliRunner

from postgres_writer.cli.main import main
from support.documents import ROOT


def run_here(*arguments: str, given: str = "", environ: Mapping[str, str] | None = None) -> CompletedProcess[str]:
    """Run a command as the program does, with text on its standard input and more variables.

    To start Python and import everything takes longer than most commands do. What is about the process itself
    (signals, memory, terminals, logs, how it ends) needs one of its own.
    """
    level = logging.root.level
    with CliRunner().isolation(given, environ) as (printed, complained, _):
        code = main(list(arguments))
        sys.stderr.flush()
    logging.root.setLevel(level)  # a command sets its own, which later tests would have, too
    return CompletedProcess(arguments, code, printed.getvalue().decode(), complained.getvalue().decode())


def make_command(*arguments: str) -> list[str]:
    """Return the command of make that uses the programs of this interpreter's folder and installs nothing."""
    installed = [word for stamp in (".installed", ".dev") for word in ("-o", f".venv/{stamp}")]
    return ["make", "--no-print-directory", *installed, f"BIN={Path(sys.executable).parent}", *arguments]


def make(*arguments: str, environ: Mapping[str, str] | None = None) -> CompletedProcess[str]:
    """Run make in the checkout, with more variables; what a make around this test was given does not count."""
    return subprocess.run(
        make_command(*arguments),
        cwd=ROOT,
        env=without_make({**os.environ, **(environ or {})}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def without_make(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what another make passes on."""
    passed_on = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "OVERLAY", "CONTROLLER", "VERSIONS"}
    return {name: value for name, value in environ.items() if name not in passed_on}
