"""Credentials are replaced under load, and no hook call fails."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from faults.load import steady_load
from faults.site import Site
from postgres_writer.server.files import CHECK_SECONDS
from support.certificates import make_certificate
from support.payloads import payload, resource
from support.postgres import Database
from support.server import ServerProcess, running_server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEN = CHECK_SECONDS + 0.5
"""After this time a changed file is in use."""


def replace(path: Path, text: str) -> None:
    """Replace a file as the kubelet does: by a rename, so that no reader sees half of it."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(path)


def connections(database: Database) -> list[int]:
    found = database.query("SELECT pid FROM pg_stat_activity WHERE usename = 'hook' ORDER BY pid")
    return [pid for (pid,) in found]


def test_the_password_of_the_database(site: Site, tmp_path: Path) -> None:
    database, file = site.database, tmp_path / "password"
    file.write_text("hook")
    connect = {name: value for name, value in site.instance.connect.items() if name != "password"}
    before = set(connections(database))
    try:
        with (
            running_server(Database({**connect, "user": "hook"}), PSQL_PASSWORD_FILE=str(file)) as server,
            steady_load(server.url) as load,
        ):
            load.wait_for(50)
            replace(file, "hook\nrotated\n")
            database.query("ALTER ROLE hook PASSWORD 'rotated'")
            old = set(connections(database)) - before
            assert old
            # now every connection is a new one, and only the new password is valid
            for pid in old:
                database.query("SELECT pg_terminate_backend(%s)", pid)
            load.wait_for(200)
            assert not old & set(connections(database))
            replace(file, "rotated")
            for pid in set(connections(database)) - before:
                database.query("SELECT pg_terminate_backend(%s)", pid)
            load.wait_for(200)
            assert "rotated" not in server.logs
        assert not load.failures, load.answers
    finally:
        database.query("ALTER ROLE hook PASSWORD 'hook'")


def test_the_tokens_with_an_overlap_of_old_and_new(database: Database, tmp_path: Path) -> None:
    file, shown = tmp_path / "tokens", ["old-token"]
    file.write_text("old-token\n")
    with (
        running_server(database, HOOK_TOKENS_FILE=str(file)) as server,
        steady_load(server.url, token=lambda: shown[0]) as load,
    ):
        replace(file, "# the new one comes\nold-token\nnew-token\n")
        time.sleep(SEEN)
        shown[0] = "new-token"
        load.wait_for(100)
        replace(file, "new-token\n")
        time.sleep(SEEN)
        load.wait_for(100)
        assert not load.failures, load.answers
        old = server.post("sync", payload(resource()), headers={"Authorization": "Bearer old-token"})
        assert old.status_code == 401, "the old one is of no use any more"
        for secret in ("old-token", "new-token"):
            assert secret not in server.logs


def test_a_token_file_that_is_emptied_by_mistake_leaves_the_last_tokens_in_force(
    database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    file.write_text("the-token\n")
    with (
        running_server(database, HOOK_TOKENS_FILE=str(file)) as server,
        steady_load(server.url, token=lambda: "the-token") as load,
    ):
        replace(file, "")
        time.sleep(SEEN)
        load.wait_for(50)
        assert not load.failures, load.answers
        assert server.post("sync", payload(resource())).status_code == 401, "it does not open the door either"
        assert "contains no token" in server.logs


@pytest.fixture
def tls(database: Database, tmp_path: Path) -> Iterator[tuple[ServerProcess, Path]]:
    """Run a server with TLS; the file that clients trust comes with it."""
    made = make_certificate(tmp_path)
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(made.certificate.read_text())
    with serving(ServerProcess({**database.environ, **made.environ}, scheme="https", verify=str(trusted))) as server:
        yield server, trusted


def test_the_certificate_of_the_server(tls: tuple[ServerProcess, Path], tmp_path: Path) -> None:
    server, trusted = tls
    first = ssl.get_server_certificate(("127.0.0.1", server.port))
    with steady_load(server.url, verify=trusted, connection_calls=5) as load:
        (tmp_path / "next").mkdir()
        following = make_certificate(tmp_path / "next")
        # clients trust the new one first, as the caBundle of the controller must
        with trusted.open("a") as bundle:
            bundle.write(following.certificate.read_text())
        load.wait_for(100)
        # certificate and key are two files: for a moment they do not match
        following.certificate.replace(tmp_path / "server.crt")
        load.wait_for(100)
        time.sleep(SEEN)
        following.key.replace(tmp_path / "server.key")
        time.sleep(SEEN)
        load.wait_for(200)
    assert not load.failures, load.answers
    assert ssl.get_server_certificate(("127.0.0.1", server.port)) != first
    server.session.close()
    only_new = tmp_path / "only-new.pem"
    only_new.write_text((tmp_path / "server.crt").read_text())
    assert requests.get(f"{server.url}/healthz", verify=str(only_new), timeout=60).status_code == 200
