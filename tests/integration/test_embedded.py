"""`serve --embedded`: a PostgreSQL that keeps its data and stops with the server."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from postgres_writer.cli.embedded import embedded_database
from postgres_writer.errors import ConfigError
from support.payloads import payload, resource
from support.server import ServerProcess
from support.waiting import is_running, wait_until

SYNC = payload(resource())


@pytest.fixture
def data() -> Iterator[Path]:
    """Make a data folder.

    Not in pytest's own: every run of pytest that starts takes it away from other users, and started by root
    PostgreSQL runs as one of them.
    """
    folder = Path(tempfile.mkdtemp(prefix="pgw-"))
    yield folder / "data"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def embedded(data: Path) -> Iterator[ServerProcess]:
    """Run a server with an embedded database."""
    server = ServerProcess({"LOG_FORMAT": "text"}, ("--embedded", "--data-dir", str(data)))
    yield server
    if server.process is not None:
        server.stop()


def postmaster(data: Path) -> int | None:
    """Return the pid of the PostgreSQL that runs in the data folder."""
    try:
        first = (data / "postgresql" / "postmaster.pid").read_text().split()[0]
    except (FileNotFoundError, IndexError):
        return None
    # initdb's own short-lived server writes a negative number
    return int(first) if int(first) > 0 else None


def wait_until_gone(pid: int) -> None:
    """Wait until a process has ended."""
    wait_until(lambda: not is_running(pid), f"process {pid} is gone")


def test_the_data_stays_and_postgresql_stops_with_the_server_or_is_taken_over(
    embedded: ServerProcess, data: Path
) -> None:
    embedded.start()
    status = embedded.post("sync", SYNC).json()["status"]
    assert status["conditions"][0]["reason"] == "RowSynced"
    second = ServerProcess({}, embedded.arguments)
    second.start(wait=False)
    assert second.process is not None
    assert second.process.wait(60) == 2
    assert "in use by another server" in second.logs
    first = postmaster(data)
    assert first is not None
    assert embedded.stop(signal.SIGTERM) == 0
    wait_until_gone(first)
    assert postmaster(data) is None

    embedded.start()
    embedded.post("sync", payload(resource(status=status)))
    workers = embedded.workers()
    os.kill(embedded.pid, signal.SIGKILL)
    embedded.stop()
    for worker in workers:
        wait_until_gone(worker)
    left = postmaster(data)
    assert left is not None

    embedded.start()
    assert embedded.post("sync", payload(resource(status=status))).status_code == 200
    assert embedded.stop(signal.SIGINT) == 0
    wait_until_gone(left)
    assert postmaster(data) is None
    assert embedded.logs.count("operation=inserted") == 1
    stop_while_it_starts(embedded, data)


def stop_while_it_starts(embedded: ServerProcess, data: Path) -> None:
    """Check that nothing is left behind then either."""
    embedded.start(wait=False)
    wait_until(lambda: postmaster(data) is not None, "PostgreSQL starts", 120)
    pid = postmaster(data)
    assert pid is not None
    assert embedded.stop() == 0
    wait_until_gone(pid)


def test_a_data_folder_with_a_blank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without spaces"), embedded_database(tmp_path / "a b"):
        pass
