"""`postgres-writer demo`: the whole story, on a terminal and off it, and nothing left behind."""

import html
import os
import pty
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

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
    kept = {name: value for name, value in scrubbed_environment(os.environ).items() if name != "NO_COLOR"}
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
    ended = subprocess.run([str(PROGRAM), "demo"], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\033" not in ended.stdout
    assert len(re.findall(r"^   ok ", ended.stdout, re.MULTILINE)) == 8
    assert ended.stdout.endswith("All 8 steps succeeded.\n")
    assert processes_of(folder) == []
    assert list(folder.iterdir()) == []
    drawn = "".join(html.unescape(" ".join(ElementTree.parse(PICTURE).getroot().itertext())).split())
    assert "".join(steps_of(ended.stdout).split()) in drawn, "run `make picture`"


def on_a_terminal(environ: dict[str, str]) -> str:
    """Run the demo on a pseudo-terminal and return what it printed."""
    master, slave = pty.openpty()
    with subprocess.Popen([str(PROGRAM), "demo"], env=environ, stdout=slave, stderr=slave, stdin=slave) as process:
        os.close(slave)
        printed = b""
        try:
            while chunk := os.read(master, 65536):
                printed += chunk
        except OSError:  # Linux says so when the other side is closed
            pass
        assert process.wait(30) == 0
    os.close(master)
    return printed.decode()


def test_it_is_coloured_on_a_terminal(folder: Path) -> None:
    assert "\033[32mAll 8 steps succeeded.\033[0m" in on_a_terminal(environment(folder))


def test_no_color_is_respected(folder: Path) -> None:
    assert "\033" not in on_a_terminal(environment(folder, NO_COLOR="1"))


def test_an_interrupted_demo_leaves_nothing(folder: Path) -> None:
    # A shell has its background jobs, a test run among them, ignore the signal, and so whatever they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen([str(PROGRAM), "demo"], env=environment(folder), stdout=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert processes_of(folder) == []
    assert list(folder.iterdir()) == []
