"""What docs/install.md shows of a server on one's own machine is what is seen."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
import requests

from support.command import make_command, without_make
from support.documents import ROOT, as_shown, guide, transcript
from support.ports import free_port
from support.postgres import Database, scrubbed_environment
from support.server import PROGRAM
from support.waiting import wait_until

SECTION = "Try it on your own machine"


@pytest.fixture
def address(database: Database) -> Iterator[str]:
    """Run the command of the page that serves the hooks, on another port than 8080, and give its address."""
    serve, *_ = guide(SECTION)
    port = free_port()
    environ = {**scrubbed_environment(without_make(os.environ)), **database.environ, "HOOK_PORT": str(port)}
    program, *arguments = serve.split()
    assert program == "make"
    process = subprocess.Popen(make_command(*arguments), cwd=ROOT, env=environ, start_new_session=True)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, "it has ended"
        try:
            return requests.get(f"{url}/readyz", timeout=60).ok
        except requests.ConnectionError:
            return False

    try:
        wait_until(answers, "the server to answer")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def test_the_commands_show_what_the_page_shows(address: str, database: Database) -> None:
    (shown,) = guide(SECTION, "console")
    rows = []
    for command, output in transcript(shown):
        program, *arguments = command.split()
        assert program == ".venv/bin/postgres-writer"
        whole = [str(PROGRAM), *arguments, "--url", address]
        done = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert as_shown(done.stdout) == as_shown(output)
        rows.append([row[0] for row in database.rows()])
    assert rows == [["default/sample-student"], []]
