"""`postgres-writer demo`: the whole story, on a terminal and off it, and nothing left behind."""

import contextlib
import html
import os
import pty
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

import psutil
import pytest

from postgres_writer.cli import demo
from support.command import make_command, run_here, without_make
from support.documents import README, ROOT, code_blocks
from support.picture import PICTURE, steps_of
from support.postgres import scrubbed_environment
from support.server import PROGRAM


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder for everything temporary, with a path short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="pgw-", dir="/tmp") as name:
        yield Path(name)


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return an environment in which everything temporary lands in the folder."""
    kept = {name: value for name, value in scrubbed_environment(without_make(os.environ)).items() if name != "NO_COLOR"}
    return {**kept, "TMPDIR": str(folder), **more}


def processes_of(folder: Path) -> list[int]:
    """Return the processes whose command line names the folder."""
    found = psutil.process_iter(["cmdline", "status"])
    living = (process for process in found if process.info["status"] != psutil.STATUS_ZOMBIE)
    return [process.pid for process in living if any(str(folder) in part for part in process.info["cmdline"] or [])]


def test_every_step_holds_and_nothing_is_left(folder: Path) -> None:
    # nothing listens there
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), "http://127.0.0.1:1")
    environ = environment(folder, **proxies, PGOPTIONS="-c search_path=evil", PGHOSTADDR="192.0.2.1")
    command, _ = code_blocks(README, "Try it", "sh")[0].splitlines()
    program, *arguments = shlex.split(command, comments=True)
    assert program == "make"
    whole = make_command(*arguments)
    ended = subprocess.run(whole, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\033" not in ended.stdout
    assert len(re.findall(r"^   ok ", ended.stdout, re.MULTILINE)) == 10
    assert ended.stdout.endswith("All 10 steps succeeded.\n")
    assert processes_of(folder) == []
    assert list(folder.iterdir()) == []
    drawn = "".join(html.unescape(" ".join(ElementTree.parse(PICTURE).getroot().itertext())).split())
    assert "".join(steps_of(ended.stdout).split()) in drawn, "run `make docs`"


@contextlib.contextmanager
def on_a_terminal(environ: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[bytes]]]:
    """Run the demo on a pseudo-terminal; gives the process and the lines that it prints."""
    # A shell has its background jobs, a test run among them, ignore the signal, and so whatever they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen([str(PROGRAM), "demo"], env=environ, stdout=slave, stderr=slave, stdin=slave)
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(slave)
    with process, os.fdopen(master, "rb") as printed:
        yield process, lines_of(printed)


def lines_of(terminal: BinaryIO) -> Iterator[bytes]:
    with contextlib.suppress(OSError):  # Linux says so when the other side is closed
        yield from iter(terminal.readline, b"")


@pytest.mark.parametrize("at", [b"Starting ", b"\033[1m1. "], ids=["start", "step"])
def test_an_interrupted_demo_leaves_nothing_and_is_coloured_on_a_terminal(folder: Path, at: bytes) -> None:
    with on_a_terminal(environment(folder)) as (process, lines):
        assert next(line for line in lines if b"\033" in line or line.startswith(at)).startswith(at)
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        list(lines)
        assert process.wait(60) == 130
    assert processes_of(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_the_variables_for_colours_are_respected(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], coloured: bool
) -> None:
    """Without steps, which need a server: what is printed at the end has a colour, too."""
    monkeypatch.setattr(demo, "STEPS", ())
    monkeypatch.setattr(demo, "served", contextlib.nullcontext)
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_arguments: None)
    ended = run_here("demo", environ=variables)
    assert ended.returncode == 0
    assert ("\033[32m" in ended.stdout) is coloured
